"""What FP32's and INT8's answers are worth, on answers made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, DataError, QuantizationError
from asdic.contract.messages import RuntimeFacts
from asdic.contract.variant import ArrayOutput, ClassOutput, MaskOutput
from asdic.device.metrics import auc
from asdic.device.runner.postprocess import Prediction
from asdic.quantization.calibration import Case, Inputs
from asdic.quantization.judge import Judgement, judge
from asdic.quantization.slices import Slice, worst_slice

FACTS = RuntimeFacts(runtime="litert", version="1.0")
IMAGE = np.zeros((2, 2), np.uint8)
FULL = np.ones((2, 2), np.uint8)
HALF = np.array([[1, 1], [0, 0]], np.uint8)
NOTHING = np.zeros((2, 2), np.uint8)


def _mask(mask: NDArray[np.uint8]) -> Prediction:
    tensor = mask.astype(np.float32)
    return Prediction(outputs={"m": mask}, tensors={"m": tensor}, rules=(MaskOutput(tensor="m"),))


def _scores(*scores: float, labels: tuple[str, ...] = ()) -> Prediction:
    tensor = np.array(scores, np.float32)
    rule = ClassOutput(tensor="s", labels=labels)
    return Prediction(outputs={"s": tensor}, tensors={"s": tensor}, rules=(rule,))


def _array(*values: float) -> Prediction:
    tensor = np.array(values, np.float32)
    return Prediction(
        outputs={"a": tensor}, tensors={"a": tensor}, rules=(ArrayOutput(tensor="a"),)
    )


def _both(*predictions: Prediction) -> Prediction:
    """Return an answer with the outputs of several."""
    return Prediction(
        outputs={name: one for each in predictions for name, one in each.outputs.items()},
        tensors={name: one for each in predictions for name, one in each.tensors.items()},
        rules=tuple(rule for each in predictions for rule in each.rules),
    )


def _judge(
    references: list[NDArray[Any] | None],
    fp32: list[Prediction],
    int8: list[Prediction],
    *,
    metric: str = "dice",
    facts: list[dict[str, str]] | None = None,
) -> Judgement:
    inputs = Inputs(
        calibration=(),
        cases=tuple(
            Case(
                name=f"case {number}",
                inputs={"image": IMAGE},
                reference=one,
                facts=facts[number] if facts else {},
            )
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


# ---- without labels ------------------------------------------------------------------------


def test_without_labels_arrays_agree_by_their_relative_error() -> None:
    judgement = _judge([None], [_array(3.0, 4.0)], [_array(3.0, 4.5)], metric="agreement")
    assert judgement.metric == "agreement"
    assert judgement.int8_points == pytest.approx([90.0])


def test_a_case_agrees_as_its_worst_output_does() -> None:
    fp32 = _both(_mask(FULL), _scores(0.9, 0.1), _array(1.0))
    int8 = _both(_mask(HALF), _scores(0.6, 0.4), _array(0.9))
    assert _judge([None], [fp32], [int8]).int8_points == pytest.approx([200 / 3])
    int8 = _both(_mask(FULL), _scores(0.4, 0.6), _array(0.9))
    assert _judge([None], [fp32], [int8]).int8_points == pytest.approx([0.0])


def test_an_empty_mask_is_counted_apart_and_the_other_outputs_still_judge() -> None:
    fp32 = _both(_mask(NOTHING), _scores(0.9, 0.1))
    int8 = _both(_mask(HALF), _scores(0.9, 0.1))
    judgement = _judge([None], [fp32], [int8])
    assert judgement.int8_points == pytest.approx([100.0])
    assert (judgement.empty.images, judgement.empty.int8_false_alarms) == (1, 1.0)


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_an_answer_that_is_not_a_number_is_no_agreement(broken: float) -> None:
    with pytest.raises(QuantizationError, match=r"the INT8 model answers NaN .* 'a' to case 0"):
        _judge([None], [_array(1.0)], [_array(broken)], metric="agreement")
    with pytest.raises(QuantizationError, match="the float model answers"):
        _judge([None], [_array(broken)], [_array(broken)], metric="agreement")


def test_classes_that_all_agree_leave_room_for_flips_and_masks_do_not() -> None:
    scores, masks = [_scores(0.9, 0.1)] * 32, [_mask(FULL)] * 32
    flips = _judge([None] * 32, scores, scores).pairing.drop()
    assert flips.high == pytest.approx(10.7, abs=0.05)
    assert _judge([None] * 32, masks, masks).pairing.drop().high == 0.0


# ---- labels that do not fit ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "answer", "problem"),
    [
        (np.ones((3, 2), np.uint8), _mask(FULL), r"the mask is \(3, 2\), the image \(2, 2\)"),
        (FULL * 255, _mask(FULL), "the numbers 255 to 255, the model's classes are 0 to 1"),
        (FULL.astype(np.float32), _mask(FULL), "class numbers, not float32"),
        (np.array(2), _scores(0.9, 0.1), "2, which is not from 0 to 1"),
        (np.array([0, 1, 1]), _scores(0.9, 0.1), "the model knows 2 classes"),
        (np.array(1.0), _scores(0.9, 0.1), "not float64"),
        (np.ones(3, np.float32), _array(1.0), "the output"),
        (np.array([np.nan], np.float32), _array(1.0), "finite floats"),
    ],
)
def test_a_label_that_does_not_fit_is_named(
    label: NDArray[Any], answer: Prediction, problem: str
) -> None:
    metric = {"m": "dice", "s": "top1", "a": "agreement"}[answer.rules[0].tensor]
    with pytest.raises(DataError, match=f"the label of case 0 does not fit .*{problem}"):
        _judge([label], [answer], [answer], metric=metric)


def test_a_metric_that_does_not_fit_the_answers_is_refused() -> None:
    with pytest.raises(ConfigError, match="'dice' does not fit the output 's'"):
        _judge([np.array(0)], [_scores(0.9, 0.1)], [_scores(0.9, 0.1)], metric="dice")


def test_labels_of_one_form_only_make_a_set() -> None:
    labels = [np.array(0), np.array([0, 1])]
    with pytest.raises(DataError, match="give them all one form"):
        _judge(labels, [_scores(0.9, 0.1)] * 2, [_scores(0.9, 0.1)] * 2, metric="auc")


# ---- metrics of a set ----------------------------------------------------------------------


def _classified(
    count: int, *, noise: float = 0.0, seed: int = 0
) -> tuple[list[NDArray[Any] | None], list[Prediction]]:
    """Return labels of two classes in turn and answers to them, with noise of its own seed."""
    random = np.random.default_rng(1)
    labels: list[NDArray[Any] | None] = [np.array(number % 2) for number in range(count)]
    answers = random.normal(size=(count, 2))
    answers[np.arange(count), np.arange(count) % 2] += 1.0
    answers += np.random.default_rng(seed).normal(scale=noise, size=answers.shape) if noise else 0.0
    return labels, [_scores(*one, labels=("benign", "malignant")) for one in answers]


def test_a_metric_of_a_set_judges_all_cases_together() -> None:
    labels, fp32 = _classified(40)
    int8 = _classified(40, noise=1.0)[1]
    judgement = _judge(labels, fp32, int8, metric="auc")
    expected = [
        auc(np.stack([one.scores for one in each]), np.stack(labels)) for each in (fp32, int8)
    ]
    assert judgement.pairing.values() == pytest.approx(expected)
    assert judgement.pairing.drop().mean == pytest.approx(expected[0] - expected[1])


def test_its_single_cases_are_right_or_wrong() -> None:
    labels, fp32 = _classified(40)
    judgement = _judge(labels, fp32, fp32, metric="map")
    assert set(judgement.fp32_points) == {0.0, 100.0}


def test_its_classes_are_judged_against_the_rest() -> None:
    labels, fp32 = _classified(40)
    int8 = _classified(40, noise=1.0)[1]
    judgement = _judge(labels, fp32, int8, metric="auc")
    slices = judgement.slices()
    assert [(one.column, one.value, one.samples) for one in slices] == [
        ("class", "benign", 20),
        ("class", "malignant", 20),
    ]
    assert slices[0].drop == pytest.approx(judgement.pairing.drop().mean)  # of two, each is all


# ---- the worst, and parts ------------------------------------------------------------------


def test_of_cases_that_lost_as_much_the_one_that_changed_most_is_worst() -> None:
    fp32 = [_scores(0.9, 0.1)] * 3
    int8 = [_scores(0.8, 0.1), _scores(0.6, 0.1), _scores(0.9, 0.1)]
    judgement = _judge([np.array(0)] * 3, fp32, int8, metric="top1")
    assert judgement.worst_cases(3) == (1, 0, 2)
    assert judgement.worst_cases(2) == (1, 0)


def _sites(counts: dict[str, int]) -> list[dict[str, str]]:
    return [{"site": name} for name, count in counts.items() for _ in range(count)]


def test_a_group_that_lost_more_is_found() -> None:
    facts = _sites({"a": 12, "b": 10})
    int8 = [_mask(FULL)] * 12 + [_mask(HALF)] * 10
    judgement = _judge([FULL] * 22, [_mask(FULL)] * 22, int8, facts=facts)
    slices = judgement.slices()
    assert [(one.column, one.value, one.samples) for one in slices] == [
        ("site", "a", 12),
        ("site", "b", 10),
    ]
    worst = worst_slice(slices)
    assert worst is not None
    assert (worst.value, worst.fp32, worst.int8) == ("b", 100.0, pytest.approx(200 / 3))
    assert worst.ci95[0] <= worst.drop <= worst.ci95[1]


def test_a_group_of_few_samples_has_no_slice_of_its_own() -> None:
    facts = _sites({"a": 12, "b": 7, "": 9})
    answers = [_mask(FULL)] * 28
    judgement = _judge([FULL] * 28, answers, answers, facts=facts)
    assert [one.value for one in judgement.slices()] == ["a"]


def test_a_column_with_one_value_tells_nothing_apart() -> None:
    answers = [_mask(FULL)] * 12
    judgement = _judge([FULL] * 12, answers, answers, facts=_sites({"a": 12}))
    assert judgement.slices() == ()
    assert worst_slice(()) is None


def test_groups_count_the_cases_with_something_to_find() -> None:
    facts = _sites({"a": 10, "b": 10})
    labels: list[NDArray[Any] | None] = [FULL] * 9 + [NOTHING] + [FULL] * 10
    answers = [_mask(FULL)] * 20
    assert [one.samples for one in _judge(labels, answers, answers, facts=facts).slices()] == [
        9,
        10,
    ]


def test_a_class_that_is_lost_is_found_in_spite_of_a_good_mean() -> None:
    labels: list[NDArray[Any] | None] = [np.array(0)] * 30 + [np.array(1)] * 8
    fp32 = [_scores(0.9, 0.1)] * 30 + [_scores(0.2, 0.8)] * 8
    int8 = [_scores(0.9, 0.1)] * 38
    worst = worst_slice(_judge(labels, fp32, int8, metric="top1").slices())
    assert worst is not None
    assert (worst.column, worst.value, worst.drop) == ("class", "1", 100.0)


def test_classes_of_a_mask_are_judged_one_by_one() -> None:
    both = np.array([[1, 1], [2, 2]], np.uint8)
    second_lost = np.array([[1, 1], [0, 0]], np.uint8)

    def answer(mask: NDArray[np.uint8]) -> Prediction:
        rule = MaskOutput(tensor="m", activation="softmax")
        return Prediction(
            outputs={"m": mask}, tensors={"m": np.ones((1, 3, 2, 2), np.float32)}, rules=(rule,)
        )

    judgement = _judge([both] * 8, [answer(both)] * 8, [answer(second_lost)] * 8)
    found = {one.value: (one.fp32, one.int8) for one in judgement.slices()}
    assert found == {"1": (100.0, 100.0), "2": (100.0, 0.0)}


def test_a_group_that_has_one_class_alone_has_no_area() -> None:
    labels, fp32 = _classified(32)
    facts = [{"site": "ab"[number % 2]} for number in range(32)]
    slices: tuple[Slice, ...] = _judge(labels, fp32, fp32, metric="auc", facts=facts).slices()
    assert {one.column for one in slices} == {"class"}
