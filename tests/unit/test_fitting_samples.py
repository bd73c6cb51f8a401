"""How a sample fits the model: inputs, labels, masks, arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from asdic.contract.errors import DataError
from asdic.contract.variant import (
    ArrayInput,
    ArrayOutput,
    ClassOutput,
    ImageInput,
    InputRule,
    MaskOutput,
    OutputRule,
    TensorSpec,
)
from asdic.quantization.calibration import read_inputs
from asdic.quantization.samples import inputs_of, reference_of, remarks_on
from asdic.training.description import ModelDescription
from asdic.training.samples import ArraySample

WORDS = (1, 49, 10, 1)
IMAGE = ImageInput(tensor="x", height=8, width=8)


def _model(
    rule: InputRule,
    output: OutputRule,
    *,
    takes: tuple[int, ...] = WORDS,
    gives: tuple[int, ...] = (1, 3),
) -> ModelDescription:
    return ModelDescription(
        name="net",
        task="raw",
        weights="model.onnx",
        inputs=(TensorSpec(name="x", shape=takes),),
        outputs=(TensorSpec(name="y", shape=gives),),
        preprocessing=(rule,),
        postprocessing=(output,),
    )


ARRAYS = _model(ArrayInput(tensor="x"), ClassOutput(tensor="y"))
NAMED = _model(ArrayInput(tensor="x"), ClassOutput(tensor="y", labels=("a", "b", "c")))
MASKS = _model(IMAGE, MaskOutput(tensor="y"), takes=(1, 1, 8, 8), gives=(1, 1, 8, 8))
SEVERAL = _model(
    IMAGE, MaskOutput(tensor="y", activation="softmax"), takes=(1, 1, 8, 8), gives=(1, 4, 8, 8)
)
VALUES = _model(ArrayInput(tensor="x"), ArrayOutput(tensor="y"))


def _sample(inputs: Any, reference: Any = None) -> ArraySample:
    return ArraySample(inputs=inputs, reference=reference, name="7")


@pytest.mark.parametrize("shape", [(49, 10), (490,), (49, 10, 1), WORDS])
def test_an_array_of_as_many_numbers_is_brought_to_the_tensor_s_shape(
    shape: tuple[int, ...],
) -> None:
    assert inputs_of(_sample(np.zeros(shape)), ARRAYS)["x"].shape == WORDS


@pytest.mark.parametrize(("shape", "said"), [((49, 10), True), ((49, 10, 1), False)])
def test_a_reshape_is_said_and_a_batch_of_one_is_not(shape: tuple[int, ...], said: bool) -> None:
    remarks = remarks_on(_sample(np.zeros(shape)), ARRAYS)
    assert any("are reshaped to (1, 49, 10, 1) for 'x'" in one for one in remarks) is said


def test_whole_numbers_for_an_array_are_remarked_on() -> None:
    (remark,) = remarks_on(_sample(np.zeros(WORDS, np.int8)), ARRAYS)
    assert remark.startswith("samples hold int8 numbers, which 'x' takes as they are")


def test_a_shape_that_does_not_fit_names_the_sample() -> None:
    with pytest.raises(DataError, match=r"sample 7 has shape \(5,\); the input 'x' takes \(1, 49"):
        inputs_of(_sample(np.zeros(5)), ARRAYS)


def test_inputs_of_other_names_are_refused() -> None:
    with pytest.raises(DataError, match="sample 7 has the inputs a, b; the model takes x"):
        inputs_of(_sample({"a": np.zeros(5), "b": np.zeros(5)}), ARRAYS)


@pytest.mark.parametrize("shape", [(6, 9), (6, 9, 1), (6, 9, 3)])
def test_an_image_may_be_grey_or_in_color(shape: tuple[int, ...]) -> None:
    assert inputs_of(_sample(np.zeros(shape, np.uint8)), MASKS)["x"].shape[:2] == (6, 9)


@pytest.mark.parametrize("array", [np.zeros((6, 9)), np.zeros((3, 6, 9), np.uint8)])
def test_a_tensor_for_an_image_is_refused(array: NDArray[Any]) -> None:
    with pytest.raises(DataError, match=r"which takes uint8 \(H, W\) or \(H, W, 3\); a tensor"):
        inputs_of(_sample(array), MASKS)


@pytest.mark.parametrize(
    ("model", "label", "number"), [(ARRAYS, 2, 2), (ARRAYS, "2", 2), (NAMED, "b", 1), (NAMED, 0, 0)]
)
def test_a_class_is_a_number_or_a_name(
    model: ModelDescription, label: int | str, number: int
) -> None:
    assert reference_of(_sample(np.zeros(WORDS), label), model) == number


@pytest.mark.parametrize(
    ("model", "label", "message"),
    [
        (NAMED, "cyst", "7 has the label 'cyst'; the model knows a, b, c"),
        (NAMED, "1", "7 has the label '1'; the model knows a, b, c"),
        (NAMED, 3, "7 has the label 3; the model knows a, b, c"),
        (ARRAYS, 12, "7 has the label 12; the model knows the classes 0 to 2"),
        (ARRAYS, -1, "7 has the label -1; the model knows"),
        (ARRAYS, "cyst", r"the classes 0 to 2 \(names are written in model\.toml\)"),
        (ARRAYS, np.zeros(4, int), r"label of shape \(4,\); the model has 3 classes"),
        (ARRAYS, np.array([0, 1, 2]), "one number, or 3 of 0 and 1"),
        (MASKS, 3, "has no mask of class numbers but the label 3"),
        (MASKS, np.zeros((8, 8)), "but a float64 array of shape"),
        (MASKS, np.full((8, 8), 3, np.uint8), "holds numbers up to 3; a mask of two classes"),
        (
            SEVERAL,
            np.full((8, 8), 255, np.uint8),
            "holds class 255; the model's classes are 0 to 3",
        ),
        (VALUES, np.zeros(4), r"reference of shape \(4,\); the output 'y' is \(1, 3\)"),
        (VALUES, "cyst", "'y' is an array"),
    ],
)
def test_labels_that_the_model_does_not_have_are_refused(
    model: ModelDescription, label: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        reference_of(_sample(np.zeros((8, 8), np.uint8), label), model)


def test_a_mask_of_black_and_white_becomes_0_and_1() -> None:
    mask = np.array([[0, 255]], np.uint8)
    found = reference_of(_sample(np.zeros((1, 2), np.uint8), mask), MASKS)
    np.testing.assert_array_equal(found, [[0, 1]])


def test_a_mask_of_several_classes_stays_as_it_is() -> None:
    mask = np.array([[0, 3, 2]], np.uint8)
    found = reference_of(_sample(np.zeros((1, 3), np.uint8), mask), SEVERAL)
    np.testing.assert_array_equal(found, mask)


def test_an_array_is_what_an_array_output_should_be() -> None:
    found = reference_of(_sample(np.zeros(WORDS), np.array([1.0, 2.0, 3.0])), VALUES)
    assert found is not None
    assert (found.shape, found.dtype) == ((1, 3), np.float32)


def test_real_keywords_calibrate_and_judge(shared_data: Path) -> None:
    model = _model(ArrayInput(tensor="x"), ClassOutput(tensor="y"), gives=(1, 12))
    inputs = read_inputs(shared_data / "keywords" / "inputs_int8.npz", model)
    assert (len(inputs.calibration), inputs.labelled) == (64, True)
    assert len(inputs.cases) >= 256
    assert inputs.calibration[0]["x"].shape == WORDS
