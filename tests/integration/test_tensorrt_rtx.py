"""The Jetson graph before the parser of TensorRT-RTX, which needs no GPU.

It is not the TensorRT of a Jetson, and no engine is built: accepted here is not run on an Orin.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from asdic.contract.errors import QuantizationError
from asdic.contract.target import ModelFormat
from asdic.quantization.backends.backend import Tensors
from asdic.quantization.backends.placement import check_placement
from asdic.quantization.backends.rtx import try_rtx
from asdic.quantization.once import quantize_once
from asdic.quantization.recipe import LADDERS, Recipe
from asdic.quantization.source import read_source
from tests.conftest import missing
from tests.support.disc_finder import SIDE, write_run

INPUTS: list[Tensors] = [
    {"image": np.random.default_rng(0).random((1, 1, SIDE, SIDE), np.float32)} for _ in range(4)
]


def _errors(path: Path) -> tuple[str, ...]:
    errors = try_rtx(path)
    if errors is None:
        missing("no TensorRT-RTX; install the wheel tensorrt-rtx")
        raise AssertionError
    return errors


def _convolution(*, zero_point: int = 0, int32_bias: bool = False) -> Any:
    """Return a QDQ graph of one convolution as an ONNX model, with faults as asked for."""
    constants = {
        "scale": np.float32(0.1),
        "zero": np.int8(zero_point),
        "zero32": np.int32(0),
        "weights": np.ones((2, 1, 3, 3), np.int8),
        "bias": np.ones(2, np.int32) if int32_bias else np.ones(2, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"], name="dq"),
        helper.make_node("DequantizeLinear", ["weights", "scale", "zero"], ["w"], name="dq-w"),
    ]
    bias = "bias"
    if int32_bias:
        bias = "b"
        nodes.append(
            helper.make_node("DequantizeLinear", ["bias", "scale", "zero32"], ["b"], name="dq-b")
        )
    nodes.append(helper.make_node("Conv", ["x", "w", bias], ["y"], pads=[1] * 4, name="conv"))
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 1, SIDE, SIDE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, SIDE, SIDE])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])


@pytest.mark.tensorrt_rtx
@pytest.mark.parametrize("recipe", LADDERS[ModelFormat.ONNX_QDQ], ids=lambda one: one.name)
def test_the_parser_accepts_the_jetsons_file(tmp_path: Path, recipe: Recipe) -> None:
    model = read_source(write_run(tmp_path / "run", tmp_path), tmp_path)
    made = quantize_once(model, ModelFormat.ONNX_QDQ, recipe, INPUTS, tmp_path)
    assert _errors(made.int8_paths[0]) == ()


@pytest.mark.tensorrt_rtx
def test_the_parser_refuses_an_int32_bias_and_names_the_node(tmp_path: Path) -> None:
    onnx.save(_convolution(int32_bias=True), tmp_path / "model.onnx")
    (first, *_) = _errors(tmp_path / "model.onnx")
    assert "dq-b" in first


def test_a_graph_by_tensorrts_rules_passes_our_own_check() -> None:
    check_placement(_convolution())


def test_our_own_check_refuses_an_int32_bias() -> None:
    with pytest.raises(QuantizationError, match="dq-b holds an int32 bias"):
        check_placement(_convolution(int32_bias=True))


def test_our_own_check_refuses_a_zero_point_that_is_not_0() -> None:
    with pytest.raises(QuantizationError, match="q has a zero point that is not 0"):
        check_placement(_convolution(zero_point=3))


def test_a_float_graph_is_never_called_quantized() -> None:
    model = _convolution()
    del model.graph.node[:3]
    with pytest.raises(QuantizationError, match="nothing in it is INT8"):
        check_placement(model)
