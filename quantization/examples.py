"""Samples to look at: what FP32 and INT8 made of those that lost most, and of some usual ones.

The pictures are for people and no part of the variant.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import QuantizationError
from asdic.contract.files import write_file
from asdic.contract.variant import ArrayOutput, ClassOutput, MaskOutput
from asdic.device.metrics import judged_rule
from asdic.device.runner.postprocess import Prediction
from asdic.quantization.calibration import Case, Inputs
from asdic.quantization.judge import Judgement, finite_or_none

EXAMPLES_FOLDER: Final = "examples"
WORST: Final = 4
USUAL: Final = 2
_LONGEST_SIDE: Final = 512
_TOP_CLASSES: Final = 3
_GAP: Final = 4  # pixels between the pictures of an example
_GAP_GREY: Final = 128


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A sample to look at; ``fp32`` and ``int8`` are its points.

    ``fp32_answer`` and ``int8_answer`` are the likeliest classes with their scores, or empty
    where the answer is a mask or an array. ``sqnr_db`` is None where the tensors are equal.
    ``picture`` is a PNG in the variant's folder: the image, and for masks FP32's and INT8's
    beside it; empty where the input is no image.
    """

    name: str
    kind: Literal["worst", "usual"]
    fp32: float
    int8: float
    sqnr_db: float | None
    fp32_answer: str = ""
    int8_answer: str = ""
    picture: str = ""


def examples_of(judgement: Judgement, inputs: Inputs) -> tuple[Example, ...]:
    """Return the samples that lost most, the worst first, and then some usual ones."""
    place = {number: place for place, number in enumerate(judgement.judged)}
    return tuple(
        _example(judgement, inputs.cases[number], number, place[number], shown)
        for shown, number in enumerate(_chosen(judgement))
    )


def write_examples(folder: Path, judgement: Judgement, inputs: Inputs) -> None:
    """Write the pictures of ``examples_of`` into the variant's ``folder``."""
    shown = zip(_chosen(judgement), examples_of(judgement, inputs), strict=True)
    for number, example in shown:
        if not example.picture:
            continue
        parts = _parts(inputs.cases[number], judgement.fp32[number], judgement.int8[number])
        done, data = cv2.imencode(".png", _side_by_side([_shrunk(one) for one in parts]))
        if not done:
            raise QuantizationError(f"OpenCV cannot write a PNG of {example.name}")
        write_file(folder / example.picture, bytes(data))


def _chosen(judgement: Judgement) -> tuple[int, ...]:
    """Return the numbers of the cases that are shown."""
    worst = judgement.worst_cases(WORST)
    return (*worst, *[one for one in judgement.judged if one not in worst][:USUAL])


def _example(judgement: Judgement, case: Case, number: int, place: int, shown: int) -> Example:
    kind: Literal["worst", "usual"] = "worst" if shown < WORST else "usual"
    stem = PurePosixPath(case.name).stem
    return Example(
        name=case.name,
        kind=kind,
        fp32=float(judgement.fp32_points[place]),
        int8=float(judgement.int8_points[place]),
        sqnr_db=finite_or_none(float(judgement.case_sqnr_db[place])),
        fp32_answer=_answer(judgement.fp32[number]),
        int8_answer=_answer(judgement.int8[number]),
        picture=f"{EXAMPLES_FOLDER}/{shown}-{kind}-{stem}.png" if _image(case) is not None else "",
    )


def _answer(answer: Prediction) -> str:
    """Return the likeliest classes in words."""
    rule = judged_rule(answer.rules)
    if not isinstance(rule, ClassOutput):
        return ""
    scores = answer.outputs[rule.tensor]
    likeliest = np.argsort(-scores, kind="stable")[:_TOP_CLASSES]
    names = rule.labels or tuple(str(number) for number in range(scores.size))
    return ", ".join(f"{names[one]} {scores[one]:.3f}" for one in likeliest)


def _image(case: Case) -> NDArray[np.uint8] | None:
    """Return the first input that is an image."""
    for one in case.inputs.values():
        if one.dtype == np.uint8 and (one.ndim == 2 or (one.ndim == 3 and one.shape[2] == 3)):
            return one
    return None


def _parts(case: Case, fp32: Prediction, int8: Prediction) -> Iterator[NDArray[np.uint8]]:
    """Yield what an example shows: the image, and FP32's and INT8's mask."""
    image = _image(case)
    if image is None:
        return
    yield image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)
    rule = judged_rule(fp32.rules)
    match rule:
        case MaskOutput():
            for answer in (fp32, int8):
                yield np.repeat(_bright(answer.outputs[rule.tensor])[:, :, None], 3, axis=2)
        case ClassOutput() | ArrayOutput():
            return


def _shrunk(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    scale = _LONGEST_SIDE / max(picture.shape[:2])
    if scale >= 1.0:
        return picture
    size = (max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale)))
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)


def _side_by_side(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return RGB pictures of one height in a row, as OpenCV's BGR."""
    gap = np.full((pictures[0].shape[0], _GAP, 3), _GAP_GREY, np.uint8)
    parts: list[Any] = [pictures[0]]
    for picture in pictures[1:]:
        parts += [gap, picture]
    return np.concatenate(parts, axis=1)[:, :, ::-1]


def _bright(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(mask * (255 // max(int(mask.max()), 1)), np.uint8)
