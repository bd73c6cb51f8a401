"""What quantization did to the answers: FP32 and INT8 asked the same, by the runtime that flies.

With labels the metric is the model's own. Without, nothing can be said about accuracy: INT8 is
then compared with FP32's own answers, and everything says "agreement".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import DataError, QuantizationError, ReleaseError
from asdic.contract.messages import RuntimeFacts
from asdic.contract.target import Runtime
from asdic.device.metrics import metric_named, sqnr_db
from asdic.device.runner.engine import open_engine
from asdic.device.runner.postprocess import Prediction
from asdic.device.runner.runner import Runner
from asdic.quantization.backends.backend import FloatFiles
from asdic.quantization.calibration import Case, Inputs

AGREEMENT: Final = "agreement"


class EmptyCases(msgspec.Struct, frozen=True, kw_only=True):
    """Images with nothing to find: how many, and the share (0 to 1) where something was found."""

    images: int
    fp32_false_alarms: float | None
    int8_false_alarms: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Judgement:
    """What FP32 and INT8 answered to the same cases, judged.

    ``references`` are masks or class numbers, one a case. ``judged`` are the numbers of the cases
    with something to find; ``fp32_points`` and ``int8_points`` belong to these. ``facts`` is the
    runtime that answered.
    """

    metric: str
    references: tuple[NDArray[Any], ...]
    fp32: tuple[Prediction, ...]
    int8: tuple[Prediction, ...]
    judged: tuple[int, ...]
    fp32_points: NDArray[np.float64]
    int8_points: NDArray[np.float64]
    empty: EmptyCases
    sqnr_db: float
    facts: RuntimeFacts

    @property
    def worst(self) -> int:
        """The number of the case that lost most."""
        return self.judged[int((self.fp32_points - self.int8_points).argmax())]


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


def answers_of(runner: Runner, cases: Sequence[Case]) -> tuple[Prediction, ...]:
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

    Args:
        inputs: The cases, with labels or without.
        fp32: The float model's answers, one a case.
        int8: The quantized model's.
        metric: The model's own metric, which counts where there are labels.
        facts: The runtime that answered.

    Raises:
        DataError: No case has anything to find.
    """
    name = metric if inputs.labelled else AGREEMENT
    measure = metric_named(name)
    references = tuple(
        case.reference if case.reference is not None else _own_answer(answer)
        for case, answer in zip(inputs.cases, fp32, strict=True)
    )
    judged = tuple(number for number, one in enumerate(references) if _holds_something(one))
    if not judged:
        raise DataError("no image that judges has anything to find in it (all masks are empty)")
    return Judgement(
        metric=name,
        references=references,
        fp32=fp32,
        int8=int8,
        judged=judged,
        fp32_points=np.array([measure(fp32[one].judged, references[one]) for one in judged]),
        int8_points=np.array([measure(int8[one].judged, references[one]) for one in judged]),
        empty=_empty_cases(set(range(len(references))) - set(judged), fp32, int8),
        sqnr_db=_total_sqnr_db(fp32, int8),
        facts=facts,
    )


def _own_answer(answer: Prediction) -> NDArray[Any]:
    """Return a float model's answer as a reference: its mask, or its most likely class."""
    judged = answer.judged
    return judged if judged.dtype == np.uint8 else np.array(int(judged.argmax()))


def _holds_something(reference: NDArray[Any]) -> bool:
    """Return whether there is something to find: a class number always says so, 0 included."""
    return reference.ndim == 0 or bool(reference.any())


def _empty_cases(
    numbers: set[int], fp32: Sequence[Prediction], int8: Sequence[Prediction]
) -> EmptyCases:
    def alarms(answers: Sequence[Prediction]) -> float | None:
        found = [bool(answers[number].mask.any()) for number in numbers]
        return sum(found) / len(found) if found else None

    return EmptyCases(
        images=len(numbers), fp32_false_alarms=alarms(fp32), int8_false_alarms=alarms(int8)
    )


def _total_sqnr_db(fp32: Sequence[Prediction], int8: Sequence[Prediction]) -> float:
    """Return the SQNR of all tensors of all cases together, so that no quiet case dominates."""
    pairs = [
        (reference.tensors[name], answer.tensors[name])
        for reference, answer in zip(fp32, int8, strict=True)
        for name in sorted(reference.tensors)
    ]
    return sqnr_db(
        np.concatenate([left.ravel() for left, _ in pairs]),
        np.concatenate([right.ravel() for _, right in pairs]),
    )
