"""From each kind of float model to each format: the same answers, or one clear line."""

from __future__ import annotations

import logging
import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from asdic.contract.errors import ConfigError, QuantizationError, UnsupportedModelError
from asdic.contract.target import ModelFormat
from asdic.contract.variant import TensorSpec
from asdic.quantization.backends.backend import FloatFiles
from asdic.quantization.converters.converter import CONVERTERS
from asdic.quantization.converters.weights import READERS
from asdic.quantization.kinds import FloatModel, SourceKind
from asdic.quantization.source import Reading
from tests.conftest import REPOSITORY
from tests.support.disc_finder import SIDE, DiscFinder, WithOperator, example, write_run
from tests.support.here import convert, read
from tests.support.small_models import (
    Clip,
    TwoInputs,
    node,
    write_graph,
    write_onnx,
    write_program,
)

QUICK = (ModelFormat.OPENVINO_IR, ModelFormat.ONNX_QDQ)
"""Those that do not need litert-torch, which takes five seconds to import, and a worker."""


def test_every_kind_reaches_every_format() -> None:
    assert set(CONVERTERS) == set(product(SourceKind, ModelFormat))


@pytest.mark.parametrize("model_format", ModelFormat)
def test_an_onnx_file_answers_the_same_in_every_format(
    tmp_path: Path, model_format: ModelFormat
) -> None:
    model = read(write_onnx(tmp_path / "discs.onnx", DiscFinder()), tmp_path)
    files = convert(model, model_format, tmp_path / "float")
    assert [spec.name for spec in (*files.inputs, *files.outputs)] == ["image", "logits"]


def test_an_onnx_file_answers_the_same_in_litert_under_any_name(tmp_path: Path) -> None:
    name = "onnx::Relu/1.y"  # which is none in Python
    nodes = [node("Conv", ["x", "w"], ["c"], pads=[1] * 4), node("Relu", ["c"], [name])]
    weight = np.ones((3, 2, 3, 3), np.float32)
    path = write_graph(tmp_path / "names.onnx", nodes, {"w": weight}, outputs={name: 4})
    files = convert(read(path, tmp_path), ModelFormat.TFLITE, tmp_path / "float")
    assert files.outputs == (TensorSpec(name=name, shape=(1, 3, 8, 8)),)


@pytest.mark.parametrize("model_format", ModelFormat)
def test_a_tflite_file_answers_the_same_in_every_format(
    shared_data: Path, tmp_path: Path, model_format: ModelFormat
) -> None:
    model = read(shared_data / "models" / "kws_fp32.tflite", tmp_path)
    files = convert(model, model_format, tmp_path / "float")
    assert files.inputs == model.description.inputs


@pytest.mark.parametrize("model_format", ModelFormat)
def test_several_inputs_and_outputs_answer_the_same_in_every_format(
    tmp_path: Path, model_format: ModelFormat
) -> None:
    path = write_program(tmp_path / "two.pt2", TwoInputs(), example(), torch.ones(1, 1))
    files = convert(read(path, tmp_path), model_format, tmp_path / "float")
    assert [spec.name for spec in files.inputs] == ["image", "gain"]
    assert [spec.name for spec in files.outputs] == ["output_0", "output_1"]


def test_only_images_and_masks_are_laid_channels_last_for_litert(
    in_litert: tuple[FloatFiles, Path],
) -> None:
    files, _ = in_litert
    assert files.channels_last == ("image", "output_0")
    assert [spec.shape for spec in files.inputs] == [(1, SIDE, SIDE, 1), (1, 1)]


@pytest.fixture(scope="module")
def in_litert(tmp_path_factory: pytest.TempPathFactory) -> tuple[FloatFiles, Path]:
    """A program with two inputs and outputs, converted for LiteRT."""
    folder = tmp_path_factory.mktemp("litert")
    path = write_program(folder / "two.pt2", TwoInputs(), example(), torch.ones(1, 1))
    return convert(read(path, folder), ModelFormat.TFLITE, folder / "float"), folder / "float"


@pytest.mark.parametrize("model_format", ModelFormat)
def test_a_clip_stays_as_it_is(tmp_path: Path, model_format: ModelFormat) -> None:
    path = write_program(tmp_path / "clip.pt2", Clip(), torch.zeros(1, 1, 8, 16, 16))
    files = convert(read(path, tmp_path), model_format, tmp_path / "float")
    assert (files.inputs[0].shape, files.channels_last) == ((1, 1, 8, 16, 16), ())


def test_open_sides_of_a_described_program_are_fixed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tmp_path)
    sides = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    write_program(run / "model.pt2", DiscFinder(), example(), dynamic_shapes=(sides,))
    files = convert(read(run, tmp_path), ModelFormat.ONNX_QDQ, tmp_path / "float")
    assert files.outputs == (TensorSpec(name="logits", shape=(1, 1, SIDE, SIDE)),)


def test_a_program_that_its_description_does_not_fit_is_refused(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", tmp_path)
    write_program(run / "model.pt2", DiscFinder(), torch.zeros(1, 1, 48, 48))
    with pytest.raises(ConfigError, match=rf"has the shape 1x1x48x48; 1x1x{SIDE}x{SIDE} does not"):
        convert(read(run, tmp_path), ModelFormat.ONNX_QDQ, tmp_path / "float")


@pytest.mark.parametrize("model_format", QUICK)
def test_no_path_of_this_machine_is_in_a_float_file(
    tmp_path: Path, model_format: ModelFormat
) -> None:
    model = read(write_onnx(tmp_path / "discs.onnx", DiscFinder()), tmp_path)
    files = convert(model, model_format, tmp_path / "float")
    _check_no_path(files, tmp_path / "float")


def test_no_path_of_this_machine_is_in_a_float_file_for_litert(
    in_litert: tuple[FloatFiles, Path],
) -> None:
    _check_no_path(*in_litert)


def _check_no_path(files: FloatFiles, folder: Path) -> None:
    for name in files.files:
        content = (folder / name).read_bytes()
        for place in (folder.parent, REPOSITORY, Path(torch.__file__).parent):
            assert str(place).encode() not in content


# Bad input


class _InLayer(torch.nn.Module):
    """The operator that nobody has, in a layer called ``head``."""

    def __init__(self) -> None:
        super().__init__()
        self.head = WithOperator()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.head(image)
        return answer


@pytest.mark.parametrize("model_format", QUICK)
def test_an_unsupported_operator_is_named_with_its_layer(
    tmp_path: Path, model_format: ModelFormat
) -> None:
    path = write_program(tmp_path / "bessel.pt2", _InLayer(), example())
    with pytest.raises(UnsupportedModelError, match=r"bessel_j0 \(in the layer 'head'\)"):
        convert(read(path, tmp_path), model_format, tmp_path / "float")


@pytest.mark.parametrize("model_format", [ModelFormat.TFLITE, ModelFormat.OPENVINO_IR])
def test_an_unsupported_operator_of_onnx_is_named_with_its_node(
    tmp_path: Path, model_format: ModelFormat
) -> None:
    path = write_graph(
        tmp_path / "det.onnx",
        [node("Det", ["x"], ["d"], name="/head/det"), node("Add", ["x", "d"], ["y"])],
        {},
        shape=(1, 1, 8, 8),
    )
    with pytest.raises(UnsupportedModelError, match=r"Det \(the node '/head/det'\)"):
        convert(read(path, tmp_path), model_format, tmp_path / "float")


@pytest.mark.parametrize("model_format", QUICK)
def test_a_refused_model_leaves_the_logging_as_it_was(
    tmp_path: Path, model_format: ModelFormat
) -> None:
    path = write_program(tmp_path / "bessel.pt2", _InLayer(), example())
    root = logging.getLogger()
    before = (root.level, [*root.filters], [*root.handlers])
    with pytest.raises(UnsupportedModelError):
        convert(read(path, tmp_path), model_format, tmp_path / "float")
    assert (root.level, root.filters, root.handlers) == before


def _program_with(value: float, folder: Path) -> tuple[FloatModel, str]:
    network = DiscFinder()
    with torch.no_grad():
        network.gain.weight[0, 3] = value
    return read(write_program(folder / "bad.pt2", network, example()), folder), "gain.weight"


def _onnx_with(value: float, folder: Path) -> tuple[FloatModel, str]:
    weight = np.array([1.0, value], np.float32)
    path = write_graph(
        folder / "bad.onnx",
        [node("Mul", ["x", "scale"], ["y"])],
        {"scale": weight.reshape(1, 2, 1, 1)},
    )
    return read(path, folder), "scale"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("made", [_program_with, _onnx_with])
def test_a_weight_that_is_not_a_number_is_named(tmp_path: Path, made, value: float) -> None:
    model, name = made(value, tmp_path)
    with pytest.raises(QuantizationError, match=rf"{name}' holds NaN or infinity in 1 of"):
        convert(model, ModelFormat.OPENVINO_IR, tmp_path / "float")


def test_a_weight_of_a_tflite_file_that_is_not_a_number_is_named(
    shared_data: Path, tmp_path: Path
) -> None:
    model = read(shared_data / "models" / "vww_fp32.tflite", tmp_path)
    (name, values), *_ = (one for one in READERS[SourceKind.TFLITE](model.path) if one[1].size > 8)
    content = model.path.read_bytes()
    assert content.count(values.tobytes()) == 1
    broken = np.array(values)
    broken[3] = np.nan
    model.path.write_bytes(content.replace(values.tobytes(), broken.tobytes()))
    with pytest.raises(QuantizationError, match=f"{re.escape(name)}' holds NaN or infinity in 1"):
        convert(model, ModelFormat.OPENVINO_IR, tmp_path / "float")


def test_a_shape_that_the_model_cannot_take_is_refused(tmp_path: Path) -> None:
    reading = Reading(shapes={"": (1, 3, SIDE, SIDE)})
    with pytest.raises(UnsupportedModelError, match=r"does not take \(1, 3, 32, 32\)"):
        read("tests.support.small_models:make_discs", tmp_path, reading=reading)
