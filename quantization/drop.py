"""The drop from FP32 to INT8 with its interval, for whatever a metric makes of the samples.

FP32 and INT8 answered the same samples, so all is computed from pairs: the samples' own
difficulty cancels out. Three intervals, each where it holds (``benchmarks/gate_coverage.py``
measures how often each holds the true drop):

- samples that are right or wrong as a whole, as by top-1: Tango's score interval. A bootstrap
  cannot imagine the flips that it has not seen: with 1 % of the samples lost it held the truth
  in 29 of 100 sets of 32 samples, and an interval from 0 to 0 would have passed the other 71.
- points on a scale, as by Dice: the studentised bootstrap, which follows the skew of losses. The
  truth was above it in 5 of 100 sets of 32 skewed losses, above the percentile's in 14.
- metrics of a set: the bootstrap of the whole set, widened where a class is rare or the samples'
  influences are skewed.

None of them knows of a kind of failure that no sample showed; ``unseen_share`` says how frequent
that may be. (Bounds that do know are of no use: Hoeffding's lies 17 points to either side of the
drop with 256 samples.)

No I/O here; same seed, same interval.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Final, Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import DataError
from asdic.device.metrics import SET_METRICS
from asdic.device.ranking import Ranking

RESAMPLES: Final = 10_000
CONFIDENCE: Final = 0.95
_TAIL: Final = (1.0 - CONFIDENCE) / 2
_Z: Final = NormalDist().inv_cdf(1.0 - _TAIL)
_AT_ONCE_ELEMENTS: Final = 1 << 18
_BISECTIONS: Final = 50
_ROUNDING: Final = 1e-9

Chosen: TypeAlias = NDArray[np.intp] | None
"""Numbers of the samples that count; None for all."""


class Drop(msgspec.Struct, frozen=True, kw_only=True):
    """A paired drop in points (positive: INT8 is worse), and its 95 % interval.

    ``flips`` is set where samples are right or wrong as a whole and nothing between: how many
    INT8 lost, and how many it got right that FP32 had wrong.
    """

    mean: float
    low: float
    high: float
    samples: int
    flips: tuple[int, int] | None = None


class Pairing(Protocol):
    """FP32's and INT8's results on the same samples, from which any of them may be chosen."""

    @property
    def samples(self) -> int:
        """How many there are."""
        ...

    def values(self, chosen: Chosen = None) -> tuple[float, float]:
        """Return the metric of FP32 and of INT8, in points."""
        ...

    def drop(self, chosen: Chosen = None, *, seed: int = 0) -> Drop:
        """Return the drop from FP32 to INT8 with its interval."""
        ...

    def within_class(
        self, number: int, fp32: NDArray[np.float64], int8: NDArray[np.float64]
    ) -> Pairing:
        """Return the results in one class, whose samples have the points ``fp32`` and ``int8``."""
        ...


@dataclass(frozen=True, eq=False)
class PairedPoints:
    """A metric that is a mean: points of each sample, (n,), for FP32 and for INT8.

    ``may_flip`` says that a sample may be lost as a whole, from 100 points to 0, as one of the
    wrong class is. It is a property of the metric: samples that all kept their points do not
    show it.

    Raises:
        DataError: There are no samples, the two do not pair, or points are not numbers.
    """

    fp32: NDArray[np.floating[Any]]
    int8: NDArray[np.floating[Any]]
    may_flip: bool = False

    def __post_init__(self) -> None:
        if self.fp32.shape != self.int8.shape or self.fp32.ndim != 1 or self.fp32.size == 0:
            raise DataError(
                f"cannot pair {self.fp32.shape} FP32 scores with {self.int8.shape} INT8 scores"
            )
        if not (np.isfinite(self.fp32).all() and np.isfinite(self.int8).all()):
            raise DataError("a sample has points that are not a number")

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return int(self.fp32.size)

    def values(self, chosen: Chosen = None) -> tuple[float, float]:
        """Return the mean points of FP32 and of INT8."""
        return float(_of(self.fp32, chosen).mean()), float(_of(self.int8, chosen).mean())

    def drop(self, chosen: Chosen = None, *, seed: int = 0) -> Drop:
        """Return the mean drop with its interval.

        Where samples may flip, the interval is Tango's (``flips_interval``), also where none
        did: n equal answers do not prove that the next one is equal. Points that changed by less
        than a flip have the bootstrap's interval; where there are both, the two are added, which
        is on the safe side. On a scale, equal points leave nothing to resample, and the interval
        is the drop itself: as with any interval for a scale, a kind of failure that no sample
        showed is not in it (``unseen_share``), and a worse model must not look better.
        """
        differences = _of(self.fp32, chosen).astype(np.float64) - _of(self.int8, chosen)
        mean, count = float(differences.mean()), differences.size
        flipped = self.may_flip & (np.abs(differences) == 100.0)
        gradual = np.where(flipped, 0.0, differences)
        low, high, flips = 0.0, 0.0, None
        if self.may_flip:
            lost = int((flipped & (differences > 0)).sum())
            flips = lost, int(flipped.sum()) - lost
            low, high = flips_interval(*flips, count)
        if gradual.any():
            flips = None
            below, above = _mean_interval(gradual, seed)
            low, high = low + below, high + above
        return Drop(mean=mean, low=low, high=high, samples=count, flips=flips)

    def within_class(
        self, number: int, fp32: NDArray[np.float64], int8: NDArray[np.float64]
    ) -> PairedPoints:
        """Return the points of the class's samples, which are all that counts."""
        del number
        return replace(self, fp32=fp32, int8=int8)


@dataclass(frozen=True, kw_only=True, eq=False)
class PairedScores:
    """A metric of the set: the scores of classes, (n, C), for FP32 and for INT8.

    ``metric`` is one of ``SET_METRICS``; ``references`` as in ``Ranking.of``. ``only`` is the
    class that counts, against the rest; None for all.

    Raises:
        DataError: The two do not pair, or do not fit the references.
    """

    metric: str
    fp32: NDArray[np.floating[Any]]
    int8: NDArray[np.floating[Any]]
    references: NDArray[Any]
    only: int | None = None

    def __post_init__(self) -> None:
        if self.fp32.shape != self.int8.shape:
            raise DataError(f"cannot pair {self.fp32.shape} scores with {self.int8.shape}")

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return len(self.references)

    def values(self, chosen: Chosen = None) -> tuple[float, float]:
        """Return the metric of FP32 and of INT8; NaN where the samples do not define it."""
        measure = SET_METRICS[self.metric]
        fp32, int8 = self._rankings(chosen)
        return float(measure(fp32, None)[0]), float(measure(int8, None)[0])

    def drop(self, chosen: Chosen = None, *, seed: int = 0) -> Drop:
        """Return the drop of the metric with its interval.

        It is the wider of two, a side. One is the percentile bootstrap: FP32 and INT8 measured on
        the same resamples, widened as classes of that size ask for. The other follows
        the skew: the studentised bootstrap of the jackknife's pseudo-values (Efron and
        Tibshirani, 1993, section 11.5), by how much each sample pulls the drop.

        A class that a resample lacks is left out of both means; a resample that leaves nothing to
        measure is left out itself. Where every resample has the same drop (INT8 ranks all as FP32
        does), the interval is that of no flip among the samples of a class, each of which carries
        1/m of its class's metric. Classes of unlike size count by their harmonic mean.

        Raises:
            DataError: The metric is not defined on these samples.
        """
        count = len(_of(self.references, chosen))
        rankings = self._rankings(chosen)
        mean = float(self._drops(rankings, [np.ones((count, 1), np.float32)])[0])
        if math.isnan(mean):
            raise DataError(f"{self.metric} compares classes; {count} sample(s) have only one")
        drops = self._drops(rankings, _resamples(count, seed))
        drops = drops[~np.isnan(drops)]
        class_size = rankings[0].class_size
        if not drops.size or np.ptp(drops) < _ROUNDING:
            low, high = flips_interval(0, 0, class_size)
            return Drop(mean=mean, low=mean + low, high=mean + high, samples=count)
        low, high = _percentile_interval(drops, class_size)
        without = self._drops(rankings, _each_left_out(count))
        without = np.where(np.isnan(without), mean, without)
        below, above = _mean_interval((count - 1) * (without.mean() - without), seed)
        return Drop(
            mean=mean, low=min(low, mean + below), high=max(high, mean + above), samples=count
        )

    def _drops(
        self, rankings: tuple[Ranking, Ranking], weights: Iterable[NDArray[np.float32]]
    ) -> NDArray[np.float64]:
        """Return the drop of each resample; NaN where it does not define the metric."""
        measure = SET_METRICS[self.metric]
        fp32, int8 = rankings
        return np.concatenate([measure(fp32, one) - measure(int8, one) for one in weights])

    def within_class(
        self, number: int, fp32: NDArray[np.float64], int8: NDArray[np.float64]
    ) -> PairedScores:
        """Return the same samples, of which one class counts, against the rest."""
        del fp32, int8
        return replace(self, only=number)

    def _rankings(self, chosen: Chosen) -> tuple[Ranking, Ranking]:
        references = _of(self.references, chosen)
        fp32 = Ranking.of(_of(self.fp32, chosen), references, only=self.only)
        return fp32, Ranking.of(_of(self.int8, chosen), references, only=self.only)


def flips_interval(lost: float, gained: float, samples: float) -> tuple[float, float]:
    """Return the 95 % interval of ``100 (lost - gained) / samples``, in points.

    It is the score interval for the difference of two paired proportions (Tango, Statistics in
    Medicine 17:891, 1998): the differences that a score test does not reject. Unlike a bootstrap
    it holds what it promises with few flips. Without any it is ``100 z^2 / (n + z^2)`` to either
    side, near the rule of three (Hanley and Lippman-Hand, JAMA 249:1743, 1983): 10.7 points with
    32 samples, 1.5 with 256, 0.5 with 765.

    Args:
        lost: Samples that were right and are wrong; need not be whole.
        gained: Samples that were wrong and are right.
        samples: All samples, at least 1.
    """
    estimate = (lost - gained) / samples

    def bound(end: float) -> float:
        inside, outside = estimate, end
        for _ in range(_BISECTIONS):
            middle = (inside + outside) / 2
            kept = abs(_score(middle, lost, gained, samples)) <= _Z
            inside, outside = (middle, outside) if kept else (inside, middle)
        return 100.0 * inside

    return bound(-1.0), bound(1.0)


def unseen_share(samples: int) -> float:
    """Return the share, 0 to 1, of cases that may all fail though none of the samples did.

    With 95 % confidence: ``1 - 0.05^(1/n)``, about 3/n (Hanley and Lippman-Hand, 1983).
    """
    return 1.0 - float((1.0 - CONFIDENCE) ** (1.0 / samples))


def _score(difference: float, lost: float, gained: float, samples: float) -> float:
    """Return Tango's statistic: how many standard errors the data are away from ``difference``.

    The standard error is that of the likeliest share of gained samples, given the difference.
    """
    linear = -lost - gained + (2 * samples - lost + gained) * difference
    constant = -gained * difference * (1.0 - difference)
    root = math.sqrt(max(linear * linear - 8 * samples * constant, 0.0))
    likeliest = (root - linear) / (4 * samples)
    variance = samples * (2 * likeliest + difference * (1.0 - difference))
    distance = lost - gained - samples * difference
    if variance <= 0.0:
        return 0.0 if distance == 0.0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def _mean_interval(differences: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """Return the wider of the studentised and of the expanded percentile bootstrap, a side.

    Losses are skewed: most samples lose nothing and a few lose much. The studentised bootstrap
    (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 12.5) follows that, a
    percentile interval is too low at its upper end. But a resample without any of the few has no
    spread to divide by, and is left out of it.
    """
    count, mean = differences.size, float(differences.mean())
    centred = differences - mean
    means, spreads = [], []
    for weights in _resamples(count, seed):
        means.append((centred[:, None] * weights).sum(axis=0) / count)
        squares = (np.square(centred)[:, None] * weights).sum(axis=0) / count
        spreads.append(np.sqrt(np.maximum(squares - np.square(means[-1]), 0.0)))
    shift, spread = np.concatenate(means), np.concatenate(spreads)
    low, high = _percentile_interval(mean + shift, count)
    known = spread > _ROUNDING * np.abs(differences).max()
    if not known.any():  # all lost the same; rounding must not part the bounds from it
        return min(low, mean), max(high, mean)
    studentised = np.quantile(shift[known] / spread[known], [_TAIL, 1.0 - _TAIL])
    below, above = studentised * float(differences.std())
    return min(low, mean - float(above)), max(high, mean - float(below))


def _percentile_interval(resampled: NDArray[np.float64], samples: float) -> tuple[float, float]:
    """Return the expanded percentile interval of a resampled statistic.

    The percentiles are moved outwards as a t quantile with n - 1 degrees of freedom and the
    variance's n / (n - 1) would move them, which a plain percentile interval lacks with small n
    (Hesterberg, The American Statistician 69:371, 2015).
    """
    if samples < 2:  # no spread is known
        return -100.0, 100.0
    tail = NormalDist().cdf(-math.sqrt(samples / (samples - 1)) * _t_quantile(samples - 1))
    low, high = np.quantile(resampled, [tail, 1.0 - tail])
    return float(low), float(high)


def _t_quantile(freedom: float) -> float:
    """Return the 97.5 % quantile of Student's t, within 0.3 % from 4 degrees of freedom on.

    It is a series in 1/freedom (Abramowitz and Stegun, Handbook of Mathematical Functions,
    26.7.5).
    """
    z, n = _Z, freedom
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )


def _resamples(samples: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Yield ``RESAMPLES`` resamples as weights, (samples, R): how often each sample was drawn.

    So many at a time that their weights fit a processor's cache.
    """
    random = np.random.default_rng(seed)
    left = RESAMPLES
    while left:
        count = min(left, max(1, _AT_ONCE_ELEMENTS // samples))
        draws = random.integers(samples, size=(samples, count)) * count + np.arange(count)
        drawn = np.bincount(draws.ravel(), minlength=samples * count)
        yield drawn.reshape(samples, count).astype(np.float32)
        left -= count


def _each_left_out(samples: int) -> Iterator[NDArray[np.float32]]:
    """Yield all samples but one, each in turn, as weights (samples, R)."""
    at_once = max(1, _AT_ONCE_ELEMENTS // samples)
    for start in range(0, samples, at_once):
        left_out = np.arange(start, min(start + at_once, samples))
        weights = np.ones((samples, left_out.size), np.float32)
        weights[left_out, np.arange(left_out.size)] = 0.0
        yield weights


def _of(values: NDArray[Any], chosen: Chosen) -> NDArray[Any]:
    return values if chosen is None else values[chosen]
