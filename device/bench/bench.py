"""How fast a variant is, in a second or two: for the gate on a device and in the quantizer.

The whole benchmark, for people, is ``benchmark.py``.

One inference is what a caller sees: preprocessing, model and postprocessing together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec
import psutil

from asdic.contract.errors import ConfigError
from asdic.contract.messages import RuntimeFacts
from asdic.contract.target import target_named
from asdic.device.bench.frames import frames_for
from asdic.device.bench.preflight import is_emulated
from asdic.device.bench.statistics import (
    median_interval,
    median_ratio,
    percentile,
    percentile_or_none,
)
from asdic.device.runner.engine import usable_threads
from asdic.device.runner.golden import GoldenResult, Inputs, check_golden
from asdic.device.runner.runner import Runner

WINDOW: Final = 10
WARM_UP_WINDOWS: Final = 20
WARM_UP_SHARE: Final = 0.25
STABLE_WITHIN: Final = 0.05
SAMPLES_LIMIT: Final = 1_000_000
PAIRS_LIMIT: Final = 2_000


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured, and on what. Times in the units of their names.

    ``load_s`` is what opening took, digests and the runtime's import included (the first time in
    this process; the operating system may have had the file in memory). ``warm_up`` inferences
    were discarded. A percentile is None where there are too few samples to know it.
    ``memory_bytes`` is the most that this whole process ever had resident. ``emulated`` means
    that this machine's processor is not of the target's architecture, or is itself emulated:
    the times then say nothing about the target.
    """

    model: str
    target: str
    load_s: float
    first_ms: float
    warm_up: int
    samples: int
    p50_ms: float
    p50_interval_ms: tuple[float, float] | None
    p90_ms: float | None
    p99_ms: float | None
    throughput_per_s: float
    memory_bytes: int
    threads: int
    runtime: RuntimeFacts
    emulated: bool
    simulated: bool
    golden: GoldenResult | None = None


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two variants measured by turns: p50 of each, a's over b's, and the ratio's 95 % interval."""

    p50_a_ms: float
    p50_b_ms: float
    ratio: float
    low: float
    high: float
    pairs: int


def measure(
    runner: Runner, inputs: Inputs, *, seconds: float, threads: int | None = None
) -> BenchResult:
    """Return how fast ``runner`` predicts, after a warm-up.

    Args:
        runner: An open model that has not inferred yet, if the first inference is to be known.
        inputs: What is inferred again and again, as for ``Runner.predict``.
        seconds: How long to measure, warm-up not included; at least one window is measured.
        threads: How many the runner was opened with; None means all usable ones.

    Raises:
        DataError: The inputs do not fit the model.
        ConfigError: ``seconds`` is not positive.
    """
    if not seconds > 0:
        raise ConfigError(f"a benchmark takes a positive number of seconds, not {seconds}")
    first_ms = _timed_ms(runner, inputs)
    warm_up = _warm_up(runner, inputs, until=time.perf_counter() + seconds * WARM_UP_SHARE)
    started = time.perf_counter()
    samples = _samples(runner, inputs, until=started + seconds)
    elapsed_s = time.perf_counter() - started
    variant = runner.variant
    return BenchResult(
        model=variant.model if variant else "",
        target=variant.target if variant else "",
        load_s=runner.load_s,
        first_ms=first_ms,
        warm_up=warm_up,
        samples=len(samples),
        p50_ms=percentile(samples, 0.5),
        p50_interval_ms=median_interval(samples),
        p90_ms=percentile_or_none(samples, 0.9),
        p99_ms=percentile_or_none(samples, 0.99),
        throughput_per_s=len(samples) / elapsed_s,
        memory_bytes=peak_memory_bytes(),
        threads=usable_threads() if threads is None else threads,
        runtime=runner.facts(),
        emulated=is_emulated(target_named(variant.target).architecture if variant else None),
        simulated=runner.facts().simulated,
    )


def bench_folder(
    folder: Path,
    *,
    seconds: float = 10.0,
    threads: int | None = None,
    simulate: bool = False,
) -> BenchResult:
    """Open the variant in ``folder``, measure it, and check its golden set if it has one.

    Args:
        folder: A variant.
        seconds: How long to measure.
        threads: Processor threads for one inference; None takes all usable ones.
        simulate: Use the runtime that stands in for the target's.

    Raises:
        ConfigError: There is no variant, or it cannot run here.
        ReleaseError: The variant is damaged. A golden check that fails is part of the result.
    """
    with Runner.open(folder, simulate=simulate, threads=threads) as runner:
        result = measure(
            runner, frames_for(runner, folder).next_frame(), seconds=seconds, threads=threads
        )
        if runner.variant is None or runner.variant.golden is None:
            return result
        return msgspec.structs.replace(result, golden=check_golden(runner, folder))


def compare(
    open_a: Callable[[], Runner],
    open_b: Callable[[], Runner],
    inputs: Inputs,
    *,
    seconds: float,
    seed: int = 0,
) -> Comparison:
    """Return how much slower a is than b, measured by turns in the order a b b a.

    A machine's speed drifts; by turns both see the same drift, so the ratio is steadier than
    either time. Used for "INT8 to float": below 1 means that a is faster.

    Args:
        open_a: Opens the one, for instance the INT8 variant.
        open_b: Opens the other, for instance the float model.
        inputs: What both infer.
        seconds: How long to measure, both together, warm-up not included.
        seed: Of the bootstrap.
    """
    with closing(open_a()) as a, closing(open_b()) as b:
        for runner in (a, b):
            _warm_up(runner, inputs, until=time.perf_counter() + seconds * WARM_UP_SHARE)
        times_a, times_b = _by_turns(a, b, inputs, until=time.perf_counter() + seconds)
    ratio, low, high = median_ratio(times_a, times_b, seed)
    return Comparison(
        p50_a_ms=percentile(times_a, 0.5),
        p50_b_ms=percentile(times_b, 0.5),
        ratio=ratio,
        low=low,
        high=high,
        pairs=len(times_a),
    )


def peak_memory_bytes() -> int:
    """Return the most memory that this process ever had resident.

    Read from ``/proc``: ``getrusage`` also counts what the parent had before it started us.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        status = ""
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return int(psutil.Process().memory_info().rss)


def _timed_ms(runner: Runner, inputs: Inputs) -> float:
    started = time.perf_counter_ns()
    runner.predict(inputs)
    return (time.perf_counter_ns() - started) / 1e6


def _warm_up(runner: Runner, inputs: Inputs, *, until: float) -> int:
    """Infer until two windows in a row have nearly the same median; return how many it took."""
    previous = None
    for window in range(1, WARM_UP_WINDOWS + 1):
        median = percentile([_timed_ms(runner, inputs) for _ in range(WINDOW)], 0.5)
        stable = previous is not None and abs(median - previous) <= STABLE_WITHIN * previous
        if stable or time.perf_counter() >= until:
            return window * WINDOW
        previous = median
    return WARM_UP_WINDOWS * WINDOW


def _samples(runner: Runner, inputs: Inputs, *, until: float) -> list[float]:
    samples = [_timed_ms(runner, inputs) for _ in range(WINDOW)]
    while time.perf_counter() < until and len(samples) < SAMPLES_LIMIT:
        samples.append(_timed_ms(runner, inputs))
    return samples


def _by_turns(
    a: Runner, b: Runner, inputs: Inputs, *, until: float
) -> tuple[list[float], list[float]]:
    times_a: list[float] = []
    times_b: list[float] = []
    while len(times_a) < WINDOW or (time.perf_counter() < until and len(times_a) < PAIRS_LIMIT):
        times_a.append(_timed_ms(a, inputs))
        times_b.append(_timed_ms(b, inputs))
        times_b.append(_timed_ms(b, inputs))
        times_a.append(_timed_ms(a, inputs))
    return times_a, times_b
