"""How good an answer is, in points from 0 to 100, and how far two tensors are apart.

The same functions judge in training, in the quantizer's gate and in the golden check on the
device, so that a figure means the same everywhere. Most metrics are those of a sample, of which
a mean is taken; ``auc`` and ``map`` exist for a set of samples only. numpy only: a device imports
this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.variant import ArrayOutput, ClassOutput, MaskOutput, OutputRule
from asdic.device.ranking import Ranking

Metric: TypeAlias = Callable[[NDArray[Any], NDArray[Any]], float]
SetMetric: TypeAlias = Callable[[Ranking, NDArray[np.float32] | None], NDArray[np.float64]]
"""Points of R resamples (R,), from the samples' ranking and the weights (n, R) of the resamples;
without weights those of the set itself, (1,)."""


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
    number, or one 0 or 1 a class where several may be right. Of equal scores the first counts.

    Raises:
        DataError: ``prediction`` is empty, or ``reference`` is neither.
    """
    scores, expected = np.asarray(prediction), np.asarray(reference)
    several = expected.ndim == 1 and scores.size == expected.size > 1
    if scores.size == 0 or not (expected.size == 1 or several):
        raise DataError(
            f"top1 compares scores with one class number, not shape {scores.shape} "
            f"with shape {expected.shape}"
        )
    found = int(scores.argmax()) if scores.size > 1 else int(scores.item())
    right = bool(expected[found]) if several else found == int(expected.item())
    return 100.0 if right else 0.0


def agreement(prediction: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return how well an answer agrees with the float model's, in points.

    For masks it is ``dice`` against the float model's mask, for a class number ``top1``, for an
    array of floats ``closeness``. It says nothing about the truth: it is for models that come
    without labels.
    """
    expected = np.asarray(reference)
    if np.issubdtype(expected.dtype, np.floating):
        return closeness(prediction, expected)
    return top1(prediction, expected) if expected.size == 1 else dice(prediction, expected)


def closeness(prediction: NDArray[Any], reference: NDArray[Any]) -> float:
    """Return how near an array is to another, in points: 100 less the relative error in percent.

    It is ``100 max(0, 1 - ||prediction - reference|| / ||reference||)`` with Euclidean norms over
    all elements, so a function of the SQNR: ``100 (1 - 10^(-SQNR / 20))``. 20 dB are 90 points,
    30 dB 96.8, 40 dB 99. An answer that is not finite has 0 points; a silent reference is met by
    silence alone.

    Raises:
        DataError: The shapes differ, or the reference is not finite.
    """
    if not np.isfinite(reference).all():
        raise DataError("a reference that is NaN or infinite compares with nothing")
    if not np.isfinite(prediction).all():
        return 0.0
    error = math.pow(10.0, -sqnr_db(reference, prediction) / 20)
    return 100.0 * max(0.0, 1.0 - error)


def auc(scores: NDArray[Any], references: NDArray[Any]) -> float:
    """Return the area under the ROC curve of all samples, in points.

    The probability that a sample of the class scores higher than one of another, ties counted
    half (Hanley and McNeil, Radiology 143:29, 1982); with more than one score the mean over the
    classes that occur, each against the rest. Chance is 50. NaN where all samples are of one
    class.

    Args:
        scores: (n, C) floats, one row a sample.
        references: (n,) class numbers, or (n, C) of 0 and 1 where several may be right; with one
            score (n,) of 0 and 1.

    Raises:
        DataError: The shapes do not fit, or a class is unknown; see ``Ranking.of``.
    """
    return float(Ranking.of(scores, references).macro_roc_area()[0])


def mean_average_precision(scores: NDArray[Any], references: NDArray[Any]) -> float:
    """Return the mean over the classes that occur of the scores' average precision, in points.

    It is the ``map`` of classification, with one class a sample or several: of image retrieval
    and multi-label benchmarks. It is *not* the mAP of object detection, which matches boxes.
    Chance is each class's share of the samples. Arguments and errors as in ``auc``.
    """
    return float(Ranking.of(scores, references).macro_average_precision()[0])


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
    return decibel(float(np.square(signal).sum()), float(np.square(signal - measured).sum()))


def decibel(signal_power: float, noise_power: float) -> float:
    """Return the ratio of two powers in dB: infinite without noise, else -infinite in silence."""
    if noise_power == 0.0:
        return math.inf
    return 10 * math.log10(signal_power / noise_power) if signal_power > 0.0 else -math.inf


METRICS: Final[MappingProxyType[str, Metric]] = MappingProxyType(
    {"dice": dice, "iou": iou, "top1": top1, "agreement": agreement}
)
SET_METRICS: Final[MappingProxyType[str, SetMetric]] = MappingProxyType(
    {"auc": Ranking.macro_roc_area, "map": Ranking.macro_average_precision}
)

_KINDS: Final = (MaskOutput, ClassOutput, ArrayOutput)
_WORDS: Final = MappingProxyType(
    {MaskOutput: "a mask", ClassOutput: "the scores of classes", ArrayOutput: "an array"}
)


class Fit(NamedTuple):
    """The kinds of output that a metric judges, and which metric stands in for single samples."""

    outputs: tuple[type[OutputRule], ...]
    single: str


FITS: Final[MappingProxyType[str, Fit]] = MappingProxyType(
    {
        "dice": Fit((MaskOutput,), "dice"),
        "iou": Fit((MaskOutput,), "iou"),
        "top1": Fit((ClassOutput,), "top1"),
        "auc": Fit((ClassOutput,), "top1"),
        "map": Fit((ClassOutput,), "top1"),
        "agreement": Fit(_KINDS, "agreement"),
    }
)


def metric_named(name: str) -> Metric:
    """Return the metric of a sample called ``name``.

    Raises:
        ConfigError: There is no such metric, or it is one of a set of samples; the message lists
            those that exist.
    """
    if name in SET_METRICS:
        raise ConfigError(
            f"the metric {name!r} needs all samples at once; a single one has {_listed(METRICS)}"
        )
    if name not in METRICS:
        raise _unknown(name, METRICS)
    return METRICS[name]


def sample_metric_for(metric: str) -> str:
    """Return the name of the metric by which single samples are judged where ``metric`` counts.

    A golden set on a device is judged sample by sample, as are the worst samples of a report.

    Raises:
        ConfigError: There is no such metric.
    """
    if metric not in FITS:
        raise _unknown(metric, FITS)
    return FITS[metric].single


def metrics_for(rule: OutputRule) -> tuple[str, ...]:
    """Return the names of the metrics that can judge an output."""
    return tuple(name for name, fit in FITS.items() if isinstance(rule, fit.outputs))


def judged_rule(rules: Sequence[OutputRule]) -> OutputRule:
    """Return the output that a metric judges: the first mask, else scores, else array.

    Raises:
        ConfigError: There is no output.
    """
    for kind in _KINDS:
        for rule in rules:
            if isinstance(rule, kind):
                return rule
    raise ConfigError("the model's description names no output; there is nothing to judge")


def check_metric(metric: str, rules: Sequence[OutputRule]) -> None:
    """Check that ``metric`` can judge what a model with the output ``rules`` answers.

    Raises:
        ConfigError: It cannot, or there is no such metric; the message names those that can.
    """
    if metric not in FITS:
        raise _unknown(metric, FITS)
    rule = judged_rule(rules)
    fitting = metrics_for(rule)
    if metric not in fitting:
        raise ConfigError(
            f"the metric {metric!r} does not fit the output {rule.tensor!r}, which is "
            f"{_WORDS[type(rule)]}; metrics that fit: {_listed(fitting)}"
        )


def _unknown(name: str, known: Iterable[str]) -> ConfigError:
    return ConfigError(f"unknown metric {name!r}; known metrics: {_listed(known)}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


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
