"""What a case's answers are compared with: its label, or the float model's own answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from asdic.contract.errors import DataError
from asdic.contract.variant import ArrayOutput, ClassOutput, MaskOutput, OutputRule
from asdic.device.metrics import dice, judged_rule
from asdic.device.ranking import memberships
from asdic.device.runner.postprocess import Prediction
from asdic.quantization.calibration import Case


@dataclass(frozen=True, kw_only=True, eq=False)
class Expected:
    """What is expected of a case's outputs, by the tensor's name.

    ``reference`` is that of the judged output. ``empty`` names the outputs whose mask has nothing
    to find; they are not in ``outputs``.
    """

    reference: NDArray[Any]
    outputs: Mapping[str, NDArray[Any]]
    empty: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassPoints:
    """The points of the cases that have a class, for FP32 and INT8."""

    number: int
    label: str
    fp32: NDArray[np.float64]
    int8: NDArray[np.float64]


def expected_of(case: Case, answer: Prediction) -> Expected:
    """Return what is expected of ``case``.

    With a label that of the judged output alone, without one the float model's ``answer`` in all
    outputs: masks, most likely classes, arrays.
    """
    judged = judged_rule(answer.rules)
    if case.reference is None:
        every = {rule.tensor: _own(answer.outputs[rule.tensor], rule) for rule in answer.rules}
    else:
        every = {judged.tensor: case.reference}
    masks = {rule.tensor for rule in answer.rules if isinstance(rule, MaskOutput)}
    empty = tuple(name for name, one in every.items() if name in masks and not one.any())
    return Expected(
        reference=every[judged.tensor],
        outputs={name: one for name, one in every.items() if name not in empty},
        empty=empty,
    )


def may_flip(expected: Sequence[Expected], rules: Sequence[OutputRule]) -> bool:
    """Return whether a case can be wrong as a whole: a class number is expected of some output."""
    scores = {rule.tensor for rule in rules if isinstance(rule, ClassOutput)}
    return any(not scores.isdisjoint(one.outputs) for one in expected)


def check_label(case: Case, answer: Prediction) -> None:
    """Check that a case's label, if it has one, is of the kind that ``answer`` gives.

    A label that the model cannot answer is wrong for FP32 and for INT8 alike: there would be no
    drop, and a verdict about nothing.

    Raises:
        DataError: It is not; the case is named.
    """
    if case.reference is None:
        return
    rule = judged_rule(answer.rules)
    match rule:
        case MaskOutput():
            problem = _mask_problem(case.reference, answer, rule)
        case ClassOutput():
            problem = _class_problem(case.reference, answer.outputs[rule.tensor].size)
        case ArrayOutput():
            problem = _array_problem(case.reference, answer.outputs[rule.tensor])
        case _:
            assert_never(rule)
    if problem:
        raise DataError(
            f"the label of {case.name} does not fit the output {rule.tensor!r}: {problem}"
        )


def class_points(
    answers: Sequence[tuple[Prediction, Prediction, NDArray[Any]]],
    fp32_points: NDArray[np.float64],
    int8_points: NDArray[np.float64],
) -> tuple[ClassPoints, ...]:
    """Return the points a class of the cases that have it, by the class's number.

    For masks they are the Dice of that class alone, for scores the cases' own points. Arrays have
    no classes.

    Args:
        answers: FP32's answer, INT8's, and the reference, of each judged case.
        fp32_points: Each case's points.
        int8_points: The same for INT8.
    """
    rule = judged_rule(answers[0][0].rules)
    match rule:
        case MaskOutput():
            return _mask_classes(answers)
        case ClassOutput(labels=labels):
            return _score_classes(answers, fp32_points, int8_points, labels)
        case ArrayOutput():
            return ()
        case _:
            assert_never(rule)


def _own(value: NDArray[Any], rule: OutputRule) -> NDArray[Any]:
    return np.array(int(value.argmax())) if isinstance(rule, ClassOutput) else value


def _mask_problem(reference: NDArray[Any], answer: Prediction, rule: MaskOutput) -> str:
    mask, logits = answer.outputs[rule.tensor], answer.tensors[rule.tensor]
    channels = logits.shape[1 if rule.layout == "nchw" else -1] if logits.ndim == 4 else 1
    classes = max(channels, 2)
    if reference.shape != mask.shape:
        return f"the mask is {reference.shape}, the image {mask.shape}"
    if not (reference.dtype == np.bool_ or np.issubdtype(reference.dtype, np.integer)):
        return f"a mask holds class numbers, not {reference.dtype}"
    if reference.size and not 0 <= int(reference.min()) <= int(reference.max()) < classes:
        return (
            f"the mask holds the numbers {int(reference.min())} to {int(reference.max())}, "
            f"the model's classes are 0 to {classes - 1}"
        )
    return ""


def _class_problem(reference: NDArray[Any], classes: int) -> str:
    limit = max(classes, 2) if reference.ndim == 0 else 2
    if reference.ndim > 1 or (reference.ndim == 1 and reference.size != classes):
        return f"it has shape {reference.shape}, the model knows {classes} classes"
    if not (reference.dtype == np.bool_ or np.issubdtype(reference.dtype, np.integer)):
        return f"a label is a class number, not {reference.dtype}"
    if not 0 <= int(reference.min()) <= int(reference.max()) < limit:
        return f"it holds {reference.tolist()}, which is not from 0 to {limit - 1}"
    return ""


def _array_problem(reference: NDArray[Any], output: NDArray[Any]) -> str:
    if reference.shape != output.shape:
        return f"it has shape {reference.shape}, the output {output.shape}"
    if not np.issubdtype(reference.dtype, np.floating) or not np.isfinite(reference).all():
        return "it must hold finite floats"
    return ""


def _mask_classes(
    answers: Sequence[tuple[Prediction, Prediction, NDArray[Any]]],
) -> tuple[ClassPoints, ...]:
    numbers = sorted({int(one) for *_, reference in answers for one in np.unique(reference)} - {0})
    return tuple(_mask_class(answers, number) for number in numbers) if len(numbers) > 1 else ()


def _mask_class(
    answers: Sequence[tuple[Prediction, Prediction, NDArray[Any]]], number: int
) -> ClassPoints:
    held = [
        (fp32.judged == number, int8.judged == number, reference == number)
        for fp32, int8, reference in answers
        if (reference == number).any()
    ]
    return ClassPoints(
        number=number,
        label=str(number),
        fp32=np.array([dice(fp32, own) for fp32, _, own in held]),
        int8=np.array([dice(int8, own) for _, int8, own in held]),
    )


def _score_classes(
    answers: Sequence[tuple[Prediction, Prediction, NDArray[Any]]],
    fp32_points: NDArray[np.float64],
    int8_points: NDArray[np.float64],
    labels: Sequence[str],
) -> tuple[ClassPoints, ...]:
    classes = answers[0][0].judged.size
    members = memberships(np.stack([reference for *_, reference in answers]), classes=classes)
    return tuple(
        ClassPoints(
            number=number,
            label=labels[number] if labels else str(number),
            fp32=fp32_points[members[:, number]],
            int8=int8_points[members[:, number]],
        )
        for number in map(int, np.flatnonzero(members.any(axis=0)))
    )
