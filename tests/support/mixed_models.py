"""A network with every kind of layer that has multiply-accumulates, in OpenVINO's IR and ONNX.

Written by hand in milliseconds, without torch. Its convolutions take 8 channels of 16 x 16.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.target import ModelFormat
from asdic.contract.variant import TensorSpec
from asdic.quantization.backends.backend import FloatFiles

SIDE: Final = 16
CHANNELS: Final = 8
SHAPE: Final = (1, CHANNELS, SIDE, SIDE)
SCORES: Final = 5

# Multiply-accumulates by the layer's name, worked out by hand.
MACS: Final = MappingProxyType(
    {
        "stem": 16 * 16 * 8 * 8 * 9,
        "depthwise": 16 * 16 * 8 * 9,
        "up": 16 * 16 * 8 * 4 * 4,
        "grouped": 32 * 32 * 8 * 2 * 9,
        "head": 8 * 5,
    }
)


def inputs(count: int, *, seed: int = 0) -> list[dict[str, NDArray[np.float32]]]:
    """Return random inputs in [0, 1]."""
    random = np.random.default_rng(seed)
    return [{"x": random.random(SHAPE, dtype=np.float32)} for _ in range(count)]


def weights_of(name: str) -> NDArray[np.float32]:
    """Return the weights of a layer, as both formats store them but for groups."""
    shapes = {
        "stem": (8, 8, 3, 3),
        "depthwise": (8, 1, 3, 3),
        "up": (8, 4, 2, 2),
        "grouped": (8, 2, 3, 3),
        "head": (8, 5),
    }
    random = np.random.default_rng(list(shapes).index(name))
    shape = shapes[name]
    fan_in = np.prod(shape[1:]) if len(shape) > 2 else shape[0]
    return (random.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)


def write_float(model_format: ModelFormat, folder: Path) -> FloatFiles:
    """Write the float network into ``folder`` and return its description."""
    folder.mkdir(parents=True, exist_ok=True)
    files = _WRITERS[model_format](folder)
    return FloatFiles(
        name="mixed",
        files=files,
        inputs=(TensorSpec(name="x", shape=SHAPE),),
        outputs=(TensorSpec(name="scores", shape=(1, SCORES)),),
        preprocessing=(),
        postprocessing=(),
    )


def write_transposed(path: Path, *, low: float, high: float) -> Path:
    """Write a transposed convolution of an input that is rounded from ``low`` to ``high``."""
    import openvino
    from openvino import opset13 as ops

    x = ops.parameter(SHAPE, np.float32, name="x")
    ends = [ops.constant(np.float32(end)) for end in (low, high, low, high)]
    stored = ops.constant(np.ones((CHANNELS, 4, 2, 2), np.int8))
    weights = ops.multiply(ops.convert(stored, np.float32), ops.constant(np.float32(0.1)))
    up = ops.convolution_backprop_data(
        ops.fake_quantize(x, *ends, 256), weights, [2, 2], None, [0, 0], [0, 0], [1, 1]
    )
    up.set_friendly_name("up")
    up.output(0).set_names({"y"})
    openvino.save_model(openvino.Model([up], [x], "transposed"), path, compress_to_fp16=False)
    return path


def _write_openvino(folder: Path) -> tuple[str, ...]:
    import openvino
    from openvino import opset13 as ops

    def named(node: Any, name: str) -> Any:
        node.set_friendly_name(name)
        return node

    def constant(values: Any) -> Any:
        return ops.constant(np.asarray(values))

    def groups(name: str, count: int) -> Any:
        weights = weights_of(name)
        return constant(weights.reshape(count, -1, *weights.shape[1:]))

    ones, zeros = [1, 1], [0, 0]
    x = ops.parameter(SHAPE, np.float32, name="x")
    stem = named(ops.convolution(x, constant(weights_of("stem")), ones, ones, ones, ones), "stem")
    bias = named(ops.add(stem, constant(np.full((1, 8, 1, 1), 0.1, np.float32))), "stem.bias")
    first = named(ops.relu(bias), "stem.relu")
    second = named(
        ops.group_convolution(first, groups("depthwise", 8), ones, ones, ones, ones), "depthwise"
    )
    added = named(ops.add(first, named(ops.relu(second), "depthwise.relu")), "residual")
    up = named(
        ops.convolution_backprop_data(
            added, constant(weights_of("up")), [2, 2], None, zeros, zeros, ones
        ),
        "up",
    )
    both = named(ops.concat([up, up], 1), "both")
    third = named(
        ops.group_convolution(both, groups("grouped", 4), ones, ones, ones, ones), "grouped"
    )
    pooled = named(
        ops.reduce_mean(named(ops.relu(third), "grouped.relu"), constant([2, 3])), "mean"
    )
    scores = named(
        ops.matmul(pooled, constant(weights_of("head")), transpose_a=False, transpose_b=False),
        "head",
    )
    scores.output(0).set_names({"scores"})
    openvino.save_model(openvino.Model([scores], [x], "mixed"), folder / "float.xml", False)
    return ("float.xml", "float.bin")


def _write_onnx(folder: Path) -> tuple[str, ...]:
    import onnx
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node("Conv", ["x", "stem.w", "stem.b"], ["a"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], "stem.relu"),
        helper.make_node(
            "Conv", ["b", "depthwise.w"], ["c"], "depthwise", pads=[1, 1, 1, 1], group=8
        ),
        helper.make_node("Relu", ["c"], ["d"], "depthwise.relu"),
        helper.make_node("Add", ["b", "d"], ["e"], "residual"),
        helper.make_node("ConvTranspose", ["e", "up.w"], ["f"], "up", strides=[2, 2]),
        helper.make_node("Concat", ["f", "f"], ["g"], "both", axis=1),
        helper.make_node("Conv", ["g", "grouped.w"], ["h"], "grouped", pads=[1, 1, 1, 1], group=4),
        helper.make_node("Relu", ["h"], ["i"], "grouped.relu"),
        helper.make_node("GlobalAveragePool", ["i"], ["j"], "mean"),
        helper.make_node("Flatten", ["j"], ["k"], "flat"),
        helper.make_node("MatMul", ["k", "head.w"], ["scores"], "head"),
    ]
    constants = {f"{name}.w": weights_of(name) for name in MACS}
    constants["stem.b"] = np.full(8, 0.1, np.float32)
    graph = helper.make_graph(
        nodes,
        "mixed",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, (1, SCORES))],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "float.onnx")
    return ("float.onnx",)


_WRITERS: Final = MappingProxyType(
    {ModelFormat.OPENVINO_IR: _write_openvino, ModelFormat.ONNX_QDQ: _write_onnx}
)
