"""The statistics of the verdict: did INT8 lose more than the limit, and how sure is that?

No I/O here. FP32 and INT8 answered the same samples, so all is computed from the paired
differences: the samples' own difficulty cancels out.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from asdic.contract.errors import DataError

RESAMPLES: Final = 10_000
MORE_SAMPLES_LIMIT: Final = 100_000
_AT_ONCE: Final = 1_000


class Verdict(str, Enum):
    """What the gate says. ``undecided``: the interval of the drop holds the limit."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    UNDECIDED = "undecided"
    FAIL = "fail"


class Drop(msgspec.Struct, frozen=True, kw_only=True):
    """A mean paired drop in points (positive: INT8 is worse), and its 95 % interval."""

    mean: float
    low: float
    high: float
    samples: int


def paired_drop(
    fp32: NDArray[np.floating[Any]], int8: NDArray[np.floating[Any]], *, seed: int = 0
) -> Drop:
    """Return the mean drop from ``fp32`` to ``int8``, both in points, one value a sample.

    The interval is the percentile bootstrap over samples (Efron and Tibshirani, An Introduction
    to the Bootstrap, 1993, chapter 13) with ``RESAMPLES`` resamples; same seed, same interval.

    Raises:
        DataError: There are no samples, or the two do not pair.
    """
    if fp32.shape != int8.shape or fp32.ndim != 1 or fp32.size == 0:
        raise DataError(f"cannot pair {fp32.shape} FP32 scores with {int8.shape} INT8 scores")
    differences = fp32.astype(np.float64) - int8
    low, high = np.quantile(_resampled_means(differences, seed), [0.025, 0.975])
    return Drop(
        mean=float(differences.mean()), low=float(low), high=float(high), samples=differences.size
    )


def verdict_of(drop: Drop, *, limit: float) -> Verdict:
    """Return the verdict: the whole interval must lie on one side of ``limit``.

    ``pass`` where even the upper bound is within the limit, ``fail`` where even the lower bound
    is beyond it.
    """
    if drop.high <= limit:
        return Verdict.PASS
    return Verdict.FAIL if drop.low > limit else Verdict.UNDECIDED


def more_samples_needed(drop: Drop, *, limit: float) -> int:
    """Return about how many samples more would decide, if the mean stays where it is.

    An interval shrinks with the square root of the samples. At most ``MORE_SAMPLES_LIMIT``.
    """
    verdict = verdict_of(drop, limit=limit)
    if verdict is not Verdict.UNDECIDED:
        return 0
    half_width = drop.high - drop.mean if drop.mean <= limit else drop.mean - drop.low
    distance = abs(limit - drop.mean)
    if distance <= half_width / math.sqrt(MORE_SAMPLES_LIMIT / drop.samples + 1):
        return MORE_SAMPLES_LIMIT
    return max(1, math.ceil(drop.samples * ((half_width / distance) ** 2 - 1)))


def describe_verdict(drop: Drop, *, limit: float, what: str = "the drop") -> str:
    """Return the verdict as a clause for a person; ``what`` names the loss that was measured."""
    verdict = verdict_of(drop, limit=limit)
    match verdict:
        case Verdict.PASS:
            return f"pass: {what} is at most {drop.high:.2f} points, {limit:g} are allowed"
        case Verdict.FAIL:
            return f"fail: {what} is at least {drop.low:.2f} points, {limit:g} are allowed"
        case Verdict.UNDECIDED:
            more = more_samples_needed(drop, limit=limit)
            about = f"more than {more}" if more >= MORE_SAMPLES_LIMIT else f"about {more}"
            return (
                f"undecided: {what} lies between {drop.low:.2f} and {drop.high:.2f} points, "
                f"{limit:g} are allowed; {about} more samples would decide"
            )
        case _:
            assert_never(verdict)


def _resampled_means(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Return the means of resamples of ``values``, a thousand at a time to bound the memory."""
    random = np.random.default_rng(seed)
    blocks = [
        values[random.integers(values.size, size=(_AT_ONCE, values.size))].mean(axis=1)
        for _ in range(RESAMPLES // _AT_ONCE)
    ]
    return np.concatenate(blocks)
