"""What the runner adds to the bare runtime, what a stream gains, and what a trial costs it.

::

    .venv/bin/python -m benchmarks.runner > docs/benchmarks/runner.md

Whatever is compared is measured by turns in one process. Without ``--variants`` it first makes
variants of a U-Net for 256 x 256 pixels (a minute).
"""

from __future__ import annotations

import argparse
import datetime
import gc
import os
import platform
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from asdic.contract.variant import Limits
from asdic.device.bench.intervals import estimate
from asdic.device.bench.statistics import median_ratio, percentile
from asdic.device.runner.preprocess import Preparation
from asdic.device.runner.processors import usable_threads
from asdic.device.runner.runner import Runner
from asdic.device.runner.stream import Keep, Predicted, TimedFrame
from asdic.device.update.gate import Trial
from benchmarks.bare import OPEN, predicting
from benchmarks.unet_variants import RUNTIMES, found_variants, make_variants

WARM_UP: Final = 10
MEMORY_FRAMES: Final = 200
STREAM_FRAMES: Final = 40
FPS: Final = 30.0
LIVE_S: Final = 5.0
CAMERA: Final = (480, 640)
LARGE: Final = (1080, 1920)


@dataclass(frozen=True)
class Ratio:
    """One comparison: both medians in ms, and their ratio with its 95 % interval."""

    ours_ms: float
    theirs_ms: float
    ratio: float
    low: float
    high: float
    pairs: int


def main() -> None:
    """Measure, and print the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.runner")
    parser.add_argument("--variants", type=Path, help="a folder with one variant a target")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each comparison")
    parser.add_argument("--rounds", type=int, default=6, help="of a stream, and of a trial")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.variants or Path(temporary)
        variants = found_variants(folder) if options.variants else make_variants(folder)
        for line in _page(variants, options):
            print(line, flush=True)


def _page(variants: Mapping[str, Path], options: argparse.Namespace) -> Iterator[str]:
    yield from ("# The runner", "", *_head(variants), "")
    yield from ("## Beside the bare runtime", "", *_ADDED_NOTE, "")
    yield "| runtime | call | bare p50, ms | asdic p50, ms | ratio | 95 % interval | pairs | aim |"
    yield "|---|---|---|---|---|---|---|---|"
    for target, folder in variants.items():
        yield from _added(target, folder, options.seconds)
    yield from ("", "## Memory", "", *_MEMORY_NOTE, "")
    yield "| runtime | call | more is held, bytes | a result holds, bytes |"
    yield "|---|---|---|---|"
    for target, folder in variants.items():
        yield from _held(target, folder)
    yield from ("", "## A stream", "", *_STREAM_NOTE, "")
    yield "| runtime | threads | preparing | loop, frames/s | stream, frames/s | gain | 95 % |"
    yield "|---|---|---|---|---|---|---|"
    for target, folder in variants.items():
        for threads in sorted({1, usable_threads()}):
            yield _gain(target, folder, threads, options.rounds)
    yield from ("", "## Beside a trial", "", *_TRIAL_NOTE, "")
    yield "| runtime | frames | p50, ms | p99, ms | 95 % of p99 |"
    yield "|---|---|---|---|---|"
    for target, folder in variants.items():
        yield from _beside(target, folder, options.rounds)


def _head(variants: Mapping[str, Path]) -> Iterator[str]:
    first = next(iter(variants.values()))
    with Runner.open(first, threads=1) as runner:
        shape = runner.inputs[0].shape
    load, cores = os.getloadavg()[0], usable_threads()
    yield f"    python -m benchmarks.runner {' '.join(sys.argv[1:])}".rstrip()
    yield ""
    yield f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}, {_processor()}, {cores} cores,"
    yield f"Linux {platform.release()}, Python {platform.python_version()}; a U-Net in INT8, input"
    yield f"{shape}. OpenCV has one thread."
    if load > cores / 2:
        yield f"**Others worked on the machine meanwhile (load {load:.1f} on {cores} cores):**"
        yield "ratios stand, because both sides were disturbed; times are upper bounds."


_ADDED_NOTE: Final = (
    "Both sides by turns in one process, one thread, a new frame each time. `infer` against the",
    "runtime's own call with the same settings; `predict` against `benchmarks/bare.py`, the",
    "shortest code with OpenCV and numpy. `predict` also checks the image, refuses NaN, and",
    "averages areas in double, so that x86 and ARM see the same pixels; the bare code does not.",
)
_MEMORY_NOTE: Final = (
    f"How much more `tracemalloc` sees held after {MEMORY_FRAMES} frames than after"
    f" {MEMORY_FRAMES // 10}",
    "(numpy's arrays are seen; what grows there are Python's own free lists, which have an end).",
    "`into` means `runner.infer(tensors, into=arrays)`: results in the caller's memory.",
)
_STREAM_NOTE: Final = (
    f"{STREAM_FRAMES} frames of {LARGE[1]} x {LARGE[0]} pixels in memory, none dropped: a loop of"
    " `predict`",
    "against `runner.stream`, by turns. The share is that of the preprocessing in the loop. The",
    "aim is 1.3 where that share is at least a quarter.",
)
_TRIAL_NOTE: Final = (
    f"A live runner at {FPS:.0f} frames a second with all threads, latency counted from when a"
    " frame was",
    "due: alone, and beside the gate's trial of a candidate, by turns. The aim is a p99 of 1.10",
    "times at most. `?`: too few independent samples for an interval of p99 (299 are needed).",
)


def _added(target: str, folder: Path, seconds: float) -> Iterator[str]:
    with _open(target, folder, threads=1) as runner:
        assert runner.variant is not None
        bare = OPEN[runner.variant.runtime](folder / runner.variant.files[0].name, 1)
        name, shape = runner.inputs[0].name, runner.inputs[0].shape
        random = np.random.default_rng(0)
        tensors = [random.random(shape, np.float32) for _ in range(4)]
        ratio = _by_turns(lambda x: runner.infer({name: x}), bare, tensors, seconds)
        yield _ratio_row(target, "infer", ratio, 1.03)
        by_hand = predicting(bare, shape)
        height, width = (side for side in shape if side > 1)
        for size in ((height, width), CAMERA):
            images = _images(size)
            ratio = _by_turns(runner.predict, by_hand, images, seconds)
            yield _ratio_row(target, f"predict, image {size[1]} x {size[0]}", ratio, 1.05)


def _ratio_row(target: str, call: str, found: Ratio, aim: float) -> str:
    return (
        f"| {RUNTIMES[target]} | {call} | {found.theirs_ms:.3f} | {found.ours_ms:.3f} | "
        f"{found.ratio:.3f} | {found.low:.3f} to {found.high:.3f} | {found.pairs} | {aim} |"
    )


def _by_turns(
    ours: Callable[[Any], object],
    theirs: Callable[[Any], object],
    inputs: list[Any],
    seconds: float,
) -> Ratio:
    """Time both on each input in turn; which one goes first alternates."""
    for number in range(WARM_UP):
        ours(inputs[number % len(inputs)])
        theirs(inputs[number % len(inputs)])
    times: tuple[list[float], list[float]] = ([], [])
    until = time.perf_counter() + seconds
    turn = 0
    while time.perf_counter() < until:
        item = inputs[turn % len(inputs)]
        for side in (0, 1) if turn % 2 else (1, 0):
            times[side].append(_timed_ms((ours, theirs)[side], item))
        turn += 1
    ratio, low, high = median_ratio(times[0], times[1], seed=0)
    return Ratio(percentile(times[0], 0.5), percentile(times[1], 0.5), ratio, low, high, turn)


def _timed_ms(work: Callable[[Any], object], item: Any) -> float:
    started = time.perf_counter_ns()
    work(item)
    return (time.perf_counter_ns() - started) / 1e6


def _held(target: str, folder: Path) -> Iterator[str]:
    with _open(target, folder, threads=1) as runner:
        image = _images(CAMERA)[0]
        tensors = {spec.name: np.zeros(spec.shape, np.float32) for spec in runner.inputs}
        into = {spec.name: np.empty(spec.shape, np.float32) for spec in runner.outputs}
        result = runner.predict(image)
        size = sum(a.nbytes for a in (*result.tensors.values(), *result.outputs.values()))
        for call, work, holds in (
            ("predict", lambda: runner.predict(image), size),
            ("infer, into", lambda: runner.infer(tensors, into=into), 0),
        ):
            yield f"| {RUNTIMES[target]} | {call} | {_growth(work):,} | {holds:,} |"


def _growth(work: Callable[[], object]) -> int:
    tracemalloc.start()
    held = []
    for frames in (MEMORY_FRAMES // 10, MEMORY_FRAMES - MEMORY_FRAMES // 10):
        for _ in range(frames):
            work()
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return held[1] - held[0]


def _gain(target: str, folder: Path, threads: int, rounds: int) -> str:
    images = [_images(LARGE)[number % 4] for number in range(STREAM_FRAMES)]
    with _open(target, folder, threads=threads) as runner:
        loop_s, stream_s = [], []
        for number in range(rounds + 1):
            both = _loop_s(runner, images), _stream_s(runner, images)
            if number:  # the first round warms up
                loop_s.append(both[0])
                stream_s.append(both[1])
        share = _preparing_s(runner, images) / percentile(loop_s, 0.5)
    ratio, low, high = median_ratio(loop_s, stream_s, seed=0)
    speeds = [STREAM_FRAMES / percentile(times, 0.5) for times in (loop_s, stream_s)]
    return (
        f"| {RUNTIMES[target]} | {threads} | {share:.0%} | {speeds[0]:.1f} | {speeds[1]:.1f} | "
        f"{ratio:.2f} | {low:.2f} to {high:.2f} |"
    )


def _loop_s(runner: Runner, images: list[NDArray[Any]]) -> float:
    started = time.perf_counter()
    for image in images:
        runner.predict(image)
    return time.perf_counter() - started


def _stream_s(runner: Runner, images: list[NDArray[Any]]) -> float:
    started = time.perf_counter()
    events = list(runner.stream([TimedFrame(image, started) for image in images], keep=Keep.ALL))
    assert all(isinstance(event, Predicted) for event in events)
    return time.perf_counter() - started


def _preparing_s(runner: Runner, images: list[NDArray[Any]]) -> float:
    preparation = Preparation(runner.preprocessing)
    name = runner.inputs[0].name
    started = time.perf_counter()
    for image in images:
        preparation.tensors({name: image})
    return time.perf_counter() - started


def _beside(target: str, folder: Path, rounds: int) -> Iterator[str]:
    alone: list[float] = []
    beside: list[float] = []
    image = _images(CAMERA)[0]
    with _open(target, folder, threads=None) as runner:
        _live_ms(runner, image, until=time.monotonic() + 1.0)
        for _ in range(rounds):
            alone += _live_ms(runner, image, until=time.monotonic() + LIVE_S)
            trial = Trial(
                folder,
                Limits(),
                baseline=folder,
                simulate=target.startswith("jetson"),
                bench_s=LIVE_S,
            )
            beside += _live_ms(runner, image, until=time.monotonic() + LIVE_S)
            trial.stop()
    found = [estimate(np.array(times), 0.99) for times in (alone, beside)]
    for what, times, one in zip(("alone", "beside"), (alone, beside), found, strict=True):
        interval = f"{_ms(one.low_ms)} to {_ms(one.high_ms)}"
        yield (
            f"| {RUNTIMES[target]}, {what} | {len(times)} | {percentile(times, 0.5):.1f} | "
            f"{percentile(times, 0.99):.1f} | {interval} |"
        )
    ratio = percentile(beside, 0.99) / percentile(alone, 0.99)
    yield f"| {RUNTIMES[target]}, ratio of p99 | | | {ratio:.2f} | |"


def _live_ms(runner: Runner, image: NDArray[Any], *, until: float) -> list[float]:
    """Infer at the frame rate and return the latencies from when each frame was due."""
    latencies: list[float] = []
    due = time.monotonic()
    while due < until:
        time.sleep(max(0.0, due - time.monotonic()))
        runner.predict(image)
        latencies.append((time.monotonic() - due) * 1e3)
        due += 1.0 / FPS
    return latencies


def _open(target: str, folder: Path, *, threads: int | None) -> Runner:
    return Runner.open(folder, simulate=target.startswith("jetson"), threads=threads)


def _images(size: tuple[int, int]) -> list[NDArray[Any]]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, size, np.uint8) for _ in range(4)]


def _ms(value: float | None) -> str:
    return "?" if value is None else f"{value:.1f}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
