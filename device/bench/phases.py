"""The phases that measure: warm-up, burst, paced, sustained.

A phase is made, run, and asked for its result; where a person or the frame source stops it in the
middle, ``run`` raises and ``result`` tells what was measured until then. Time and frames come from
outside, so the same code runs under a test's clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.bench import Burst, Latency, Paced, Sustained, WarmUp
from asdic.contract.errors import ConfigError
from asdic.device.bench.clock import Clock
from asdic.device.bench.frames import FrameSource
from asdic.device.bench.intervals import effective_size, estimate, proportion_bound
from asdic.device.bench.samples import SAMPLES_LIMIT, Series, unpack_ms
from asdic.device.bench.statistics import percentile
from asdic.device.bench.telemetry import Recorder
from asdic.device.runner.golden import Inputs

PERCENTILES: Final = (0.5, 0.9, 0.99, 0.999)
WINDOW: Final = 10
WINDOWS: Final = 5
STEADY_WITHIN: Final = 0.02
# Kendall's S of five values is 8 or more by chance in 4.2 % of all orders, each way.
TREND: Final = 8
P50_WITHIN: Final = 0.02
P99_WITHIN: Final = 0.05
FIRST_CHECK: Final = 400
NEXT_CHECK: Final = 1.25
SUSTAINED_WINDOW_S: Final = 60.0
# Sensors are read before a frame only where this much time is left until it is due.
LOOK_AHEAD_NS: Final = 10_000_000


@dataclass(frozen=True)
class Stage:
    """What every phase needs: the model, its frames, the clock, and who watches the machine."""

    infer: Callable[[Inputs], object]
    frames: FrameSource
    clock: Clock
    recorder: Recorder

    def time_ns(self, frame: Inputs) -> int:
        """Return what one inference takes."""
        started = self.clock.now_ns()
        self.infer(frame)
        return self.clock.now_ns() - started


def warm_up(stage: Stage, *, limit_s: float) -> WarmUp:
    """Infer until the latency is steady, or for ``limit_s``, and say how it ended."""
    end_ns = stage.clock.now_ns() + round(limit_s * 1e9)
    medians: list[float] = []
    while True:
        window = [stage.time_ns(stage.frames.next_frame()) for _ in range(WINDOW)]
        medians.append(percentile(window, 0.5))
        stage.recorder.look()
        steady = is_steady(medians[-WINDOWS:])
        if steady or stage.clock.now_ns() >= end_ns:
            return WarmUp(discarded=len(medians) * WINDOW, window=WINDOW, steady=steady)


def is_steady(medians: Sequence[float]) -> bool:
    """Return whether the last windows lie within 2 % of one another and show no trend."""
    if len(medians) < WINDOWS:
        return False
    values = np.asarray(medians, np.float64)
    later, earlier = np.triu_indices(values.size, 1)
    score = int(np.sign(values[later] - values[earlier]).sum())
    spread = float(np.ptp(values) / np.median(values))
    return spread <= STEADY_WITHIN and (spread == 0.0 or abs(score) < TREND)


class BurstPhase:
    """One inference after the other, until the intervals are narrow or the time is up."""

    def __init__(self, stage: Stage, *, limit_s: float) -> None:
        self.series = Series()
        self._stage = stage
        self._limit_ns = round(limit_s * 1e9)
        self._busy_ns = 0
        self._enough = False

    def run(self) -> None:
        """Measure."""
        stage, now_ns = self._stage, self._stage.clock.now_ns
        end_ns = now_ns() + self._limit_ns
        check = FIRST_CHECK
        while (begun_ns := now_ns()) < end_ns and len(self.series) < SAMPLES_LIMIT:
            self.series.append(stage.time_ns(stage.frames.next_frame()))
            self._busy_ns += now_ns() - begun_ns
            stage.recorder.look()
            if len(self.series) >= check:
                check = math.ceil(check * NEXT_CHECK)
                self._enough = is_enough(latency_of(self.series))
                if self._enough:
                    return

    def result(self) -> Burst:
        """Return what was measured."""
        seconds = self._busy_ns / 1e9
        return Burst(
            latency=latency_of(self.series),
            enough=self._enough,
            seconds=seconds,
            throughput_per_s=self.series.seen / seconds,
        )


class PacedPhase:
    """Frames at a steady rate, each timed from when it was due: an open loop.

    Timing from when a frame was *taken* would hide exactly the waits that hurt (Gil Tene's
    "coordinated omission").
    """

    def __init__(
        self, stage: Stage, *, fps: float, seconds: float, deadline_ms: float | None = None
    ) -> None:
        if not fps > 0:
            raise ConfigError(f"a frame rate is positive, not {fps}")
        self.series = Series()
        self.service = Series()
        self._stage = stage
        self._fps = fps
        self._frames = max(1, round(seconds * fps))
        self._end_s = seconds
        self._deadline_ns = round((deadline_ms or 1e3 / fps) * 1e6)
        self._missed = 0
        self._planned = 0

    def run(self) -> None:
        """Measure."""
        clock = self._stage.clock
        start_ns = clock.now_ns()
        end_ns = start_ns + round(self._end_s * 1e9)
        for number in range(self._frames):
            due_ns = start_ns + round(number * 1e9 / self._fps)
            self._planned = number + 1
            now_ns = clock.now_ns()
            if now_ns >= end_ns:
                # Whatever was due by now and did not get its turn.
                self._planned = self._frames
                return
            if due_ns - now_ns > LOOK_AHEAD_NS:
                self._stage.recorder.look()
            clock.sleep_until(due_ns)
            self._serve(due_ns)

    def result(self) -> Paced:
        """Return what was measured."""
        latency = latency_of(self.series)
        late = unpack_ms(latency.samples) > self._deadline_ns / 1e6
        unserved = self._planned - self.series.seen
        return Paced(
            fps=self._fps,
            deadline_ms=self._deadline_ns / 1e6,
            latency=latency,
            frames=self._planned,
            missed=self._missed,
            unserved=unserved,
            miss_bound=_miss_bound(self._missed + unserved, self._planned, late),
        )

    def sustained(self) -> Sustained:
        """Return whether inferences took longer at the end."""
        service = latency_of(self.service).samples
        at_s = np.arange(service.count) * service.every / self._fps
        return _sustained(unpack_ms(service), at_s, fps=self._fps, latency=None)

    def _serve(self, due_ns: int) -> None:
        frame = self._stage.frames.next_frame()
        self.service.append(self._stage.time_ns(frame))
        latency_ns = self._stage.clock.now_ns() - due_ns
        self.series.append(latency_ns)
        self._missed += latency_ns > self._deadline_ns


class SustainedPhase:
    """One inference after the other for a long time."""

    def __init__(self, stage: Stage, *, seconds: float) -> None:
        self.series = Series()
        self._stage = stage
        self._seconds = seconds

    def run(self) -> None:
        """Measure."""
        stage = self._stage
        end_ns = stage.clock.now_ns() + round(self._seconds * 1e9)
        while not self.series.seen or stage.clock.now_ns() < end_ns:
            self.series.append(stage.time_ns(stage.frames.next_frame()))
            stage.recorder.look()

    def result(self) -> Sustained:
        """Return what was measured."""
        latency = latency_of(self.series)
        samples_ms = unpack_ms(latency.samples)
        at_s = np.cumsum(samples_ms) * latency.samples.every / 1e3
        return _sustained(samples_ms, at_s, fps=None, latency=latency)


def latency_of(series: Series) -> Latency:
    """Return the percentiles of the samples as they are kept.

    Raises:
        DataError: There are none.
    """
    packed = series.pack()
    samples_ms = unpack_ms(packed)
    return Latency(percentiles=tuple(estimate(samples_ms, q) for q in PERCENTILES), samples=packed)


def is_enough(latency: Latency) -> bool:
    """Return whether p50 is known within 2 % and p99 within 5 %."""
    return latency.at(0.5).half_width <= P50_WITHIN and latency.at(0.99).half_width <= P99_WITHIN


def _miss_bound(misses: int, frames: int, late: NDArray[np.bool_]) -> float:
    """Return the upper bound of the share of misses; misses in a row count as less evidence."""
    weight = min(effective_size(late) / frames, 1.0)
    worth = max(int(frames * weight), 1)
    return proportion_bound(min(math.ceil(misses * worth / frames), worth), worth)


def _sustained(
    samples_ms: NDArray[np.float64],
    at_s: NDArray[np.float64],
    *,
    fps: float | None,
    latency: Latency | None,
) -> Sustained:
    seconds = float(at_s[-1])
    window_s = min(SUSTAINED_WINDOW_S, seconds / 3)
    first = percentile(samples_ms[at_s <= max(window_s, float(at_s[0]))], 0.5)
    last = percentile(samples_ms[at_s >= seconds - window_s], 0.5)
    return Sustained(
        seconds=seconds,
        fps=fps,
        window_s=window_s,
        first_ms=first,
        last_ms=last,
        ratio=last / first,
        latency=latency,
    )
