"""Ranges of activations: what a float model's tensors hold over the calibration inputs.

The quantizers of LiteRT and ONNX Runtime take a smallest and a largest value a tensor, so how
these are found is ours, in one place. (NNCF has estimators of its own.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import QuantizationError
from asdic.contract.variant import TensorSpec
from asdic.device.metrics import sqnr_db

Bounds: TypeAlias = tuple[float, float]
"""The smallest and the largest value that INT8 can hold of a tensor; 0 lies between them."""

BINS: Final = 1 << 14
JUDGES: Final = 32
FEWEST_JUDGES: Final = 8
"""How many calibration inputs choose the best range: fewer where an answer has many values."""
ENOUGH_VALUES: Final = 1 << 16
OUTLIERS: Final = 1e-4
"""The share of values beyond either bound that ``percentile`` gives up."""

CANDIDATES: Final = ("minmax", "mse10", "percentile", "mse")
BEST: Final = "best"
"""Stands for the best of ``CANDIDATES``."""

_LEVELS: Final = 256
_COUNTED_AT_MOST: Final = 1 << 16
_MSE_STEPS: Final = 100
_ENTROPY_BINS: Final = 2048
_ENTROPY_LEVELS: Final = 128


@dataclass
class Observed:
    """What a tensor held: extremes of each input, and a histogram of all values but exact zeros.

    The histogram has ``BINS`` bins from ``-limit`` to ``limit``, a power of two. A value beyond
    doubles the limit and merges pairs of bins, so one pass is enough and nothing is interpolated.
    """

    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)
    limit: float = 0.0
    zeros: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add(self, values: NDArray[Any], *, histogram: bool) -> None:
        """Take note of one input's values.

        Raises:
            QuantizationError: A value is not finite.
        """
        low, high = float(values.min()), float(values.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise QuantizationError("NaN or infinity")
        self.lows.append(low)
        self.highs.append(high)
        if histogram:
            self._reach(max(-low, high))
            self._count(_thinned(values))

    def _reach(self, value: float) -> None:
        if value <= 0.0 or value < self.limit:
            return
        new = float(2.0 ** (np.floor(np.log2(value)) + 1))
        while 0.0 < self.limit < new:
            if not self.counts.any():
                break
            merged = self.counts.reshape(-1, 2).sum(axis=1)
            self.counts = np.zeros(BINS, np.int64)
            self.counts[BINS // 4 : 3 * BINS // 4] = merged
            self.limit *= 2
        self.limit = new

    def _count(self, values: NDArray[np.float32]) -> None:
        found = values[values != 0.0]
        self.zeros += values.size - found.size
        if found.size:
            places = np.floor((found / self.limit + 1.0) * (BINS // 2)).astype(np.int64)
            self.counts += np.bincount(np.clip(places, 0, BINS - 1), minlength=BINS)

    @property
    def extremes(self) -> Bounds:
        """The smallest and the largest value of all inputs."""
        return _with_zero(min(self.lows), max(self.highs))

    @property
    def centres(self) -> NDArray[np.float64]:
        """The middle of each bin."""
        return np.asarray((np.arange(BINS) + 0.5) * (2 * self.limit / BINS) - self.limit)


def _thinned(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return enough values for a histogram: every k-th, k odd so as not to follow rows."""
    step = -(-values.size // _COUNTED_AT_MOST) | 1
    return np.asarray(values, np.float32).reshape(-1)[:: step if step > 1 else 1]


def _with_zero(low: float, high: float) -> Bounds:
    return min(low, 0.0), max(high, 0.0)


def minmax(seen: Observed, *, symmetric: bool) -> Bounds:
    """Return the true extremes."""
    del symmetric
    return seen.extremes


def average(seen: Observed, *, symmetric: bool) -> Bounds:
    """Return the means, over the inputs, of each one's extremes."""
    del symmetric
    return _with_zero(float(np.mean(seen.lows)), float(np.mean(seen.highs)))


def percentile(seen: Observed, *, symmetric: bool) -> Bounds:
    """Return the bounds beyond which ``OUTLIERS`` of the values lie, at either end."""
    del symmetric
    counts = seen.counts.copy()
    counts[BINS // 2] += seen.zeros
    below = np.cumsum(counts)
    first = int(np.searchsorted(below, OUTLIERS * below[-1], side="right"))
    last = int(np.searchsorted(below, (1.0 - OUTLIERS) * below[-1]))
    width = 2 * seen.limit / BINS
    return _within(seen, first * width - seen.limit, (last + 1) * width - seen.limit)


def mse(seen: Observed, *, symmetric: bool) -> Bounds:
    """Return the bounds with the least expected squared error."""
    return _least_error(seen, symmetric=symmetric, weight=1.0)


def mse10(seen: Observed, *, symmetric: bool) -> Bounds:
    """Return the bounds with the least expected squared error, where clipping counts tenfold.

    Errors of rounding have either sign and cancel in the next layer's sums; those of clipping
    have one and add up. Of the weights 1, 3, 10, 30 and 100, 10 alone was no worse than the true
    extremes on every network of ``LADDERS``.
    """
    return _least_error(seen, symmetric=symmetric, weight=10.0)


def _least_error(seen: Observed, *, symmetric: bool, weight: float) -> Bounds:
    """Return the bounds with the least expected squared error.

    The error is that of rounding, step^2 / 12 for every value but an exact 0, plus that of the
    values beyond the bounds, which are clipped (Banner, Nahshan and Soudry, "Post training 4-bit
    quantization of convolutional networks", NeurIPS 2019, section 2). ``_MSE_STEPS`` shares of
    either extreme are compared, all pairs of them, or with one step for both ends if
    ``symmetric``.
    """
    low, high = seen.extremes
    shares = np.arange(1, _MSE_STEPS + 1) / _MSE_STEPS
    total = float(seen.counts.sum()) / weight
    if symmetric:
        limits = max(-low, high) * shares
        rounded = total * np.square(2 * limits / (_LEVELS - 2)) / 12
        errors = rounded + _clipped(seen, limits) + _clipped(seen, limits, below=True)
        best = float(limits[int(np.argmin(errors))])
        return max(low, -best), min(high, best)
    lows, highs = low * shares, high * shares
    steps = (highs[None, :] - lows[:, None]) / (_LEVELS - 1)
    clipped = _clipped(seen, highs)[None, :] + _clipped(seen, -lows, below=True)[:, None]
    row, column = np.divmod(int(np.argmin(total * np.square(steps) / 12 + clipped)), _MSE_STEPS)
    return float(lows[row]), float(highs[column])


def entropy(seen: Observed, *, symmetric: bool) -> Bounds:
    """Return the bounds that change the distribution least, for symmetric INT8.

    The divergence (Kullback and Leibler) between the clipped magnitudes and their
    ``_ENTROPY_LEVELS`` levels is least (Migacz, "8-bit inference with TensorRT", GTC 2017).
    """
    del symmetric
    low, high = seen.extremes
    extreme = max(-low, high)
    magnitudes = seen.counts[BINS // 2 :] + seen.counts[: BINS // 2][::-1]
    edges = (np.arange(BINS // 2) + 0.5) * (2 * seen.limit / BINS)
    counts, _ = np.histogram(edges, _ENTROPY_BINS, (0.0, extreme), weights=magnitudes)
    ends = range(_ENTROPY_LEVELS, _ENTROPY_BINS + 1, _ENTROPY_LEVELS // 8)
    best = min(ends, key=lambda end: _divergence(counts, end))
    limit = extreme * best / _ENTROPY_BINS
    return max(low, -limit), min(high, limit)


def _divergence(counts: NDArray[np.float64], end: int) -> float:
    clipped = counts[:end].copy()
    held = clipped > 0
    clipped[-1] += counts[end:].sum()
    level = np.arange(end) * _ENTROPY_LEVELS // end
    sums = np.bincount(level, counts[:end], _ENTROPY_LEVELS)
    used = np.bincount(level, held, _ENTROPY_LEVELS)
    coarse = np.where(held, (sums / np.maximum(used, 1))[level], 0.0)
    if not coarse.any():
        return float("inf")
    p, q = clipped / clipped.sum(), coarse / coarse.sum()
    tiny = 1e-9
    divergence = np.sum(p[p > 0] * np.log(p[p > 0] / np.maximum(q[p > 0], tiny)))
    return float(divergence)


def _clipped(
    seen: Observed, limits: NDArray[np.float64], *, below: bool = False
) -> NDArray[np.float64]:
    """Return the squared error of values beyond each limit, by sums of the values' powers."""
    counts = (seen.counts[::-1] if below else seen.counts).astype(np.float64)
    values = seen.centres  # symmetric about 0, so the same for either end
    powers = [np.append(np.cumsum((counts * values**one)[::-1])[::-1], 0.0) for one in range(3)]
    first = np.searchsorted(values, limits, side="right")
    zeroth, linear, square = (power[first] for power in powers)
    error = square - 2 * limits * linear + np.square(limits) * zeroth
    return np.asarray(np.maximum(error, 0.0))


def _within(seen: Observed, low: float, high: float) -> Bounds:
    smallest, largest = seen.extremes
    return max(smallest, min(low, 0.0)), min(largest, max(high, 0.0))


RANGES: Final[Mapping[str, Callable[..., Bounds]]] = MappingProxyType(
    {one.__name__: one for one in (minmax, average, percentile, mse, mse10, entropy)}
)


def observe(
    samples: Iterable[Mapping[str, NDArray[Any]]], *, histograms: bool
) -> dict[str, Observed]:
    """Return what every float tensor holds.

    Args:
        samples: The tensors by name, one set an input. Others than float ones are passed over.
        histograms: Whether more than extremes is asked for: they take most of the time.

    Raises:
        QuantizationError: A tensor holds NaN or infinity; it is named.
    """
    seen: dict[str, Observed] = {}
    for sample in samples:
        for name, values in sample.items():
            if values.dtype != np.float32 or not values.size:
                continue
            try:
                seen.setdefault(name, Observed()).add(values, histogram=histograms)
            except QuantizationError as error:
                raise QuantizationError(f"the tensor {name!r} holds {error}") from None
    return seen


def bounds_of(seen: Mapping[str, Observed], range_: str, *, symmetric: bool) -> dict[str, Bounds]:
    """Return the bounds of every tensor by one of ``RANGES``.

    ``symmetric`` says that the lower bound will be minus the upper one in the end.
    """
    find = RANGES[range_]
    return {name: _found(find, one, symmetric=symmetric) for name, one in seen.items()}


def _found(find: Callable[..., Bounds], seen: Observed, *, symmetric: bool) -> Bounds:
    """Return the bounds; a tensor of nothing but zeros has none to search for."""
    low, high = seen.extremes
    return find(seen, symmetric=symmetric) if low < high else (low, high)


def judges_for(outputs: Sequence[TensorSpec]) -> int:
    """Return how many calibration inputs choose the best range of a model with such outputs."""
    values = sum(math.prod(spec.shape) for spec in outputs)
    return max(FEWEST_JUDGES, min(JUDGES, -(-ENOUGH_VALUES // values)))


def best_range(
    answers_by: Callable[[str], Sequence[Mapping[str, NDArray[Any]]]],
    exact: Sequence[Mapping[str, NDArray[Any]]],
) -> str:
    """Return the one of ``CANDIDATES`` with which the model's answers are nearest to float.

    Which range serves a network best is not to be foreseen: on four networks each of the four
    was the best of one, and by up to 9 dB. Trying takes little, as one set of statistics serves
    all.

    Args:
        answers_by: What the model answers to some calibration inputs if quantized by a range.
        exact: What the float model answers to them.
    """
    return max(CANDIDATES, key=lambda one: _decibel(exact, answers_by(one)))


def _decibel(
    exact: Sequence[Mapping[str, NDArray[Any]]], answers: Sequence[Mapping[str, NDArray[Any]]]
) -> float:
    pairs = [
        (one[name], two[name]) for one, two in zip(exact, answers, strict=True) for name in one
    ]
    return sqnr_db(*(np.concatenate([pair[end].ravel() for pair in pairs]) for end in (0, 1)))
