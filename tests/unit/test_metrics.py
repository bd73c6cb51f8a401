from __future__ import annotations

import math

import numpy as np
import pytest

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.variant import ArrayOutput, ClassOutput, MaskOutput
from asdic.device.metrics import (
    FITS,
    METRICS,
    SET_METRICS,
    agreement,
    check_metric,
    closeness,
    dice,
    iou,
    judged_rule,
    metric_named,
    sample_metric_for,
    sqnr_db,
    top1,
)

MASK = MaskOutput(tensor="mask")
SCORES = ClassOutput(tensor="scores")
ARRAY = ArrayOutput(tensor="array")

LEFT = np.array([[1, 1], [0, 0]], np.uint8)
TOP_LEFT = np.array([[1, 0], [0, 0]], np.uint8)
EMPTY = np.zeros((2, 2), np.uint8)


@pytest.mark.parametrize(
    ("prediction", "reference", "expected_dice", "expected_iou"),
    [
        (LEFT, LEFT, 100.0, 100.0),
        (TOP_LEFT, LEFT, 200 / 3, 50.0),
        (EMPTY, LEFT, 0.0, 0.0),
        (LEFT, EMPTY, 0.0, 0.0),
        (EMPTY, EMPTY, 100.0, 100.0),
    ],
)
def test_overlap_of_two_masks_is_as_by_hand(prediction, reference, expected_dice, expected_iou):
    assert dice(prediction, reference) == pytest.approx(expected_dice)
    assert iou(prediction, reference) == pytest.approx(expected_iou)


def test_several_classes_are_averaged_over_those_that_occur():
    prediction = np.array([1, 1, 2, 2, 0])
    reference = np.array([1, 1, 2, 0, 0])
    assert dice(prediction, reference) == pytest.approx((100 + 200 / 3) / 2)


def test_a_class_that_only_the_prediction_has_counts_as_missed():
    assert dice(np.array([1, 2]), np.array([1, 1])) == pytest.approx(100 * (2 / 3 + 0) / 2)


def test_a_boolean_mask_is_a_mask():
    assert dice(LEFT.astype(bool), LEFT) == 100.0


@pytest.mark.parametrize(
    ("prediction", "reference"),
    [
        (LEFT, np.zeros((3, 2), np.uint8)),
        (LEFT.astype(np.float32), LEFT),
        (LEFT.astype(np.int32) * 300, LEFT),
        (-LEFT.astype(np.int32), LEFT),
    ],
)
def test_what_is_no_pair_of_masks_is_refused(prediction, reference):
    with pytest.raises(DataError):
        dice(prediction, reference)


def test_the_highest_score_is_the_class():
    assert top1(np.array([[0.1, 0.7, 0.2]]), np.array(1)) == 100.0
    assert top1(np.array([[0.1, 0.7, 0.2]]), np.array(2)) == 0.0


def test_a_class_number_is_compared_as_it_is():
    assert top1(np.array(3), np.array(3)) == 100.0


def test_of_several_right_classes_the_highest_score_must_be_one():
    scores = np.array([0.1, 0.7, 0.2])
    assert top1(scores, np.array([1, 1, 0])) == 100.0
    assert top1(scores, np.array([1, 0, 1])) == 0.0
    assert top1(scores, np.array([0, 0, 0])) == 0.0


def test_scores_are_not_compared_with_a_mask():
    with pytest.raises(DataError, match="class number"):
        top1(np.array([0.5, 0.5]), LEFT)


def test_agreement_takes_masks_and_classes():
    assert agreement(TOP_LEFT, LEFT) == dice(TOP_LEFT, LEFT)
    assert agreement(np.array([0.1, 0.9]), np.array(1)) == 100.0


def test_agreement_takes_arrays_of_any_shape():
    reference = np.linspace(-1, 1, 24, dtype=np.float32).reshape(2, 3, 4)
    assert agreement(reference, reference) == 100.0
    assert agreement(0.9 * reference, reference) == pytest.approx(90.0, abs=1e-4)
    assert agreement(np.array([2.0]), np.array([4.0])) == pytest.approx(50.0)


@pytest.mark.parametrize(("decibel", "points"), [(20.0, 90.0), (30.0, 96.84), (40.0, 99.0)])
def test_points_of_arrays_are_a_function_of_the_sqnr(decibel, points):
    signal = np.random.default_rng(1).normal(size=500)
    noise = np.random.default_rng(2).normal(size=500)
    noise *= np.linalg.norm(signal) / np.linalg.norm(noise) * 10 ** (-decibel / 20)
    assert sqnr_db(signal, signal + noise) == pytest.approx(decibel)
    assert closeness(signal + noise, signal) == pytest.approx(points, abs=0.01)


def test_noise_louder_than_the_signal_has_no_points():
    assert closeness(np.array([-3.0, 4.0]), np.array([3.0, -4.0])) == 0.0


def test_silence_is_met_by_silence_alone():
    silence = np.zeros(4, np.float32)
    assert closeness(silence, silence) == 100.0
    assert closeness(np.full(4, 1e-6), silence) == 0.0


def test_an_answer_that_is_not_a_number_has_no_points():
    assert closeness(np.array([np.nan, 1.0]), np.ones(2)) == 0.0
    with pytest.raises(DataError, match="compares with nothing"):
        closeness(np.ones(2), np.array([np.inf, 1.0]))


def test_arrays_of_two_shapes_do_not_compare():
    with pytest.raises(DataError, match="shape"):
        closeness(np.ones(3), np.ones(4))


def test_a_tenth_of_the_amplitude_as_noise_is_20_db():
    signal = np.ones(100, np.float32)
    assert sqnr_db(signal, signal * 1.1) == pytest.approx(20.0, abs=1e-4)


def test_equal_tensors_have_no_noise():
    assert sqnr_db(LEFT, LEFT) == math.inf
    assert sqnr_db(EMPTY, EMPTY) == math.inf
    assert sqnr_db(EMPTY, LEFT) == -math.inf


def test_tensors_of_two_shapes_have_no_noise_ratio():
    with pytest.raises(DataError, match="shape"):
        sqnr_db(LEFT, LEFT.ravel())


def test_every_metric_is_found_by_its_name():
    assert [metric_named(name) for name in METRICS] == list(METRICS.values())


def test_an_unknown_metric_lists_the_known():
    with pytest.raises(ConfigError, match=r"'f1'.*dice, iou, top1, agreement"):
        metric_named("f1")


def test_a_metric_of_a_set_is_none_of_a_sample():
    with pytest.raises(ConfigError, match="'auc' needs all samples at once"):
        metric_named("auc")


def test_every_metric_says_what_it_fits():
    assert set(FITS) == {*METRICS, *SET_METRICS}


def test_what_stands_in_for_a_metric_of_a_set_is_one_of_a_sample():
    assert {name: sample_metric_for(name) for name in SET_METRICS} == {"auc": "top1", "map": "top1"}
    assert [sample_metric_for(name) for name in METRICS] == list(METRICS)
    with pytest.raises(ConfigError, match=r"'f1'.*auc, map"):
        sample_metric_for("f1")


@pytest.mark.parametrize(
    ("rule", "fitting"),
    [
        (MASK, {"dice", "iou", "agreement"}),
        (SCORES, {"top1", "auc", "map", "agreement"}),
        (ARRAY, {"agreement"}),
    ],
)
def test_a_metric_fits_kinds_of_output(rule, fitting):
    for metric in FITS:
        if metric in fitting:
            check_metric(metric, [rule])
        else:
            with pytest.raises(ConfigError, match=f"'{metric}' does not fit the output"):
                check_metric(metric, [rule])


def test_a_metric_that_does_not_fit_names_those_that_do():
    with pytest.raises(
        ConfigError, match=r"'dice' does not fit the output 'scores'.*: top1, auc, map, agreement"
    ):
        check_metric("dice", [SCORES])


def test_a_metric_that_nobody_knows_fits_nothing():
    with pytest.raises(ConfigError, match="unknown metric 'f1'"):
        check_metric("f1", [MASK])


def test_masks_are_judged_before_scores_and_scores_before_arrays():
    assert judged_rule([ARRAY, SCORES, MASK]) == MASK
    assert judged_rule([ARRAY, SCORES]) == SCORES
    assert judged_rule([ARRAY]) == ARRAY
    with pytest.raises(ConfigError, match="names no output"):
        judged_rule([])
