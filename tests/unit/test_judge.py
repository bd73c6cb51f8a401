"""What FP32's and INT8's answers are worth, on answers made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from asdic.contract.errors import DataError
from asdic.contract.messages import RuntimeFacts
from asdic.contract.variant import ClassOutput, MaskOutput
from asdic.device.runner.postprocess import Prediction
from asdic.quantization.calibration import Case, Inputs
from asdic.quantization.judge import Judgement, judge

FACTS = RuntimeFacts(runtime="litert", version="1.0")
IMAGE = np.zeros((2, 2), np.uint8)
FULL = np.ones((2, 2), np.uint8)
HALF = np.array([[1, 1], [0, 0]], np.uint8)
NOTHING = np.zeros((2, 2), np.uint8)


def _mask(mask: NDArray[np.uint8]) -> Prediction:
    tensor = mask.astype(np.float32)
    return Prediction(outputs={"m": mask}, tensors={"m": tensor}, rules=(MaskOutput(tensor="m"),))


def _scores(*scores: float) -> Prediction:
    tensor = np.array(scores, np.float32)
    return Prediction(
        outputs={"s": tensor}, tensors={"s": tensor}, rules=(ClassOutput(tensor="s"),)
    )


def _judge(
    references: list[NDArray[Any] | None],
    fp32: list[Prediction],
    int8: list[Prediction],
    *,
    metric: str = "dice",
) -> Judgement:
    inputs = Inputs(
        calibration=(),
        cases=tuple(
            Case(name=str(number), inputs={"image": IMAGE}, reference=one)
            for number, one in enumerate(references)
        ),
        labelled=references[0] is not None,
        notes=(),
        digest="",
    )
    return judge(inputs, tuple(fp32), tuple(int8), metric=metric, facts=FACTS)


def test_points_are_paired_case_by_case() -> None:
    judgement = _judge([FULL, HALF], [_mask(FULL), _mask(HALF)], [_mask(HALF), _mask(HALF)])
    assert judgement.fp32_points == pytest.approx([100.0, 100.0])
    assert judgement.int8_points == pytest.approx([200 / 3, 100.0])


def test_the_worst_case_is_the_one_that_lost_most() -> None:
    judgement = _judge(
        [NOTHING, HALF, FULL],
        [_mask(NOTHING), _mask(HALF), _mask(FULL)],
        [_mask(NOTHING), _mask(HALF), _mask(HALF)],
    )
    assert judgement.worst == 2


def test_images_with_nothing_to_find_are_judged_by_false_alarms_alone() -> None:
    judgement = _judge(
        [FULL, NOTHING, NOTHING],
        [_mask(FULL), _mask(NOTHING), _mask(NOTHING)],
        [_mask(FULL), _mask(NOTHING), _mask(HALF)],
    )
    assert judgement.judged == (0,)
    assert judgement.empty.images == 2
    assert (judgement.empty.fp32_false_alarms, judgement.empty.int8_false_alarms) == (0.0, 0.5)


def test_without_labels_fp32_itself_is_the_reference() -> None:
    judgement = _judge([None, None], [_mask(FULL), _mask(HALF)], [_mask(HALF), _mask(HALF)])
    assert judgement.metric == "agreement"
    assert judgement.fp32_points == pytest.approx([100.0, 100.0])
    assert judgement.int8_points == pytest.approx([200 / 3, 100.0])


def test_without_labels_classes_agree_or_do_not() -> None:
    judgement = _judge(
        [None, None],
        [_scores(0.9, 0.1), _scores(0.2, 0.8)],
        [_scores(0.6, 0.4), _scores(0.7, 0.3)],
        metric="top1",
    )
    assert judgement.int8_points == pytest.approx([100.0, 0.0])


def test_class_0_is_something_to_find() -> None:
    judgement = _judge([np.array(0)], [_scores(0.9, 0.1)], [_scores(0.8, 0.2)], metric="top1")
    assert judgement.judged == (0,)


def test_masks_that_are_all_empty_judge_nothing() -> None:
    with pytest.raises(DataError, match="all masks are empty"):
        _judge([NOTHING], [_mask(NOTHING)], [_mask(NOTHING)])


def test_equal_answers_have_no_noise() -> None:
    assert _judge([FULL], [_mask(FULL)], [_mask(FULL)]).sqnr_db == np.inf


def test_noise_is_measured_over_all_cases_together() -> None:
    noisy = Prediction(
        outputs={"m": FULL},
        tensors={"m": np.full((2, 2), 1.1, np.float32)},
        rules=(MaskOutput(tensor="m"),),
    )
    judgement = _judge([FULL, FULL], [_mask(FULL), _mask(FULL)], [noisy, _mask(FULL)])
    assert judgement.sqnr_db == pytest.approx(20.0 + 10 * np.log10(2), abs=0.01)
