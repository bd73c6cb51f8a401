"""Real files looked into: layers pair, sizes are right, and INT8 is what runs as INT8."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest

from asdic.contract.errors import QuantizationError
from asdic.contract.target import ModelFormat
from asdic.contract.variant import TensorSpec
from asdic.quantization.backends.backend import BACKENDS, FloatFiles
from asdic.quantization.frontends.tflite import from_tflite
from asdic.quantization.graphs.graph import Graph, int8_share, open_graph
from asdic.quantization.layers import layer_qualities
from asdic.quantization.recipe import parse_recipe
from tests.support import mixed_models

Quantize = Callable[..., tuple[Path, ...]]

KEYWORDS = (1, 49, 10, 1)
MINMAX = "static-wi8-ai8-minmax"
HAND_MADE = (ModelFormat.OPENVINO_IR, ModelFormat.ONNX_QDQ)


@pytest.fixture(scope="module")
def floats(tmp_path_factory: pytest.TempPathFactory) -> dict[ModelFormat, tuple[Path, FloatFiles]]:
    """The network with every kind of layer, as a float file of both formats."""
    folder = tmp_path_factory.mktemp("floats")
    return {
        one: (folder / one.value, mixed_models.write_float(one, folder / one.value))
        for one in HAND_MADE
    }


@pytest.fixture(scope="module")
def keywords(
    tmp_path_factory: pytest.TempPathFactory, shared_data: Path
) -> tuple[Path, FloatFiles]:
    """MLPerf Tiny's keyword spotting, as the front end reads it."""
    folder = tmp_path_factory.mktemp("keywords")
    found = from_tflite(shared_data / "models" / "kws_fp32.tflite", folder, {})
    return folder, FloatFiles(
        name="kws",
        files=found.files,
        inputs=found.inputs,
        outputs=found.outputs,
        preprocessing=(),
        postprocessing=(),
    )


def opened(
    model_format: ModelFormat, folder: Path, files: FloatFiles
) -> AbstractContextManager[Graph]:
    return open_graph(model_format, [folder / name for name in files.files])


def quantized(
    model_format: ModelFormat,
    source: tuple[Path, FloatFiles],
    folder: Path,
    recipe: str = MINMAX,
    floats: Sequence[str] = (),
) -> list[Path]:
    """Return the INT8 files that our backend makes of a float model."""
    module, name = BACKENDS[model_format].split(":")
    prepare = getattr(importlib.import_module(module), name)
    place, files = source
    samples = (
        mixed_models.inputs(4)
        if model_format in HAND_MADE
        else [{spec.name: sample(spec) for spec in files.inputs}]
    )
    write = prepare(files, place, samples, parse_recipe(recipe, model_format))
    return [folder / one for one in write(folder, floats).files]


def sample(spec: TensorSpec) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 50, spec.shape).astype(np.float32)


def by_name(graph: Graph) -> dict[str, bool]:
    return {layer.name: layer.is_int8 for layer in graph.layers if layer.macs}


@pytest.mark.parametrize("model_format", HAND_MADE)
def test_multiply_accumulates_are_those_worked_out_by_hand(floats, model_format):
    with opened(model_format, *floats[model_format]) as graph:
        assert {one.name: one.macs for one in graph.layers if one.macs} == mixed_models.MACS
        assert int8_share(graph.layers) == 0.0


@pytest.mark.parametrize("model_format", HAND_MADE)
def test_kinds_are_told_apart(floats, model_format):
    with opened(model_format, *floats[model_format]) as graph:
        kinds = {one.name: one.kind for one in graph.layers}
    expected = {
        "stem": "conv",
        "depthwise": "depthwise-conv",
        "residual": "add",
        "up": "transposed-conv",
        "both": "concat",
        "grouped": "conv",
        "head": "linear",
    }
    assert expected.items() <= kinds.items()


@pytest.mark.parametrize("model_format", HAND_MADE)
def test_weights_are_read_as_they_were_written(floats, model_format):
    with opened(model_format, *floats[model_format]) as graph:
        for name in mixed_models.MACS:
            found = graph.weights(name)
            np.testing.assert_array_equal(
                found.ravel(), mixed_models.weights_of(name).ravel(), err_msg=name
            )
        assert graph.weights("residual") is None


@pytest.mark.parametrize("model_format", HAND_MADE)
def test_every_layer_of_the_float_file_is_found_in_the_int8_file(floats, model_format, tmp_path):
    files = quantized(model_format, floats[model_format], tmp_path)
    with (
        opened(model_format, *floats[model_format]) as exact,
        open_graph(model_format, files) as rounded,
    ):
        found = layer_qualities(exact, rounded, mixed_models.inputs(2, seed=1))
        assert [one.name for one in found] == [one.name for one in exact.layers]
        assert int8_share(rounded.layers) == 1.0
        assert min(one.sqnr_db for one in found) > 25.0
        assert min(one.weights_sqnr_db for one in found if one.macs) > 40.0


@pytest.mark.parametrize("model_format", HAND_MADE)
def test_a_layer_that_stays_float_takes_its_share_away(floats, model_format, tmp_path):
    files = quantized(model_format, floats[model_format], tmp_path, floats=["grouped"])
    with open_graph(model_format, files) as graph:
        total = sum(mixed_models.MACS.values())
        assert int8_share(graph.layers) == 1 - mixed_models.MACS["grouped"] / total
        assert not by_name(graph)["grouped"]


@pytest.mark.parametrize(
    ("recipe", "floats_"),
    [(MINMAX, []), (MINMAX, ["stem"]), (f"{MINMAX}-smooth-mixed-full-bias", [])],
)
def test_int8_is_what_openvino_runs_as_int8(floats, recipe, floats_, tmp_path):
    source = floats[ModelFormat.OPENVINO_IR]
    files = quantized(ModelFormat.OPENVINO_IR, source, tmp_path, recipe, floats_)
    with open_graph(ModelFormat.OPENVINO_IR, files) as graph:
        assert by_name(graph) == executed_as_int8(files[0], list(by_name(graph)))


@pytest.mark.parametrize(("low", "is_int8"), [(0.0, True), (-1.0, True), (-0.3, False)])
def test_a_transposed_convolution_is_int8_where_its_codes_have_no_zero_point(
    low, is_int8, tmp_path
):
    high = -low / 128 * 127 if low == -1.0 else 1.0
    path = mixed_models.write_transposed(tmp_path / "model.xml", low=low, high=high)
    with open_graph(ModelFormat.OPENVINO_IR, [path]) as graph:
        assert by_name(graph) == {"up": is_int8}
        assert executed_as_int8(path, ["up"]) == {"up": is_int8}


def executed_as_int8(path: Path, names: Sequence[str]) -> dict[str, bool]:
    """Return which layers OpenVINO's own execution graph computes with integers."""
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        for name in facts["originalLayersNames"].astype(str).split(","):
            found[name] = facts["runtimePrecision"].astype(str) in {"i8", "u8"}
    return {name: found[name] for name in names}


def test_smoothing_adds_layers_that_pair_with_nothing(floats, tmp_path):
    source = floats[ModelFormat.OPENVINO_IR]
    files = quantized(ModelFormat.OPENVINO_IR, source, tmp_path, f"{MINMAX}-smooth")
    with (
        opened(ModelFormat.OPENVINO_IR, *source) as exact,
        open_graph(ModelFormat.OPENVINO_IR, files) as rounded,
    ):
        extra = {one.name for one in rounded.layers} - {one.name for one in exact.layers}
        assert extra
        assert all("smooth_quant" in name for name in extra)
        found = layer_qualities(exact, rounded, mixed_models.inputs(2, seed=1))
        assert [one.name for one in found] == [one.name for one in exact.layers]
        assert min(one.sqnr_db for one in found) > 25.0


def test_the_reference_models_have_their_published_size(shared_data):
    for name, macs in (("kws", 2_656_768), ("vww", 7_489_664)):
        shares = []
        for precision in ("fp32", "int8"):
            file = shared_data / "models" / f"{name}_{precision}.tflite"
            with open_graph(ModelFormat.TFLITE, [file]) as graph:
                assert sum(layer.macs for layer in graph.layers) == macs
                shares.append(int8_share(graph.layers))
        assert shares == [0.0, 1.0]


@pytest.mark.parametrize("name", ["kws", "vww"])
def test_layers_that_tensorflow_quantized_have_the_names_of_the_float_file(name, shared_data):
    names = []
    for precision in ("fp32", "int8"):
        file = shared_data / "models" / f"{name}_{precision}.tflite"
        with open_graph(ModelFormat.TFLITE, [file]) as graph:
            names.append([layer.name for layer in graph.layers])
    assert names[0] == names[1]


def test_reference_files_are_compared_layer_by_layer(shared_data):
    files = [shared_data / "models" / f"kws_{one}.tflite" for one in ("fp32", "int8")]
    stored = np.load(shared_data / "keywords" / "inputs_int8.npz", allow_pickle=False)["x"][:8]
    with (
        open_graph(ModelFormat.TFLITE, files[:1]) as exact,
        open_graph(ModelFormat.TFLITE, files[1:]) as rounded,
    ):
        scale, zero_point = input_rule(files[1])
        samples = [
            {"input_1": ((one.reshape(KEYWORDS) - zero_point) * scale).astype(np.float32)}
            for one in stored.astype(np.float32)
        ]
        found = layer_qualities(exact, rounded, samples)
    assert len(found) == 13
    assert min(one.sqnr_db for one in found) > 10.0
    use = {one.kind: one.range_use for one in found}
    assert use["conv"] > 0.6
    assert use["average-pool"] < 0.25  # it answers in the codes of its input, as TFLite asks


def input_rule(path: Path) -> tuple[float, int]:
    from ai_edge_litert.interpreter import Interpreter

    (details,) = Interpreter(model_path=str(path)).get_input_details()
    scale, zero_point = details["quantization"]
    return float(scale), int(zero_point)


def test_a_float_layer_among_int8_ones_pairs_in_tflite(keywords, tmp_path):
    with opened(ModelFormat.TFLITE, *keywords) as exact:
        layer = exact.layers[2]
        files = quantized(ModelFormat.TFLITE, keywords, tmp_path, floats=[layer.name])
        with open_graph(ModelFormat.TFLITE, files) as rounded:
            assert [one.name for one in rounded.layers] == [one.name for one in exact.layers]
            assert not by_name(rounded)[layer.name]
            total = sum(one.macs for one in exact.layers)
            assert int8_share(rounded.layers) == 1 - layer.macs / total


def test_openvino_weights_are_what_operators_make_of_constants(tmp_path):
    import openvino
    from openvino import opset13 as ops

    stored = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    lengths = ops.sqrt(ops.reduce_sum(ops.constant(stored**2), np.array([0]), keep_dims=True))
    weights = ops.transpose(ops.divide(ops.constant(stored), lengths), np.array([1, 0]))
    x = ops.parameter((1, 3), np.float32, name="x")
    y = ops.matmul(x, weights, transpose_a=False, transpose_b=True)
    y.set_friendly_name("normalized")
    file = tmp_path / "float.xml"
    openvino.save_model(openvino.Model([y], [x]), file, compress_to_fp16=False)
    with open_graph(ModelFormat.OPENVINO_IR, [file]) as graph:
        expected = (stored / np.linalg.norm(stored, axis=0)).T
        np.testing.assert_allclose(graph.weights("normalized"), expected, rtol=1e-6)


@pytest.mark.parametrize("model_format", HAND_MADE)
def test_a_shape_left_open_is_refused(model_format, tmp_path):
    file = OPEN_SHAPES[model_format](tmp_path)
    with (
        pytest.raises(QuantizationError, match=r"open.*shape|dynamic shape|shape open"),
        open_graph(model_format, [file]),
    ):
        pass


def open_openvino(folder: Path) -> Path:
    import openvino
    from openvino import opset13 as ops

    x = ops.parameter([-1, 3], np.float32, name="x")
    openvino.save_model(openvino.Model([ops.relu(x)], [x]), folder / "float.xml")
    return folder / "float.xml"


def open_onnx(folder: Path) -> Path:
    import onnx
    from onnx import helper

    x, y = (helper.make_tensor_value_info(one, onnx.TensorProto.FLOAT, ["n", 3]) for one in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "open", [x], [y])
    opsets = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), folder / "float.onnx")
    return folder / "float.onnx"


OPEN_SHAPES = {ModelFormat.OPENVINO_IR: open_openvino, ModelFormat.ONNX_QDQ: open_onnx}


def test_layers_whose_weights_alone_are_int8_keep_their_size_and_are_not_int8(keywords, tmp_path):
    folder, files = keywords
    weights_only = tmp_path / "model.tflite"
    weights_only.write_bytes(with_weights_in_int8(folder / files.files[0]))
    with (
        opened(ModelFormat.TFLITE, *keywords) as exact,
        open_graph(ModelFormat.TFLITE, [weights_only]) as rounded,
    ):
        sizes = {one.name: one.macs for one in exact.layers}
        assert {one.name: one.macs for one in rounded.layers} == sizes
        assert int8_share(rounded.layers) == 0.0


def with_weights_in_int8(path: Path) -> bytes:
    """Return a model whose weights are stored as INT8 and made real by an operator."""
    from ai_edge_quantizer import qtyping, quantizer

    tool = quantizer.Quantizer(str(path))
    tool.update_quantization_recipe(
        regex=".*",
        operation_name=qtyping.TFLOperationName.ALL_SUPPORTED,
        op_config=qtyping.OpQuantizationConfig(
            weight_tensor_config=qtyping.TensorQuantizationConfig(num_bits=8, symmetric=True),
            compute_precision=qtyping.ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
    )
    return bytes(tool.quantize().quantized_model)
