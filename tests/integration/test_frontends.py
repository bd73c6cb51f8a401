"""Models of every kind that people bring: what is read, what is assumed, and what is refused."""

from __future__ import annotations

import importlib
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from asdic.contract.errors import ConfigError, QuantizationError, UnsupportedModelError
from asdic.contract.target import ModelFormat
from asdic.contract.variant import ArrayInput, ClassOutput, ImageInput, MaskOutput, TensorSpec
from asdic.quantization.job import ConvertJob, Workers, write_calibration
from asdic.quantization.kinds import FloatModel, SourceKind
from asdic.quantization.source import Reading, read_source
from tests.support.disc_finder import SIDE, DiscFinder, WithOperator, example
from tests.support.small_models import (
    Clip,
    TwoInputs,
    make_discs,
    with_external_weights,
    write_onnx,
    write_program,
)

IMAGE = TensorSpec(name="image", shape=(1, 1, SIDE, SIDE))
FACTORY = f"{make_discs.__module__}:{make_discs.__name__}"


def convert(model: FloatModel, model_format: ModelFormat, folder: Path) -> None:
    """Convert a model, which compares the result's answers with the source's."""
    random = np.random.default_rng(0)
    inputs = {spec.name: random.random(spec.shape, np.float32) for spec in model.description.inputs}
    write_calibration([inputs], folder / "calibration.npz")
    job = ConvertJob(model=model, model_format=model_format, calibration=folder / "calibration.npz")
    Workers().convert(job, folder / "float")


# What is read, and what is assumed


def test_an_onnx_file_is_read_with_its_names_and_one_sample_at_a_time(tmp_path: Path) -> None:
    model = read_source(write_onnx(tmp_path / "discs.onnx", DiscFinder()), tmp_path)
    assert model.kind is SourceKind.ONNX
    assert model.description.inputs == (IMAGE,)
    assert isinstance(model.description.postprocessing[0], MaskOutput)
    assert model.assumptions[0].startswith("the input 'image' takes one sample at a time")


def test_a_program_with_two_inputs_and_outputs_is_read(tmp_path: Path) -> None:
    path = write_program(tmp_path / "two.pt2", TwoInputs(), example(), torch.ones(1, 1))
    description = read_source(path, tmp_path).description
    assert [type(rule) for rule in description.preprocessing] == [ImageInput, ArrayInput]
    assert [type(rule) for rule in description.postprocessing] == [MaskOutput, ClassOutput]
    assert [spec.name for spec in description.outputs] == ["output_0", "output_1"]


def test_a_clip_is_an_array(tmp_path: Path) -> None:
    path = write_program(tmp_path / "clip.pt2", Clip(), torch.zeros(1, 1, 8, 16, 16))
    (rule,) = read_source(path, tmp_path).description.preprocessing
    assert isinstance(rule, ArrayInput)


def test_a_factory_with_weights_is_read(tmp_path: Path) -> None:
    torch.save(DiscFinder().state_dict(), tmp_path / "weights.pt")
    reading = Reading(shapes={"image": IMAGE.shape}, weights=tmp_path / "weights.pt")
    model = read_source(FACTORY, tmp_path, reading=reading)
    assert (model.name, model.description.inputs) == ("make_discs", (IMAGE,))


def test_integer_weights_of_a_tflite_file_are_taken_as_numbers(
    shared_data: Path, tmp_path: Path
) -> None:
    model = read_source(shared_data / "models" / "kws_fp32.tflite", tmp_path)
    assert model.kind is SourceKind.TFLITE
    assert any("stored as integers" in line for line in model.assumptions)
    assert model.description.task == "classification"


def test_a_description_beside_a_file_counts(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "discs.onnx", DiscFinder())
    (tmp_path / "model.toml").write_text(DESCRIPTION)
    model = read_source(path, tmp_path)
    assert (model.name, model.assumptions[1:]) == ("by-hand", ())
    assert model.description.outputs[0].name == "lesion"


DESCRIPTION = f"""
name = "by-hand"
task = "segmentation"
weights = "discs.onnx"

[[inputs]]
name = "scan"
shape = [1, 1, {SIDE}, {SIDE}]

[[outputs]]
name = "lesion"
shape = [1, 1, {SIDE}, {SIDE}]

[[preprocessing]]
type = "image"
tensor = "scan"
height = {SIDE}
width = {SIDE}

[[postprocessing]]
type = "mask"
tensor = "lesion"
"""


def test_a_description_that_does_not_fit_the_file_is_refused(tmp_path: Path) -> None:
    write_onnx(tmp_path / "discs.onnx", DiscFinder())
    (tmp_path / "model.toml").write_text(DESCRIPTION.replace(f"{SIDE}]", "48]"))
    with pytest.raises(ConfigError, match=r"does not fit|model.toml gives discs.onnx"):
        read_source(tmp_path, tmp_path)


# Keras


def _keras() -> Any:
    if os.environ.get("CI"):
        return importlib.import_module("keras")
    return pytest.importorskip("keras", reason="needs tensorflow: install asdic[keras]")


@pytest.fixture(scope="module")
def keras_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with classes.keras and the SavedModel classes."""
    keras = _keras()
    folder = tmp_path_factory.mktemp("keras")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1), name="image"),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="scores"),
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between its own modules
        model.save(folder / "classes.keras")
        model.export(str(folder / "classes"), verbose=False)
    return folder


@pytest.mark.parametrize("name", ["classes.keras", "classes"])
@pytest.mark.parametrize("model_format", ModelFormat)
def test_keras_models_reach_every_format(
    keras_folder: Path, tmp_path: Path, name: str, model_format: ModelFormat
) -> None:
    model = read_source(keras_folder / name, tmp_path)
    assert (model.kind, model.description.inputs[0].name) == (SourceKind.TFLITE, "image")
    convert(model, model_format, tmp_path)


def test_code_in_a_keras_file_is_not_run(tmp_path: Path) -> None:
    keras = _keras()
    trap = tmp_path / "sprung"
    place = str(trap)
    layer = keras.layers.Lambda(lambda x, path=place: (Path(path).touch(), x)[1])
    model = keras.Sequential([keras.Input((4,)), layer])
    model.save(tmp_path / "lambda.keras")
    trap.unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_source(tmp_path / "lambda.keras", tmp_path)
    assert not trap.exists()


# Which kind reaches which format


@pytest.mark.parametrize("model_format", ModelFormat)
def test_an_onnx_file_answers_the_same_in_every_format(
    tmp_path: Path, model_format: ModelFormat
) -> None:
    model = read_source(write_onnx(tmp_path / "discs.onnx", DiscFinder()), tmp_path)
    convert(model, model_format, tmp_path)


@pytest.mark.parametrize("model_format", ModelFormat)
def test_a_tflite_file_answers_the_same_in_every_format(
    shared_data: Path, tmp_path: Path, model_format: ModelFormat
) -> None:
    convert(
        read_source(shared_data / "models" / "kws_fp32.tflite", tmp_path), model_format, tmp_path
    )


@pytest.mark.parametrize("model_format", ModelFormat)
def test_several_inputs_and_outputs_answer_the_same_in_every_format(
    tmp_path: Path, model_format: ModelFormat
) -> None:
    path = write_program(tmp_path / "two.pt2", TwoInputs(), example(), torch.ones(1, 1))
    convert(read_source(path, tmp_path), model_format, tmp_path)


# Bad input


def test_open_sides_are_asked_for_and_fixed_by_a_shape(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "discs.onnx", DiscFinder(), open_sides=True)
    with pytest.raises(
        UnsupportedModelError, match=r"'image' has the shape batchx1xheightxwidth.*--input-shape"
    ):
        read_source(path, tmp_path)
    shape = (1, 1, 48, 64)
    model = read_source(path, tmp_path, reading=Reading(shapes={"": shape}))
    assert model.description.outputs[0].shape == shape


def test_open_sides_of_a_program_are_fixed_by_a_shape(tmp_path: Path) -> None:
    sides = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    path = write_program(tmp_path / "discs.pt2", DiscFinder(), example(), dynamic_shapes=(sides,))
    with pytest.raises(UnsupportedModelError, match="--input-shape image=1x"):
        read_source(path, tmp_path)
    model = read_source(path, tmp_path, reading=Reading(shapes={"image": (1, 1, 48, 48)}))
    assert model.description.inputs[0].shape == (1, 1, 48, 48)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"": (1, 3, SIDE, SIDE)}, "does not fit"),
        ({"picture": IMAGE.shape}, "no input 'picture'"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], words: str
) -> None:
    path = write_onnx(tmp_path / "discs.onnx", DiscFinder())
    with pytest.raises(ConfigError, match=words):
        read_source(path, tmp_path, reading=Reading(shapes=shapes))


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd"])
def test_weights_out_of_the_models_folder_are_refused(tmp_path: Path, location: str) -> None:
    path = with_external_weights(write_onnx(tmp_path / "discs.onnx", DiscFinder()), location)
    with pytest.raises(ConfigError, match="out of the model's folder"):
        read_source(path, tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite", "model.keras", "model.pt2"])
def test_rubbish_is_one_clear_line(tmp_path: Path, name: str) -> None:
    if name.endswith("keras"):
        _keras()
    (tmp_path / name).write_bytes(b"rubbish" * 100)
    with pytest.raises(ConfigError, match=rf"{name} is not [^\n]*$"):
        read_source(tmp_path / name, tmp_path)


def test_a_file_of_an_unknown_kind_is_refused_and_what_is_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "model.h5").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"does not read; it reads \.pt2, .*\.onnx"):
        read_source(tmp_path / "model.h5", tmp_path)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        ("no.such.package:make", "cannot be imported"),
        ("tests.support.small_models:missing", "there is no 'missing'"),
        ("tests.support.small_models:TwoInputs.forward", "failed|there is no"),
        ("tests.support.small_models:write_onnx", "failed: TypeError"),
    ],
)
def test_a_factory_that_fails_is_one_clear_line(tmp_path: Path, factory: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read_source(factory, tmp_path, reading=Reading(shapes={"": IMAGE.shape}))


def test_weights_that_are_a_pickle_are_not_opened(tmp_path: Path) -> None:
    torch.save({"finder": DiscFinder()}, tmp_path / "weights.pt")
    reading = Reading(shapes={"image": IMAGE.shape}, weights=tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match="holds more than weights"):
        read_source(FACTORY, tmp_path, reading=reading)


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save(Clip().state_dict(), tmp_path / "weights.pt")
    reading = Reading(shapes={"image": IMAGE.shape}, weights=tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match="weights of another model"):
        read_source(FACTORY, tmp_path, reading=reading)


def test_a_weight_that_is_not_a_number_is_named(tmp_path: Path) -> None:
    network = DiscFinder()
    with torch.no_grad():
        network.gain.weight[0, 3] = float("nan")
    path = write_program(tmp_path / "nan.pt2", network, example())
    with pytest.raises(QuantizationError, match=r"'gain\.weight' holds NaN or infinity in 1 of 8"):
        convert(read_source(path, tmp_path), ModelFormat.OPENVINO_IR, tmp_path)


def test_an_unsupported_operator_is_named_with_its_layer(tmp_path: Path) -> None:
    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = WithOperator()

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            answer: torch.Tensor = self.head(image)
            return answer

    path = write_program(tmp_path / "bessel.pt2", Wrapped(), example())
    with pytest.raises(UnsupportedModelError, match=r"bessel_j0 \(in the layer 'head'\)"):
        convert(read_source(path, tmp_path), ModelFormat.OPENVINO_IR, tmp_path)


def test_an_archive_without_a_model_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    with pytest.raises(ConfigError, match="holds weights without code"):
        read_source(tmp_path / "model.pt", tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"neither model.toml nor saved_model.pb"):
        read_source(tmp_path / "empty", tmp_path)


def test_an_old_onnx_file_is_brought_to_a_newer_opset(tmp_path: Path) -> None:
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"], name="relu")],
        "old",
        [info("x", onnx.TensorProto.FLOAT, [1, 4])],
        [info("y", onnx.TensorProto.FLOAT, [1, 4])],
    )
    opsets = [onnx.helper.make_opsetid("", 11)]
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "old.onnx"
    )
    model = read_source(tmp_path / "old.onnx", tmp_path)
    assert onnx.load(model.path).opset_import[0].version >= 13
