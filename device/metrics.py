"""How good an answer is, in points from 0 to 100, and how far two tensors are apart.

The same functions judge in training, in the quantizer's gate and in the golden check on the
device, so that a figure means the same everywhere. numpy only: a device imports this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, DataError

Metric: TypeAlias = Callable[[NDArray[Any], NDArray[Any]], float]


def dice(prediction: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the Dice coefficient of two masks of class numbers, in points.

    Class 0 is background. With several classes it is the mean over those that occur in either
    mask; two empty masks agree fully (100). Dice, Ecology 26:297 (1945).

    Raises:
        DataError: The masks differ in shape, or do not hold class numbers from 0 to 255.
    """
    both, predicted, referred = _class_counts(prediction, reference)
    return _mean_points(2 * both, predicted + referred)


def iou(prediction: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return the intersection over union of two masks of class numbers, in points.

    Background, several classes, empty masks and errors as in ``dice``.
    """
    both, predicted, referred = _class_counts(prediction, reference)
    return _mean_points(both, predicted + referred - both)


def top1(prediction: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return 100 if the class with the highest score is the reference class, else 0.

    ``prediction`` holds one score a class, or a single class number; ``reference`` is a class
    number. Of equal scores the first counts.

    Raises:
        DataError: ``prediction`` is empty, or ``reference`` is not one number.
    """
    scores, expected = np.asarray(prediction), np.asarray(reference)
    if scores.size == 0 or expected.size != 1:
        raise DataError(
            f"top1 compares scores with one class number, not shape {scores.shape} "
            f"with shape {expected.shape}"
        )
    found = int(scores.argmax()) if scores.size > 1 else int(scores.item())
    return 100.0 if found == int(expected.item()) else 0.0


def agreement(prediction: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return how well an answer agrees with the float model's, in points.

    For masks it is ``dice`` against the float model's mask, for a class number ``top1``. It says
    nothing about the truth: it is for models that come without labels.
    """
    measure = top1 if np.asarray(reference).size == 1 else dice
    return measure(prediction, reference)


def sqnr_db(reference: NDArray[Any], measured: NDArray[Any]) -> float:
    """Return the signal to quantization noise ratio of ``measured``, in dB.

    It is ``10 log10(sum(reference^2) / sum((reference - measured)^2))``: infinite where both are
    equal, minus infinity where the reference is silent and the measured tensor is not.

    Raises:
        DataError: The tensors differ in shape.
    """
    signal = np.asarray(reference, np.float64)
    if signal.shape != np.shape(measured):
        raise DataError(f"cannot compare shape {np.shape(measured)} with shape {signal.shape}")
    noise_power = float(np.square(signal - measured).sum())
    signal_power = float(np.square(signal).sum())
    if noise_power == 0.0:
        return math.inf
    return 10 * math.log10(signal_power / noise_power) if signal_power > 0.0 else -math.inf


METRICS: Final[MappingProxyType[str, Metric]] = MappingProxyType(
    {"dice": dice, "iou": iou, "top1": top1, "agreement": agreement}
)


def metric_named(name: str) -> Metric:
    """Return the metric called ``name``.

    Raises:
        ConfigError: There is no such metric; the message lists those that exist.
    """
    try:
        return METRICS[name]
    except KeyError:
        known = ", ".join(METRICS)
        raise ConfigError(f"unknown metric {name!r}; known metrics: {known}") from None


def _class_counts(
    prediction: NDArray[Any], reference: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return, a class, the pixels in both masks, in the prediction and in the reference."""
    predicted, referred = _as_mask(prediction), _as_mask(reference)
    if predicted.shape != referred.shape:
        raise DataError(f"a mask of {predicted.shape} cannot be compared with {referred.shape}")
    both = np.bincount(predicted[predicted == referred], minlength=256)
    return (
        both,
        np.bincount(predicted.ravel(), minlength=256),
        np.bincount(referred.ravel(), minlength=256),
    )


def _as_mask(mask: NDArray[Any]) -> NDArray[np.uint8]:
    array = np.asarray(mask)
    if array.dtype == np.uint8:
        return array
    whole = array.dtype == np.bool_ or np.issubdtype(array.dtype, np.integer)
    if not whole or (array.size and not 0 <= int(array.min()) <= int(array.max()) <= 255):
        raise DataError(f"a mask holds class numbers from 0 to 255, not {array.dtype} beyond that")
    return array.astype(np.uint8)


def _mean_points(numerator: NDArray[np.int64], denominator: NDArray[np.int64]) -> float:
    """Return the mean ratio over the classes but background that occur, in points."""
    present = denominator[1:] > 0
    if not present.any():
        return 100.0
    return float(100.0 * (numerator[1:][present] / denominator[1:][present]).mean())
