"""What quantization did to the answers: FP32 and INT8 asked the same, by the runtime that flies.

With labels the metric is the model's own. Without, nothing can be said about accuracy: INT8 is
then compared with FP32's own answers, and everything says "agreement".
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import DataError, QuantizationError, ReleaseError
from asdic.contract.messages import RuntimeFacts
from asdic.contract.target import Runtime
from asdic.device.metrics import (
    SET_METRICS,
    check_metric,
    decibel,
    metric_named,
    sample_metric_for,
)
from asdic.device.runner.engine import open_engine
from asdic.device.runner.postprocess import Prediction
from asdic.device.runner.runner import Runner
from asdic.quantization.backends.backend import FloatFiles
from asdic.quantization.calibration import Case, Inputs
from asdic.quantization.drop import PairedPoints, PairedScores, Pairing
from asdic.quantization.references import Expected, check_label, class_points, expected_of, may_flip
from asdic.quantization.slices import Part, Slice, group_parts, slices_of

AGREEMENT: Final = "agreement"
CLASS_COLUMN: Final = "class"


class EmptyCases(msgspec.Struct, frozen=True, kw_only=True):
    """Masks with nothing to find: how many, and the share (0 to 1) where something was found."""

    images: int
    fp32_false_alarms: float | None
    int8_false_alarms: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Judgement:
    """What FP32 and INT8 answered to the same cases, judged.

    ``references`` are masks, class numbers or arrays, one a case: what the judged output is
    compared with. ``judged`` are the numbers of the cases with something to find; ``fp32_points``
    and ``int8_points`` belong to these: the metric of each, or for a metric of a set (``auc``,
    ``map``) the one that stands in for single samples. ``pairing`` gives the metric of both and
    the drop with its interval. ``sqnr_db`` compares all tensors of all cases together, so that
    no quiet case dominates; ``case_sqnr_db`` those of each judged case. ``facts`` is the runtime
    that answered.
    """

    metric: str
    references: tuple[NDArray[Any], ...]
    fp32: tuple[Prediction, ...]
    int8: tuple[Prediction, ...]
    judged: tuple[int, ...]
    fp32_points: NDArray[np.float64]
    int8_points: NDArray[np.float64]
    pairing: Pairing
    case_facts: tuple[Mapping[str, str], ...]
    empty: EmptyCases
    sqnr_db: float
    case_sqnr_db: NDArray[np.float64]
    facts: RuntimeFacts

    @property
    def worst(self) -> int:
        """The number of the case that lost most."""
        return self.worst_cases(1)[0]

    def worst_cases(self, count: int) -> tuple[int, ...]:
        """Return the numbers of the ``count`` cases that lost most, the worst first.

        Of cases that lost as many points, the one whose tensors changed most comes first.
        """
        losses = self.fp32_points - self.int8_points
        order = np.lexsort((self.case_sqnr_db, -losses))
        return tuple(self.judged[number] for number in order[:count])

    def slices(self, *, seed: int = 0) -> tuple[Slice, ...]:
        """Return the drop within each class and within each value of the user's columns."""
        return slices_of(
            (*self._class_parts(), *group_parts(self.pairing, self.case_facts)), seed=seed
        )

    def _class_parts(self) -> Iterator[Part]:
        """Yield the classes; a single one would be all samples once more."""
        answers = [(self.fp32[one], self.int8[one], self.references[one]) for one in self.judged]
        classes = class_points(answers, self.fp32_points, self.int8_points)
        if len(classes) < 2:
            return
        for one in classes:
            yield Part(
                column=CLASS_COLUMN,
                value=one.label,
                samples=one.fp32.size,
                pairing=self.pairing.within_class(one.number, one.fp32, one.int8),
            )


def finite_or_none(value: float) -> float | None:
    """Return ``value`` as JSON can hold it: infinity (equal tensors) becomes None."""
    return value if math.isfinite(value) else None


def open_runner(
    runtime: Runtime, files: Sequence[Path], model: FloatFiles, *, threads: int | None = None
) -> Runner:
    """Return the model in ``files``, INT8 or float, loaded by ``runtime``.

    Args:
        runtime: The inference library.
        files: The one that it opens comes first.
        model: Says what the tensors mean.
        threads: Processor threads for one inference; None takes all usable ones.

    Raises:
        MissingPackageError: The runtime is not installed.
        QuantizationError: The runtime cannot load what the converter wrote.
    """
    try:
        return Runner(
            open_engine(runtime, files, threads=threads),
            preprocessing=model.preprocessing,
            postprocessing=model.postprocessing,
        )
    except ReleaseError as error:
        raise QuantizationError(str(error)) from error


def answers_of(runner: Runner, cases: Iterable[Case]) -> tuple[Prediction, ...]:
    """Return what ``runner`` says about each case.

    Raises:
        QuantizationError: An answer is not a number.
    """
    try:
        return tuple(runner.predict(case.inputs) for case in cases)
    except ReleaseError as error:
        raise QuantizationError(str(error)) from error


def judge(
    inputs: Inputs,
    fp32: tuple[Prediction, ...],
    int8: tuple[Prediction, ...],
    *,
    metric: str,
    facts: RuntimeFacts,
) -> Judgement:
    """Return what the answers are worth.

    With labels the first mask counts, else the first scores, else the first array. Without, all
    outputs do: a case's agreement is that of its worst output.

    Args:
        inputs: The cases, with labels or without.
        fp32: The float model's answers, one a case.
        int8: The quantized model's.
        metric: The model's own metric, which counts where there are labels.
        facts: The runtime that answered.

    Raises:
        ConfigError: The metric does not fit what the model answers.
        DataError: A label does not fit what the model answers (the case is named), or no case
            has anything to find.
        QuantizationError: An answer is not a number.
    """
    name = metric if inputs.labelled else AGREEMENT
    check_metric(name, fp32[0].rules)
    refuse_infinite("the float model", inputs.cases, fp32)
    refuse_infinite("the INT8 model", inputs.cases, int8)
    for case, answer in zip(inputs.cases, fp32, strict=True):
        check_label(case, answer)
    expected = tuple(map(expected_of, inputs.cases, fp32))
    judged = tuple(number for number, one in enumerate(expected) if one.outputs)
    if not judged:
        raise DataError("no image that judges has anything to find in it (all masks are empty)")
    references = tuple(one.reference for one in expected)
    fp32_points, int8_points = (
        np.array([_points(name, answers[one], expected[one]) for one in judged])
        for answers in (fp32, int8)
    )
    pairing: Pairing = (
        _paired_scores(name, fp32, int8, references)
        if name in SET_METRICS
        else PairedPoints(fp32_points, int8_points, may_flip=may_flip(expected, fp32[0].rules))
    )
    powers = np.array([_powers(*pair) for pair in zip(fp32, int8, strict=True)])
    return Judgement(
        metric=name,
        references=references,
        fp32=fp32,
        int8=int8,
        judged=judged,
        fp32_points=fp32_points,
        int8_points=int8_points,
        pairing=pairing,
        case_facts=tuple(inputs.cases[one].facts for one in judged),
        empty=_empty_cases(expected, fp32, int8),
        sqnr_db=decibel(*powers.sum(axis=0)),
        case_sqnr_db=np.array([decibel(*powers[one]) for one in judged]),
        facts=facts,
    )


def refuse_infinite(whose: str, cases: Sequence[Case], answers: Sequence[Prediction]) -> None:
    """Raise unless all answers are numbers: a broken model could have no drop at all.

    Raises:
        QuantizationError: One is NaN or infinite, which compares with nothing.
    """
    for case, answer in zip(cases, answers, strict=True):
        for name, tensor in answer.tensors.items():
            if not np.isfinite(tensor).all():
                raise QuantizationError(
                    f"{whose} answers NaN or infinity in {name!r} to {case.name}"
                )


def _points(metric: str, answer: Prediction, expected: Expected) -> float:
    """Return the points of a case: those of its worst output that is judged."""
    measure = metric_named(sample_metric_for(metric))
    return min(measure(answer.outputs[name], one) for name, one in expected.outputs.items())


def _paired_scores(
    metric: str,
    fp32: Sequence[Prediction],
    int8: Sequence[Prediction],
    references: Sequence[NDArray[Any]],
) -> PairedScores:
    if len({one.ndim for one in references}) > 1:
        raise DataError("some labels are one class and others several; give them all one form")
    return PairedScores(
        metric=metric,
        fp32=np.stack([one.judged for one in fp32]),
        int8=np.stack([one.judged for one in int8]),
        references=np.stack(references),
    )


def _empty_cases(
    expected: Sequence[Expected], fp32: Sequence[Prediction], int8: Sequence[Prediction]
) -> EmptyCases:
    places = [(number, name) for number, one in enumerate(expected) for name in one.empty]

    def alarms(answers: Sequence[Prediction]) -> float | None:
        found = [bool(answers[number].outputs[name].any()) for number, name in places]
        return sum(found) / len(found) if found else None

    return EmptyCases(
        images=len(places), fp32_false_alarms=alarms(fp32), int8_false_alarms=alarms(int8)
    )


def _powers(reference: Prediction, answer: Prediction) -> tuple[float, float]:
    """Return the power of the signal and of the noise in all tensors of a case."""
    signal = noise = 0.0
    for name, tensor in sorted(reference.tensors.items()):
        exact = tensor.astype(np.float64)
        if exact.shape != answer.tensors[name].shape:
            raise QuantizationError(
                f"{name!r} has shape {exact.shape} in the float model and "
                f"{answer.tensors[name].shape} in the INT8 model"
            )
        signal += float(np.square(exact).sum())
        noise += float(np.square(exact - answer.tensors[name]).sum())
    return signal, noise
