from __future__ import annotations

import math

import numpy as np
import pytest

from asdic.contract.errors import ConfigError, DataError
from asdic.device.metrics import METRICS, agreement, dice, iou, metric_named, sqnr_db, top1

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


def test_scores_are_not_compared_with_a_mask():
    with pytest.raises(DataError, match="class number"):
        top1(np.array([0.5, 0.5]), LEFT)


def test_agreement_takes_masks_and_classes():
    assert agreement(TOP_LEFT, LEFT) == dice(TOP_LEFT, LEFT)
    assert agreement(np.array([0.1, 0.9]), np.array(1)) == 100.0


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
