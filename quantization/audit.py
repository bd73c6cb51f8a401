"""Were the calibration inputs enough, and are they like those that judge?

Ranges are the smallest and the largest number that a layer of the float model answers. With
enough inputs they no longer grow; where later inputs leave them, INT8 clips. Recipes may cut
ranges further on purpose: that is not looked at here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, QuantizationError
from asdic.quantization.graphs.graph import Graph, Tensors
from asdic.quantization.layers import first_nan

STABLE_PERCENT: Final = 1.0
"""A range is stable that later inputs widen by no more than this share of its width."""
STABLE_LAYERS_PERCENT: Final = 95.0
"""So many of the layers have to be stable; a few with rare outliers may go on growing."""


class RangeChange(msgspec.Struct, frozen=True, kw_only=True):
    """How far the ranges of the first ``samples`` inputs are from those of all of them.

    Shares of the final width (0 to 1), the larger of a range's two ends: ``median`` of the layers,
    ``most``, which ``STABLE_LAYERS_PERCENT`` of them do not exceed, and ``worst`` of all.
    """

    samples: int
    worst: float
    most: float
    median: float


class Outside(msgspec.Struct, frozen=True, kw_only=True):
    """Which share (0 to 1) of the numbers that judge lies outside of the calibrated ranges.

    ``share`` is that of all layers, ``worst_share`` that of ``worst_layer``; None where no number
    lies outside.
    """

    share: float
    worst_share: float
    worst_layer: str | None


class CalibrationAudit(msgspec.Struct, frozen=True, kw_only=True):
    """What the calibration inputs are worth.

    ``curve`` goes from one input to all, doubling. ``stable_after`` is the smallest number of
    inputs after which ``STABLE_LAYERS_PERCENT`` of the layers keep their ranges within
    ``STABLE_PERCENT``; None where the last input still changed more: give more. ``constant`` are
    inputs with one value everywhere, ``unreadable`` files that were left out; names.
    """

    samples: int
    curve: tuple[RangeChange, ...]
    stable_after: int | None
    outside: Outside
    constant: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()


def audit(
    graph: Graph,
    calibration: Sequence[Tensors],
    evaluation: Iterable[Tensors],
    *,
    constant: Sequence[str] = (),
    unreadable: Sequence[str] = (),
) -> CalibrationAudit:
    """Return what the calibration inputs are worth for one float model.

    Args:
        graph: The float model.
        calibration: The inputs that calibrate, by name, in the order in which they are taken.
        evaluation: The inputs that judge.
        constant: Names of inputs with one value everywhere, as the caller found them.
        unreadable: Names of files that could not be read.

    Raises:
        ConfigError: There is nothing to calibrate with.
        QuantizationError: A layer answers NaN or infinity; it is named.
    """
    if not calibration:
        raise ConfigError("there are no calibration inputs; give at least 1")
    lows, highs = _running_ranges(graph, calibration)
    change = _changes(lows, highs)
    most = _most(change)
    return CalibrationAudit(
        samples=len(calibration),
        curve=tuple(
            RangeChange(
                samples=count,
                worst=float(change[count - 1].max(initial=0.0)),
                most=float(most[count - 1]),
                median=float(np.median(change[count - 1])) if change.shape[1] else 0.0,
            )
            for count in _doubling(len(calibration))
        ),
        stable_after=_stable_after(most),
        outside=_outside(graph, evaluation, lows[-1], highs[-1]),
        constant=tuple(constant),
        unreadable=tuple(unreadable),
    )


def _running_ranges(
    graph: Graph, calibration: Sequence[Tensors]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the ends of the ranges after each input, both of shape (inputs, layers)."""
    lows, highs = [], []
    for tensors in calibration:
        answers = graph.run(tensors)
        ordered = [answers[layer.name] for layer in graph.layers]
        lows.append([one.min() for one in ordered])
        highs.append([one.max() for one in ordered])
        if not (np.isfinite(lows[-1]).all() and np.isfinite(highs[-1]).all()):
            raise QuantizationError(
                f"the float model's layer {first_nan(graph, tensors)!r} answers NaN or infinity "
                f"to calibration input {len(lows)} of {len(calibration)}; correct the model or "
                "leave that input out"
            )
    return (
        np.minimum.accumulate(np.array(lows, np.float64)),
        np.maximum.accumulate(np.array(highs, np.float64)),
    )


def _changes(lows: NDArray[np.float64], highs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how far the ranges after each input are from the last ones, (inputs, layers)."""
    width = highs[-1] - lows[-1]
    distance = np.maximum(lows - lows[-1], highs[-1] - highs)
    change = np.zeros(distance.shape)
    np.divide(distance, width, out=change, where=width > 0.0)
    return change


def _most(change: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what most layers do not exceed, (inputs,); a model without layers does not change."""
    if not change.shape[1]:
        return np.zeros(len(change))
    return np.asarray(np.percentile(change, STABLE_LAYERS_PERCENT, axis=1))


def _stable_after(most: NDArray[np.float64]) -> int | None:
    """Return after how many inputs most ranges are stable.

    Ranges only grow, so what is stable stays so. All inputs together always agree with
    themselves: that alone proves nothing.
    """
    count = int(np.argmax(most <= STABLE_PERCENT / 100.0)) + 1
    return count if count < len(most) else None


def _outside(
    graph: Graph,
    evaluation: Iterable[Tensors],
    lows: NDArray[np.float64],
    highs: NDArray[np.float64],
) -> Outside:
    outside = np.zeros(len(graph.layers))
    numbers = np.zeros(len(graph.layers))
    for tensors in evaluation:
        answers = graph.run(tensors)
        for place, layer in enumerate(graph.layers):
            answer = answers.pop(layer.name)
            numbers[place] += answer.size
            outside[place] += np.count_nonzero((answer < lows[place]) | (answer > highs[place]))
    shares = outside / np.maximum(numbers, 1.0)
    if not outside.any():
        return Outside(share=0.0, worst_share=0.0, worst_layer=None)
    worst = int(np.argmax(shares))
    return Outside(
        share=float(outside.sum() / numbers.sum()),
        worst_share=float(shares[worst]),
        worst_layer=graph.layers[worst].name,
    )


def _doubling(limit: int) -> tuple[int, ...]:
    """Return 1, 2, 4 and so on, and the limit last."""
    counts = [2**power for power in range(limit.bit_length()) if 2**power < limit]
    return (*counts, limit)
