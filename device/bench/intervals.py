"""Intervals for percentiles of samples that follow one another, with one definition.

Latencies are neighbours in time: a slow moment spans several of them, so n samples say less than n
independent ones would. Every interval here is by order statistics on the *effective* number of
samples. Nothing is assumed about the distribution.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.bench import Percentile
from asdic.contract.errors import DataError
from asdic.device.bench.statistics import CONFIDENCE, percentile, samples_needed

_TAIL: Final = (1.0 - CONFIDENCE) / 2
_BISECTIONS: Final = 60


def estimate(samples_ms: NDArray[np.float64], q: float) -> Percentile:
    """Return the percentile ``q`` of samples in the order of their measurement.

    Raises:
        DataError: There are no samples.
    """
    value = percentile(samples_ms, q)
    effective = effective_size(samples_ms <= value)
    ranks = _ranks(int(effective), q)
    enough = effective >= samples_needed(q)
    bounds = _at_ranks(samples_ms, ranks, int(effective)) if enough and ranks else None
    return Percentile(
        q=q,
        value_ms=value if enough else None,
        low_ms=bounds[0] if bounds else None,
        high_ms=bounds[1] if bounds else None,
        effective=effective,
        needed=math.ceil(samples_needed(q) * len(samples_ms) / effective),
        coverage=_coverage(int(effective), q, ranks) if bounds and ranks else None,
    )


def effective_size(values: NDArray[Any]) -> float:
    """Return how many independent samples ``values`` are worth: n over the autocorrelation time.

    The time is ``1 + 2 sum rho(k)``, summed by Geyer's initial monotone sequence (Practical
    Markov Chain Monte Carlo, Statistical Science 7:473, 1992, section 3.3). For a percentile,
    pass whether each sample exceeds it: that indicator is what its error depends on. The result
    is from 1 to n; samples that never differ count as independent.

    Raises:
        DataError: There are no values.
    """
    series = np.asarray(values, np.float64)
    count = series.size
    if count == 0:
        raise DataError("no samples were measured")
    centred = series - series.mean()
    if count < 4 or not centred.any():
        return float(count)
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.abs(np.fft.rfft(centred, size)) ** 2
    covariance = np.fft.irfft(spectrum, size)[:count]
    pairs = covariance[: count // 2 * 2].reshape(-1, 2).sum(axis=1) / covariance[0]
    ends = np.flatnonzero(pairs <= 0.0)
    kept = np.minimum.accumulate(pairs[: ends[0] if ends.size else None])
    time = 2.0 * float(kept.sum()) - 1.0
    return float(min(max(count / max(time, 1e-9), 1.0), count))


def proportion_bound(hits: int, count: int) -> float:
    """Return the upper 95 % bound of a share of which ``hits`` in ``count`` were seen.

    One-sided, exact (Clopper and Pearson, Biometrika 26:404, 1934); with no hits it is about
    3 / count.

    Raises:
        DataError: ``hits`` is not from 0 to ``count``, or ``count`` is 0.
    """
    _check_share(hits, count)
    return 1.0 if hits == count else _bisect(hits, count, 1.0 - CONFIDENCE)


def proportion_interval(hits: int, count: int) -> tuple[float, float]:
    """Return the exact two-sided 95 % interval of a share (Clopper and Pearson, 1934).

    Raises:
        DataError: ``hits`` is not from 0 to ``count``, or ``count`` is 0.
    """
    _check_share(hits, count)
    low = 0.0 if hits == 0 else _bisect(hits - 1, count, 1.0 - _TAIL)
    return low, 1.0 if hits == count else _bisect(hits, count, _TAIL)


def binomial_cdf(count: int, q: float) -> NDArray[np.float64]:
    """Return P(Binomial(count, q) <= k) for k from 0 to ``count``."""
    if q <= 0.0 or q >= 1.0:
        return np.ones(count + 1) if q <= 0.0 else np.append(np.zeros(count), 1.0)
    successes = np.arange(count + 1)
    factorials = _log_factorials(1 << max(count, 1).bit_length())
    logarithms = (
        factorials[count]
        - factorials[successes]
        - factorials[count - successes]
        + successes * math.log(q)
        + (count - successes) * math.log1p(-q)
    )
    below: NDArray[np.float64] = np.minimum(np.cumsum(np.exp(logarithms)), 1.0)
    return below


@lru_cache(maxsize=4_096)
def _ranks(count: int, q: float) -> tuple[int, int] | None:
    """Return the ranks, from 1, between which the percentile lies with 95 %, or None."""
    below = binomial_cdf(count, q)
    low = int(np.searchsorted(below, _TAIL, side="right"))
    high = int(np.searchsorted(below, 1.0 - _TAIL, side="left")) + 1
    return (low, high) if low >= 1 and high <= count else None


def _coverage(count: int, q: float, ranks: tuple[int, int]) -> float:
    below = binomial_cdf(count, q)
    return float(below[ranks[1] - 1] - below[ranks[0] - 1])


def _at_ranks(
    samples: NDArray[np.float64], ranks: tuple[int, int], effective: int
) -> tuple[float, float]:
    """Return the samples at the ranks that stand for those of ``effective`` independent ones.

    A rank is moved outwards where it falls between two samples.
    """
    ordered = np.sort(samples)
    stretch = (ordered.size + 1) / (effective + 1)
    low = max(math.floor(ranks[0] * stretch), 1)
    high = min(math.ceil(ranks[1] * stretch), ordered.size)
    return float(ordered[low - 1]), float(ordered[high - 1])


def _bisect(hits: int, count: int, wanted: float) -> float:
    """Return the share at which P(at most ``hits`` of ``count``) is ``wanted``."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_cdf(count, middle)[hits] > wanted else (low, middle)
    return high


def _check_share(hits: int, count: int) -> None:
    if not 0 <= hits <= count or count == 0:
        raise DataError(f"{hits} of {count} is no share")


@lru_cache(maxsize=4)
def _log_factorials(limit: int) -> NDArray[np.float64]:
    return np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, limit + 1)))))
