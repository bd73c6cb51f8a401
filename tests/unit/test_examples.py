"""Which samples a report shows, and what of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from asdic.contract.messages import RuntimeFacts
from asdic.contract.variant import ArrayOutput, ClassOutput, MaskOutput
from asdic.device.runner.postprocess import Prediction
from asdic.quantization.calibration import Case, Inputs
from asdic.quantization.examples import USUAL, WORST, examples_of, write_examples
from asdic.quantization.judge import Judgement, judge

SIDE = 20
LABELS = ("cyst", "mass", "none")
Rule = MaskOutput | ClassOutput | ArrayOutput


def answer(value: NDArray[Any], rule: Rule) -> Prediction:
    tensor = value.astype(np.float32)
    return Prediction(outputs={rule.tensor: value}, tensors={rule.tensor: tensor}, rules=(rule,))


def judged(
    given: NDArray[Any], rule: Rule, pairs: list[tuple[NDArray[Any], NDArray[Any]]]
) -> tuple[Judgement, Inputs]:
    """Judge a case a pair of FP32's and INT8's answer, all to the same input, without labels."""
    cases = tuple(
        Case(name=f"images/{number}.png", inputs={"image": given}, reference=None)
        for number in range(len(pairs))
    )
    inputs = Inputs(calibration=(), cases=cases, labelled=False, notes=(), digest="")
    fp32, int8 = (tuple(answer(one, rule) for one in side) for side in zip(*pairs, strict=True))
    facts = RuntimeFacts(runtime="litert", version="1.0")
    return judge(inputs, fp32, int8, metric="agreement", facts=facts), inputs


def square(side: int) -> NDArray[np.uint8]:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[:side, :side] = 1
    return mask


@pytest.fixture
def masks() -> tuple[Judgement, Inputs]:
    """Ten images of which INT8 loses more and more of a square."""
    image = np.full((SIDE, SIDE, 3), (200, 100, 50), np.uint8)
    pairs = [(square(15), square(15 - number)) for number in range(10)]
    return judged(image, MaskOutput(tensor="mask"), pairs)


def test_the_samples_that_lost_most_come_first(masks: tuple[Judgement, Inputs]) -> None:
    shown = examples_of(*masks)
    assert [one.name for one in shown[:2]] == ["images/9.png", "images/8.png"]
    assert [one.kind for one in shown] == ["worst"] * WORST + ["usual"] * USUAL


def test_no_sample_is_shown_twice(masks: tuple[Judgement, Inputs]) -> None:
    names = [one.name for one in examples_of(*masks)]
    assert len(names) == len(set(names))


def test_a_picture_shows_the_image_and_both_masks(
    masks: tuple[Judgement, Inputs], tmp_path: Path
) -> None:
    write_examples(tmp_path, *masks)
    picture = cv2.imread(str(tmp_path / examples_of(*masks)[0].picture))
    assert picture is not None
    image, fp32, int8 = (picture[:, start : start + SIDE] for start in (0, SIDE + 4, 2 * SIDE + 8))
    assert image[0, 0].tolist() == [50, 100, 200]  # OpenCV's order, blue first
    assert [np.count_nonzero(one[:, :, 0]) for one in (fp32, int8)] == [15 * 15, 6 * 6]


def test_a_large_image_is_shown_smaller(tmp_path: Path) -> None:
    image = np.zeros((1024, 768), np.uint8)
    scores = np.array([0.1, 0.9])
    case = judged(image, ClassOutput(tensor="scores"), [(scores, scores)])
    write_examples(tmp_path, *case)
    picture = cv2.imread(str(tmp_path / examples_of(*case)[0].picture))
    assert picture is not None
    assert picture.shape == (512, 384, 3)


def test_the_likeliest_classes_are_said_with_their_scores() -> None:
    pairs = [(np.array([0.7, 0.2, 0.1]), np.array([0.3, 0.6, 0.1]))]
    image = np.zeros((SIDE, SIDE), np.uint8)
    (shown,) = examples_of(*judged(image, ClassOutput(tensor="scores", labels=LABELS), pairs))
    assert shown.fp32_answer == "cyst 0.700, mass 0.200, none 0.100"
    assert shown.int8_answer == "mass 0.600, cyst 0.300, none 0.100"


def test_an_input_that_is_no_image_has_no_picture(tmp_path: Path) -> None:
    array = np.zeros((1, 8), np.float32)
    case = judged(array, ArrayOutput(tensor="y"), [(np.ones(3), np.ones(3))])
    write_examples(tmp_path, *case)
    assert examples_of(*case)[0].picture == ""
    assert list(tmp_path.iterdir()) == []


def test_equal_answers_have_no_ratio_of_signal_to_noise() -> None:
    array = np.zeros((1, 8), np.float32)
    (shown,) = examples_of(*judged(array, ArrayOutput(tensor="y"), [(np.ones(3), np.ones(3))]))
    assert shown.sqnr_db is None
