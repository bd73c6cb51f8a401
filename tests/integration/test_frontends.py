"""Models of every kind that people bring: what is read, what is assumed, and what is refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from asdic.contract.errors import ConfigError, UnsupportedModelError
from asdic.contract.variant import ArrayInput, ClassOutput, ImageInput, MaskOutput, TensorSpec
from asdic.quantization.kinds import SourceKind
from asdic.quantization.source import Reading, read_source
from tests.support.disc_finder import SIDE, DiscFinder, example
from tests.support.here import read
from tests.support.small_models import (
    Clip,
    TwoInputs,
    make_discs,
    node,
    write_graph,
    write_onnx,
    write_program,
)

IMAGE = TensorSpec(name="image", shape=(1, 1, SIDE, SIDE))
FACTORY = f"{make_discs.__module__}:{make_discs.__name__}"


# What is read, and what is assumed


def test_an_onnx_file_is_read_with_its_names_and_one_sample_at_a_time(tmp_path: Path) -> None:
    model = read(write_onnx(tmp_path / "discs.onnx", DiscFinder()), tmp_path)
    assert model.kind is SourceKind.ONNX
    assert model.description.inputs == (IMAGE,)
    assert isinstance(model.description.postprocessing[0], MaskOutput)
    assert model.assumptions[0].startswith("the input 'image' takes one sample at a time")


def test_a_program_with_two_inputs_and_outputs_is_read(tmp_path: Path) -> None:
    path = write_program(tmp_path / "two.pt2", TwoInputs(), example(), torch.ones(1, 1))
    description = read(path, tmp_path).description
    assert [type(rule) for rule in description.preprocessing] == [ImageInput, ArrayInput]
    assert [type(rule) for rule in description.postprocessing] == [MaskOutput, ClassOutput]
    assert [spec.name for spec in description.outputs] == ["output_0", "output_1"]


def test_a_clip_is_an_array(tmp_path: Path) -> None:
    path = write_program(tmp_path / "clip.pt2", Clip(), torch.zeros(1, 1, 8, 16, 16))
    (rule,) = read(path, tmp_path).description.preprocessing
    assert isinstance(rule, ArrayInput)


def test_a_factory_with_weights_is_read(tmp_path: Path) -> None:
    torch.save(DiscFinder().state_dict(), tmp_path / "weights.pt")
    reading = Reading(shapes={"image": IMAGE.shape}, weights=tmp_path / "weights.pt")
    model = read(FACTORY, tmp_path, reading=reading)
    assert (model.name, model.description.inputs) == ("make_discs", (IMAGE,))


def test_integer_weights_of_a_tflite_file_are_taken_as_numbers(
    shared_data: Path, tmp_path: Path
) -> None:
    model = read(shared_data / "models" / "kws_fp32.tflite", tmp_path)
    assert model.kind is SourceKind.TFLITE
    assert any("stored as integers" in line for line in model.assumptions)
    assert model.description.task == "classification"


def test_a_description_beside_a_file_counts(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "discs.onnx", DiscFinder())
    (tmp_path / "model.toml").write_text(DESCRIPTION)
    model = read(path, tmp_path)
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
        read(tmp_path, tmp_path)


# Bad input


def test_open_sides_are_asked_for_and_fixed_by_a_shape(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "discs.onnx", DiscFinder(), open_sides=True)
    with pytest.raises(
        UnsupportedModelError, match=r"'image' has the shape batchx1xheightxwidth.*--input-shape"
    ):
        read(path, tmp_path)
    shape = (1, 1, 48, 64)
    model = read(path, tmp_path, reading=Reading(shapes={"": shape}))
    assert model.description.outputs[0].shape == shape


def test_open_sides_of_a_program_are_fixed_by_a_shape(tmp_path: Path) -> None:
    sides = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    path = write_program(tmp_path / "discs.pt2", DiscFinder(), example(), dynamic_shapes=(sides,))
    with pytest.raises(UnsupportedModelError, match="--input-shape image=1x"):
        read(path, tmp_path)
    model = read(path, tmp_path, reading=Reading(shapes={"image": (1, 1, 48, 48)}))
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
        read(path, tmp_path, reading=Reading(shapes=shapes))


def test_a_file_of_an_unknown_kind_is_refused_and_what_is_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "model.h5").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"does not read; it reads \.pt2, .*\.onnx"):
        read(tmp_path / "model.h5", tmp_path)


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
        read(factory, tmp_path, reading=Reading(shapes={"": IMAGE.shape}))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    torch.save(Clip().state_dict(), tmp_path / "weights.pt")
    reading = Reading(shapes={"image": IMAGE.shape}, weights=tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match="weights of another model"):
        read(FACTORY, tmp_path, reading=reading)


def test_an_archive_without_a_model_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("notes.txt", "nothing")
    with pytest.raises(ConfigError, match="holds weights without code"):
        read(tmp_path / "model.pt", tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"neither model.toml nor saved_model.pb"):
        read(tmp_path / "empty", tmp_path)


def test_weights_that_an_old_onnx_file_lists_as_inputs_are_none(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "old.onnx", [node("Add", ["x", "w"], ["y"])], {"w": np.ones(8)})
    old = onnx.load(path)
    old.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones(8, np.float32), "w"))
    old.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [8]))
    onnx.save(old, path)
    assert [spec.name for spec in read(path, tmp_path).description.inputs] == ["x"]


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
    model = read(tmp_path / "old.onnx", tmp_path)
    assert onnx.load(model.path).opset_import[0].version >= 13


def test_a_quantized_onnx_file_is_refused(tmp_path: Path) -> None:
    path = write_graph(
        tmp_path / "q.onnx",
        [
            node("QuantizeLinear", ["x", "scale"], ["q"], name="first"),
            node("DequantizeLinear", ["q", "scale"], ["y"]),
        ],
        {"scale": np.array(0.1, np.float32)},
    )
    with pytest.raises(UnsupportedModelError, match=r"quantized already \(.*the node 'first'\)"):
        read(path, tmp_path)


def test_integer_weights_of_an_onnx_file_are_taken_as_numbers(tmp_path: Path) -> None:
    path = write_graph(
        tmp_path / "stored.onnx",
        [node("DequantizeLinear", ["w", "s"], ["real"]), node("Add", ["x", "real"], ["y"])],
        {"w": np.array([2, -4], np.int8), "s": np.array(0.5, np.float32)},
        shape=(1, 2),
        outputs={"y": 2},
    )
    model = read(path, tmp_path)
    assert any("stored as integers" in line for line in model.assumptions)
    (weight,) = (one for one in onnx.load(model.path).graph.initializer if one.name == "real")
    assert onnx.numpy_helper.to_array(weight).tolist() == [1.0, -2.0]


@pytest.mark.parametrize("domain", ["", "my.ops"])
def test_an_operator_that_nobody_knows_is_named_with_its_node(tmp_path: Path, domain: str) -> None:
    path = write_graph(
        tmp_path / "froz.onnx", [node("Froz", ["x"], ["y"], name="/head/froz", domain=domain)], {}
    )
    with pytest.raises(UnsupportedModelError, match=r"Froz \(the node '/head/froz'\)"):
        read(path, tmp_path)


def test_an_onnx_file_that_answers_numbers_of_classes_is_refused(tmp_path: Path) -> None:
    path = write_graph(tmp_path / "arg.onnx", [node("ArgMax", ["x"], ["y"], axis=1)], {}, kind=7)
    with pytest.raises(UnsupportedModelError, match="'y' is int64"):
        read(path, tmp_path)


def test_a_program_that_takes_integers_is_refused(tmp_path: Path) -> None:
    path = write_program(tmp_path / "int.pt2", torch.nn.Embedding(4, 2), torch.zeros(1, 3).long())
    with pytest.raises(UnsupportedModelError, match=r"the input 'input' is torch\.int64"):
        read(path, tmp_path)


def test_the_names_of_a_dict_are_those_of_the_outputs(tmp_path: Path) -> None:
    reading = Reading(shapes={"": IMAGE.shape})
    model = read("tests.support.small_models:make_named", tmp_path, reading=reading)
    assert [spec.name for spec in model.description.outputs] == ["lesion", "quality"]


def test_a_description_may_name_a_factory(tmp_path: Path) -> None:
    torch.save(DiscFinder().state_dict(), tmp_path / "discs.pt")
    text = DESCRIPTION.replace('"discs.onnx"', f'"discs.pt"\nfactory = "{FACTORY}"')
    (tmp_path / "model.toml").write_text(text)
    model = read(tmp_path, tmp_path / "work")
    assert (model.kind, model.name, model.assumptions) == (SourceKind.PROGRAM, "by-hand", ())


def test_a_worker_reads_what_asdic_quantize_is_given(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "discs.onnx", DiscFinder())
    assert read_source(path, tmp_path / "a").description == read(path, tmp_path / "b").description
