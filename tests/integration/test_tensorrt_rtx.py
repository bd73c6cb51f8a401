"""The Jetson graph before our own check and before TensorRT-RTX, which needs no GPU to build.

It is not the TensorRT of a Jetson: accepted here is not run on an Orin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from asdic.contract.errors import QuantizationError
from asdic.contract.target import ModelFormat
from asdic.quantization.backends.backend import FloatFiles, Tensors
from asdic.quantization.backends.placement import Placement, check_placement
from asdic.quantization.backends.rtx import try_rtx
from asdic.quantization.backends.tensorrt import prepare
from asdic.quantization.frontends.onnx import FILE, from_onnx
from asdic.quantization.recipe import LADDERS, parse_recipe
from tests.conftest import missing
from tests.support.disc_finder import SIDE, description_of
from tests.support.small_models import write_onnx

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


class Branches(nn.Module):
    """What TensorRT fuses: a residual addition, a concatenation, pooling, and the way back up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.last = nn.Conv2d(12, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of ``image``."""
        wide = torch.relu(self.first(image))
        deep = torch.relu(self.second(wide) + wide)
        back = self.up(torch.nn.functional.max_pool2d(deep, 2))
        logits: Tensor = self.last(torch.cat([back, deep], dim=1))
        return logits


@pytest.fixture(scope="module")
def branches(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the file that a recipe gives."""
    folder = tmp_path_factory.mktemp("branches")
    from_onnx(write_onnx(folder / "given.onnx", Branches()), folder, {"image": (1, 1, SIDE, SIDE)})
    files = FloatFiles.described(description_of(), files=(FILE,))

    def written(recipe: str, floats: Sequence[str] = ()) -> Path:
        chosen = parse_recipe(f"static-wi8-ai8-{recipe}", ModelFormat.ONNX_QDQ)
        place = folder / "-".join([recipe, *floats])
        place.mkdir(exist_ok=True)
        prepare(files, folder, INPUTS, chosen)(place, floats)
        return place / "model.onnx"

    return written


RUNGS = [one.name.removeprefix("static-wi8-ai8-") for one in LADDERS[ModelFormat.ONNX_QDQ]]


@pytest.mark.tensorrt_rtx
@pytest.mark.parametrize("recipe", [*RUNGS, "entropy", "average-bias"])
def test_parser_and_builder_accept_the_jetsons_file(
    branches: Callable[[str], Path], recipe: str
) -> None:
    assert _errors(branches(recipe)) == ()


def test_additions_and_concatenations_are_int8(branches: Callable[[str], Path]) -> None:
    placement = check_placement(onnx.load(branches("best")))
    assert placement == Placement(
        layers=4,
        int8_layers=4,
        additions=1,
        int8_additions=1,
        concatenations=1,
        int8_concatenations=1,
    )
    assert placement.notes == ()


def test_what_stays_float_with_layers_alone_is_counted(branches: Callable[[str], Path]) -> None:
    placement = check_placement(onnx.load(branches("best-layers")))
    assert placement.int8_layers == placement.layers
    assert placement.notes == (
        "1 of 1 residual addition(s) stay float",
        "1 of 1 concatenation(s) stay float",
    )


def test_a_layer_in_float_has_no_qdq_nodes(branches: Callable[..., Path]) -> None:
    names = [one.name for one in onnx.load(branches("best")).graph.node if one.op_type == "Conv"]
    graph = onnx.load(branches("best", names[:1]))
    assert check_placement(graph).int8_layers == 3
    first = next(one for one in graph.graph.node if one.name == names[0])
    assert not any(name.endswith("_real") for name in first.input)


def test_scales_of_a_transposed_convolution_follow_its_axis_1(
    branches: Callable[[str], Path],
) -> None:
    graph = onnx.load(branches("best"))
    node = next(one for one in graph.graph.node if one.op_type == "ConvTranspose")
    dequantize = next(one for one in graph.graph.node if one.output[0] == node.input[1])
    dequantize.attribute[0].i = 0
    with pytest.raises(QuantizationError, match=f"{node.name} .* of axis 0 .* wants axis 1"):
        check_placement(graph)


def test_a_concatenation_of_two_scales_is_refused(branches: Callable[[str], Path]) -> None:
    graph = onnx.load(branches("best"))
    node = next(one for one in graph.graph.node if one.op_type == "Concat")
    producer = next(one for one in graph.graph.node if one.output[0] == node.input[0])
    scale = next(one for one in graph.graph.initializer if one.name == producer.input[1])
    scale.CopyFrom(numpy_helper.from_array(np.array(9.0, np.float32), scale.name))
    with pytest.raises(QuantizationError, match=f"{node.name} joins .* of 2 scales"):
        check_placement(graph)


@pytest.mark.parametrize(
    ("place", "words"), [(0, "INT8 weights and float activation"), (1, "INT8 activation and float")]
)
def test_half_a_layer_in_int8_is_refused(
    branches: Callable[[str], Path], place: int, words: str
) -> None:
    graph = onnx.load(branches("best"))
    node = next(one for one in graph.graph.node if one.op_type == "Conv")
    node.input[place] = "image" if place == 0 else "float_weights"
    with pytest.raises(QuantizationError, match=f"{node.name} has {words}"):
        check_placement(graph)


@pytest.mark.tensorrt_rtx
def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    assert _errors(tmp_path / "model.onnx")


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
