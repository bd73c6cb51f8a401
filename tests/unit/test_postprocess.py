from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asdic.contract.errors import ConfigError, ReleaseError
from asdic.contract.variant import ArrayOutput, ClassOutput, MaskOutput
from asdic.device.runner.postprocess import Prediction, interpret, logit, mask_of

SIGMOID = MaskOutput(tensor="m")
SOFTMAX = MaskOutput(tensor="m", activation="softmax")
RANDOM = np.random.default_rng(0)


def tensor(*planes):
    return np.array([planes], np.float32)


def predict(tensors, *rules):
    return Prediction(interpret(tensors, rules, size=None), tensors, rules)


def test_a_positive_logit_is_foreground():
    mask = mask_of(tensor([[-1.0, 0.0, 0.5]]), SIGMOID)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, [[0, 0, 1]])


@given(st.floats(0.01, 0.99), st.floats(-6, 6))
def test_the_threshold_is_one_on_the_probability(threshold, value):
    probability = 1 / (1 + np.exp(-value))
    rule = MaskOutput(tensor="m", threshold=threshold)
    if abs(probability - threshold) > 1e-5:
        assert mask_of(tensor([[value]]), rule).item() == (probability > threshold)


@given(st.floats(0.01, 0.99), st.floats(-6, 6), st.floats(-6, 6))
def test_two_classes_compare_the_probability_of_the_second(threshold, first, second):
    probability = np.exp(second) / (np.exp(first) + np.exp(second))
    rule = MaskOutput(tensor="m", activation="softmax", threshold=threshold)
    if abs(probability - threshold) > 1e-5:
        assert mask_of(tensor([[first]], [[second]]), rule).item() == (probability > threshold)


def test_more_classes_take_the_most_likely():
    logits = RANDOM.normal(size=(1, 5, 7, 9)).astype(np.float32)
    np.testing.assert_array_equal(mask_of(logits, SOFTMAX), logits[0].argmax(0))


@pytest.mark.parametrize("channels", [2, 5])
def test_both_layouts_give_the_same_mask(channels):
    logits = RANDOM.normal(size=(1, channels, 7, 9)).astype(np.float32)
    last = MaskOutput(tensor="m", activation="softmax", layout="nhwc")
    np.testing.assert_array_equal(
        mask_of(logits, SOFTMAX), mask_of(logits.transpose(0, 2, 3, 1), last)
    )


def test_the_mask_takes_the_images_size():
    mask = mask_of(tensor([[-1.0, 1.0]]), SIGMOID, size=(2, 6))
    np.testing.assert_array_equal(mask, [[0, 0, 0, 1, 1, 1]] * 2)


@pytest.mark.parametrize("rule", [SIGMOID, SOFTMAX])
def test_a_mask_is_never_made_of_nan(rule):
    planes = 1 if rule is SIGMOID else 2
    logits = np.zeros((1, planes, 3, 3), np.float32)
    logits[0, 0, 1, 1] = np.nan
    with pytest.raises(ReleaseError, match="'m' holds NaN"):
        mask_of(logits, rule)


@pytest.mark.parametrize(
    ("shape", "rule"),
    [
        ((1, 2, 3, 3), SIGMOID),
        ((1, 1, 3, 3), SOFTMAX),
        ((2, 1, 3, 3), SIGMOID),
        ((1, 3, 3), SIGMOID),
        ((1, 0, 3, 3), SIGMOID),
    ],
)
def test_a_tensor_that_is_no_mask_is_named(shape, rule):
    with pytest.raises(ReleaseError, match="output 'm'"):
        mask_of(np.zeros(shape, np.float32), rule)


@pytest.mark.parametrize("threshold", [0.0, 1.0, -1.0, float("nan")])
def test_a_threshold_lies_between_0_and_1(threshold):
    with pytest.raises(ReleaseError, match="threshold"):
        logit(threshold)


def test_scores_have_a_label():
    prediction = predict(
        {"c": np.array([[0.1, 0.9]], np.float32)}, ClassOutput(tensor="c", labels=("no", "yes"))
    )
    np.testing.assert_array_equal(prediction.scores, np.array([0.1, 0.9], np.float32))
    assert prediction.label == "yes"


def test_without_names_the_label_is_the_number():
    assert predict({"c": np.array([[0, 2, 1]], np.float32)}, ClassOutput(tensor="c")).label == "1"


@pytest.mark.parametrize("scores", [np.zeros((1, 3)), np.array([[0.0, np.nan]])])
def test_scores_that_do_not_fit_are_refused(scores):
    with pytest.raises(ReleaseError, match="output 'c'"):
        predict({"c": scores}, ClassOutput(tensor="c", labels=("no", "yes")))


def test_several_outputs_are_found_by_name():
    tensors = {
        "m": tensor([[1.0]]),
        "c": np.array([[1.0, 0.0]], np.float32),
        "raw": np.array([7.0], np.float32),
    }
    rules = (ArrayOutput(tensor="raw"), ClassOutput(tensor="c"), SIGMOID)
    prediction = predict(tensors, *rules)
    assert set(prediction.outputs) == {"m", "c", "raw"}
    assert prediction.outputs["raw"] is tensors["raw"]
    assert prediction.mask.item() == 1
    assert prediction.label == "0"
    assert prediction.judged is prediction.mask


def test_without_mask_and_scores_an_array_is_judged():
    prediction = predict({"raw": np.array([7.0], np.float32)}, ArrayOutput(tensor="raw"))
    assert prediction.judged is prediction.outputs["raw"]


def test_a_mask_that_is_not_there_is_said_so():
    prediction = predict({"c": np.array([[1.0, 0.0]], np.float32)}, ClassOutput(tensor="c"))
    with pytest.raises(ConfigError, match=r"no mask output, only \['c'\]"):
        _ = prediction.mask
