"""The few statistics that a latency figure needs, each with one definition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from asdic.contract.errors import DataError

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 1_000


def percentile(samples: ArrayLike, q: float) -> float:
    """Return the smallest sample that at least a share ``q`` (0 to 1) of all do not exceed.

    This is the nearest rank, numpy's ``inverted_cdf``: always a sample that was really measured.

    Raises:
        DataError: There are no samples.
    """
    values = np.asarray(samples, np.float64)
    if values.size == 0:
        raise DataError("no samples were measured")
    return float(np.quantile(values, q, method="inverted_cdf"))


def samples_needed(q: float) -> int:
    """Return how many samples it takes to speak of the percentile ``q`` at all.

    With n independent samples the largest one lies beyond the true percentile with probability
    ``1 - q^n``; this asks for 95 %: 29 for p90, 299 for p99, 2,995 for p99.9 (Wilks, Annals of
    Mathematical Statistics 12:91, 1941).
    """
    return math.ceil(math.log(1.0 - CONFIDENCE) / math.log(q))


def percentile_or_none(samples: Sequence[float] | NDArray[Any], q: float) -> float | None:
    """Return ``percentile``, or None where ``samples`` are too few to know it."""
    return percentile(samples, q) if len(samples) >= samples_needed(q) else None


def median_interval(samples: Sequence[float] | NDArray[Any]) -> tuple[float, float] | None:
    """Return an interval that holds the true median with 95 %, or None with under six samples.

    Both ends are samples: their ranks follow from the binomial distribution alone, whatever the
    samples' own distribution (David and Nagaraja, Order Statistics, 3rd ed., section 7.1).
    """
    rank = _lower_rank(len(samples))
    if rank == 0:
        return None
    ordered = np.sort(np.asarray(samples, np.float64))
    return float(ordered[rank - 1]), float(ordered[-rank])


def median_ratio(
    a: Sequence[float] | NDArray[Any], b: Sequence[float] | NDArray[Any], seed: int
) -> tuple[float, float, float]:
    """Return median(a) / median(b) with its 95 % bootstrap interval (ratio, low, high).

    Pairs are resampled together, so what disturbed both measurements of a pair cancels, and in
    runs of neighbours, because a machine's mood outlasts one measurement: moving blocks of
    sqrt(n) pairs (Kuensch, Annals of Statistics 17:1217, 1989), percentile interval.

    Args:
        a: One positive figure a pair, in the order of measurement.
        b: As many, of the same pairs.
        seed: Of the resampling.

    Raises:
        DataError: The pairs do not match, or there are none.
    """
    pairs = np.stack(_same_length(a, b))
    picks = _block_picks(pairs.shape[1], np.random.default_rng(seed))
    medians = np.median(pairs[:, picks], axis=2)
    ratios = medians[0] / medians[1]
    middle = np.median(pairs, axis=1)
    tail = (1.0 - CONFIDENCE) / 2
    low, high = percentile(ratios, tail), percentile(ratios, 1.0 - tail)
    return float(middle[0] / middle[1]), low, high


def _block_picks(count: int, random: np.random.Generator) -> NDArray[np.intp]:
    """Return RESAMPLES rows of ``count`` indices, drawn in blocks that wrap around the end."""
    length = math.isqrt(count)
    starts = random.integers(count, size=(RESAMPLES, math.ceil(count / length), 1))
    picks = (starts + np.arange(length)) % count
    return picks.reshape(RESAMPLES, -1)[:, :count]


def _same_length(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if first.ndim != 1 or first.shape != second.shape or first.size == 0:
        raise DataError(f"pairs are needed, not shapes {first.shape} and {second.shape}")
    return first, second


def _lower_rank(count: int) -> int:
    """Return the largest r with P(Binomial(n, 1/2) < r) <= 2.5 %; 0 where there is none."""
    # Eight standard deviations below the middle nothing adds up to a figure that counts.
    start = max(0, count // 2 - math.ceil(4 * math.sqrt(count)))
    below = 0.0
    for successes in range(start, count // 2 + 1):
        below += math.exp(
            math.lgamma(count + 1)
            - math.lgamma(successes + 1)
            - math.lgamma(count - successes + 1)
            - count * math.log(2)
        )
        if below > (1.0 - CONFIDENCE) / 2:
            return successes
    return 0
