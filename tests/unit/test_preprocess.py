from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.variant import ArrayInput, ImageInput
from asdic.device.runner.preprocess import prepare, prepare_image

GREY = ImageInput(tensor="x", height=4, width=6)
RANDOM = np.random.default_rng(0)
GREY_IMAGE = RANDOM.integers(0, 256, (4, 6), np.uint8)
COLOR_IMAGE = RANDOM.integers(0, 256, (4, 6, 3), np.uint8)


def rule(**changes):
    return ImageInput(**{"tensor": "x", "height": 4, "width": 6} | changes)


def test_a_grey_image_of_the_right_size_is_only_scaled():
    tensor = prepare_image(GREY_IMAGE, GREY)
    assert tensor.shape == (1, 1, 4, 6)
    assert tensor.dtype == np.float32
    np.testing.assert_array_equal(tensor[0, 0], (GREY_IMAGE / 255).astype(np.float32))


def test_mean_and_std_are_applied_a_channel():
    wanted = rule(color="rgb", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), layout="nhwc")
    expected = (COLOR_IMAGE / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]
    np.testing.assert_allclose(
        prepare_image(COLOR_IMAGE, wanted)[0], expected, rtol=1e-6, atol=1e-7
    )


def test_both_layouts_hold_the_same_values():
    rows_last = prepare_image(COLOR_IMAGE, rule(color="rgb", layout="nhwc"))
    rows_first = prepare_image(COLOR_IMAGE, rule(color="rgb", layout="nchw"))
    assert rows_last.shape == (1, 4, 6, 3)
    assert rows_first.shape == (1, 3, 4, 6)
    assert rows_first.flags.c_contiguous
    np.testing.assert_array_equal(rows_first.transpose(0, 2, 3, 1), rows_last)


def test_red_is_the_first_channel():
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 0] = 255
    assert prepare_image(red, rule(color="rgb"))[0, 0].min() == 1.0
    # ITU-R BT.601, which OpenCV uses, gives red a weight of 0.299.
    assert prepare_image(red, GREY)[0, 0, 0, 0] == pytest.approx(0.299, abs=1 / 255)


def test_a_grey_image_fills_all_colors():
    tensor = prepare_image(GREY_IMAGE, rule(color="rgb"))
    np.testing.assert_array_equal(tensor[0, 0], tensor[0, 2])


def test_shrinking_averages_areas():
    image = np.array([[0, 100], [100, 200]], np.uint8).repeat(4, 0).repeat(6, 1)
    tensor = prepare_image(image, rule(height=1, width=1, scale=1.0))
    assert tensor.item() == 100.0


def test_a_mean_between_two_steps_goes_up():
    image = np.array([[0, 1], [1, 0]], np.uint8)
    assert prepare_image(image, ImageInput(tensor="x", height=1, width=1, scale=1.0)) == 1.0


def test_growing_is_linear():
    image = np.array([[0, 200]], np.uint8)
    tensor = prepare_image(image, rule(height=1, width=4, scale=1.0))
    np.testing.assert_array_equal(tensor[0, 0], [[0, 50, 150, 200]])


@given(height=st.integers(1, 40), width=st.integers(1, 40), color=st.booleans())
def test_any_image_fits_and_a_flat_one_stays_flat(height, width, color):
    image = np.full((height, width, 3) if color else (height, width), 51, np.uint8)
    tensor = prepare_image(image, GREY)
    assert tensor.shape == (1, 1, 4, 6)
    np.testing.assert_array_equal(tensor, np.float32(51 / 255))


def test_a_view_that_is_not_contiguous_gives_the_same():
    wide = np.repeat(COLOR_IMAGE, 2, axis=1)
    np.testing.assert_array_equal(
        prepare_image(wide[:, ::2], GREY), prepare_image(COLOR_IMAGE, GREY)
    )


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (GREY_IMAGE.astype(np.float32), "not float32"),
        (np.full((4, 6), np.nan), "not float64"),
        (GREY_IMAGE.tolist(), "not list"),
        (np.zeros((4, 6, 4), np.uint8), r"\(4, 6, 4\)"),
        (np.zeros(4, np.uint8), r"\(4,\)"),
        (np.zeros((0, 6), np.uint8), r"\(0, 6\)"),
        (np.zeros((1, 20_000), np.uint8), r"\(1, 20000\)"),
    ],
)
def test_what_is_no_image_is_named(image, message):
    with pytest.raises(DataError, match=message):
        prepare_image(image, GREY)


@pytest.mark.parametrize(
    "changes",
    [
        {"std": (0.0,)},
        {"mean": (0.0, 0.0)},
        {"scale": float("nan")},
        {"height": 0},
        {"width": 1 << 20},
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(changes):
    with pytest.raises(ConfigError):
        prepare_image(GREY_IMAGE, rule(**changes))


def test_named_inputs_each_follow_their_rule():
    tensors = prepare(
        {"x": GREY_IMAGE, "depth": np.array([[3]], np.int8)}, [GREY, ArrayInput(tensor="depth")]
    )
    assert tensors["x"].shape == (1, 1, 4, 6)
    np.testing.assert_array_equal(tensors["depth"], np.array([[3.0]], np.float32))
    assert tensors["depth"].dtype == np.float32


@pytest.mark.parametrize("inputs", [{}, {"y": GREY_IMAGE}, {"x": GREY_IMAGE, "y": GREY_IMAGE}])
def test_missing_and_unknown_inputs_are_named(inputs):
    with pytest.raises(DataError, match=r"\['x'\]"):
        prepare(inputs, [GREY])


@pytest.mark.parametrize(
    "array", [np.array([np.nan]), np.array([np.inf], np.float32), np.zeros(0), np.array(["a"]), "a"]
)
def test_an_array_of_anything_but_numbers_is_refused(array):
    with pytest.raises(DataError, match="'depth'"):
        prepare({"depth": array}, [ArrayInput(tensor="depth")])
