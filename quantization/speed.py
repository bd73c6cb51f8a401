"""Is INT8 worth it? INT8 and float by turns, with one thread and with all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

import msgspec

from asdic.device.bench.bench import compare
from asdic.device.runner.engine import usable_threads
from asdic.device.runner.runner import Runner
from asdic.quantization.calibration import Case

SECONDS: Final = 2.0
"""For each number of threads, INT8 and float together."""

Open: TypeAlias = Callable[[int], Runner]
"""Opens a model for a number of threads."""


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    """Median times of one inference, preparation included, and INT8's over float's.

    Below 1 INT8 is faster. ``ratio_ci95`` is the ratio's 95 % interval: where it lies above 1
    altogether, INT8 is slower.
    """

    threads: int
    int8_ms_p50: float
    fp32_ms_p50: float
    ratio: float
    ratio_ci95: tuple[float, float]

    @property
    def is_slower(self) -> bool:
        """Whether INT8 is slower than float, beyond doubt."""
        return self.ratio_ci95[0] > 1.0


def measure_speed(
    open_int8: Open, open_fp32: Open, case: Case, *, seed: int = 0, seconds: float = SECONDS
) -> tuple[Speed, ...]:
    """Return how fast INT8 is beside float on this machine: with one thread, then with all.

    Args:
        open_int8: Opens the INT8 model.
        open_fp32: Opens its float twin on the same runtime.
        case: What both infer.
        seed: Of the bootstrap.
        seconds: How long to measure for each number of threads, warm-up not included.
    """
    speeds = []
    for threads in sorted({1, usable_threads()}):
        found = compare(
            partial(open_int8, threads),
            partial(open_fp32, threads),
            case.given,
            seconds=seconds,
            seed=seed,
        )
        speeds.append(
            Speed(
                threads=threads,
                int8_ms_p50=found.p50_a_ms,
                fp32_ms_p50=found.p50_b_ms,
                ratio=found.ratio,
                ratio_ci95=(found.low, found.high),
            )
        )
    return tuple(speeds)
