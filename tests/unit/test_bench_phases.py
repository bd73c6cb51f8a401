"""The phases under a clock that the test owns: what is measured is known to the nanosecond."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from asdic.contract.errors import ConfigError
from asdic.device.bench.frames import FramesEndedError, LiveFrames, RepeatedFrames
from asdic.device.bench.phases import (
    WINDOW,
    WINDOWS,
    BurstPhase,
    PacedPhase,
    Stage,
    SustainedPhase,
    is_steady,
    warm_up,
)
from asdic.device.bench.samples import SAMPLES_LIMIT, Series, unpack_ms
from asdic.device.bench.telemetry import Recorder
from tests.support.bench import TestClock, TimedModel, series_of

FRAME = np.zeros((2, 2), np.uint8)


def stage_with(latencies_ms: Iterable[float]) -> Stage:
    clock = TestClock()
    model = TimedModel(clock, latencies_ms)
    return Stage(
        infer=model.infer,
        frames=RepeatedFrames([FRAME]),
        clock=clock,
        recorder=Recorder((), clock),
    )


def jittered(middle_ms: float = 5.0) -> Iterator[float]:
    random = np.random.default_rng(1)
    while True:
        yield middle_ms * float(np.exp(0.01 * random.standard_normal()))


def test_warm_up_ends_when_the_latency_is_steady_and_counts_what_it_discards() -> None:
    falling = [50.0 - number / 3 for number in range(120)]
    found = warm_up(stage_with(itertools.chain(falling, jittered(10.0))), limit_s=60.0)
    assert found.steady
    assert found.discarded > 120
    assert found.discarded % WINDOW == 0


def test_warm_up_gives_up_after_its_time_and_says_so() -> None:
    found = warm_up(stage_with(itertools.cycle([1.0] * 10 + [2.0] * 10)), limit_s=1.0)
    assert not found.steady


@pytest.mark.parametrize(
    ("medians", "steady"),
    [
        ([5.0, 5.02, 4.99, 5.01, 5.0], True),
        ([5.0, 5.0, 5.0, 5.0, 5.0], True),
        ([5.0, 5.2, 5.0, 5.0, 5.0], False),
        ([5.04, 5.03, 5.02, 5.01, 5.0], False),
        ([5.0] * (WINDOWS - 1), False),
    ],
)
def test_steady_means_close_and_without_a_trend(medians: list[float], steady: bool) -> None:
    assert is_steady(medians) is steady


def test_a_burst_ends_as_soon_as_its_figures_are_certain() -> None:
    phase = BurstPhase(stage_with(jittered()), limit_s=600.0)
    phase.run()
    found = phase.result()
    assert found.enough
    assert len(phase.series) < 1_000
    assert found.latency.at(0.5).half_width <= 0.02
    assert found.latency.at(0.99).half_width <= 0.05


def test_a_burst_that_stays_uncertain_ends_with_its_time() -> None:
    wild = np.random.default_rng(2).lognormal(1.0, 2.0, 100_000)
    phase = BurstPhase(stage_with(wild), limit_s=5.0)
    phase.run()
    assert not phase.result().enough
    assert phase.result().seconds >= 5.0


def test_throughput_is_measured_and_is_not_a_thousand_over_the_median() -> None:
    phase = BurstPhase(stage_with(itertools.cycle([1.0, 1.0, 1.0, 97.0])), limit_s=100.0)
    phase.run()
    found = phase.result()
    assert found.latency.at(0.5).value_ms == 1.0
    assert found.throughput_per_s == pytest.approx(40.0, rel=0.05)


def test_a_paced_frame_is_timed_from_when_it_was_due() -> None:
    """One inference of 50 ms at 100 frames a second makes the four frames after it late too."""
    latencies = [2.0] * 50 + [50.0] + [2.0] * 49
    phase = PacedPhase(stage_with(latencies), fps=100.0, seconds=1.0)
    phase.run()
    found = phase.result()
    samples_ms = unpack_ms(found.latency.samples)
    assert samples_ms[50:57] == pytest.approx([50.0, 42.0, 34.0, 26.0, 18.0, 10.0, 2.0])
    assert found.frames == 100
    assert found.missed == 5
    assert found.unserved == 0
    assert found.miss_bound > 0.05


def test_no_miss_in_n_frames_still_has_an_upper_bound() -> None:
    phase = PacedPhase(stage_with(itertools.repeat(2.0)), fps=100.0, seconds=3.0)
    phase.run()
    assert phase.result().missed == 0
    assert phase.result().miss_bound == pytest.approx(1 - 0.05 ** (1 / 300))


def test_frames_that_never_got_their_turn_are_unserved() -> None:
    phase = PacedPhase(stage_with(itertools.repeat(40.0)), fps=50.0, seconds=2.0)
    phase.run()
    found = phase.result()
    assert found.frames == 100
    assert found.unserved == 50
    assert found.missed == 50
    assert found.miss_bound == 1.0


def test_a_deadline_of_its_own_decides_what_is_late() -> None:
    phase = PacedPhase(stage_with(itertools.repeat(2.0)), fps=100.0, seconds=1.0, deadline_ms=1.5)
    phase.run()
    assert phase.result().missed == 100


def test_a_frame_rate_is_positive() -> None:
    with pytest.raises(ConfigError, match="frame rate"):
        PacedPhase(stage_with([]), fps=0.0, seconds=1.0)


def test_a_machine_that_gets_slower_shows_in_the_sustained_ratio() -> None:
    latencies = itertools.chain(itertools.repeat(5.0, 36_000), itertools.repeat(7.0))
    phase = SustainedPhase(stage_with(latencies), seconds=360.0)
    phase.run()
    found = phase.result()
    assert found.window_s == 60.0
    assert found.ratio == pytest.approx(1.4, rel=1e-3)


def test_a_paced_sustained_run_compares_inferences_and_not_their_waiting() -> None:
    latencies = itertools.chain(itertools.repeat(5.0, 900), itertools.repeat(8.0))
    phase = PacedPhase(stage_with(latencies), fps=10.0, seconds=180.0)
    phase.run()
    assert phase.sustained().ratio == pytest.approx(1.6, rel=1e-3)


def test_a_full_series_keeps_every_second_sample_and_counts_them_all() -> None:
    series = Series()
    for number in range(3 * SAMPLES_LIMIT):
        series.append(1_000_000 + number)
    packed = series.pack()
    assert series.seen == 3 * SAMPLES_LIMIT
    assert packed.every == 4
    assert packed.count <= SAMPLES_LIMIT


def test_samples_come_back_within_a_thousandth() -> None:
    samples_ms = np.random.default_rng(3).lognormal(1.0, 1.0, 5_000)
    found = unpack_ms(series_of(samples_ms).pack())
    assert np.abs(found - samples_ms).max() <= np.median(samples_ms) / 1_000


def test_a_source_that_ends_stops_the_phase_and_keeps_its_samples() -> None:
    clock = TestClock()
    stage = Stage(
        infer=TimedModel(clock, jittered()).infer,
        frames=LiveFrames([FRAME] * 25),
        clock=clock,
        recorder=Recorder((), clock),
    )
    phase = SustainedPhase(stage, seconds=60.0)
    with pytest.raises(FramesEndedError, match="ended"):
        phase.run()
    assert phase.series.seen == 25
    assert phase.result().latency is not None
