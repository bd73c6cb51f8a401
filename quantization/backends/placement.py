"""What TensorRT asks of a QDQ graph, checked on the graph that was written.

Nothing here knows how the graph was made. TensorRT quietly runs a layer in float whose nodes are
not where it looks for them, and its parser refuses quantized biases and zero points other than 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from asdic.contract.errors import QuantizationError
from asdic.quantization.backends.qdq import LAYERS, QDQ, qdq_nodes, weight_axis


@dataclass(frozen=True, kw_only=True)
class Placement:
    """How many nodes of each kind a graph has, and how many of them are INT8.

    ``additions`` are residual ones: INT8 where the branch that a layer's kernel adds is INT8.
    """

    layers: int
    int8_layers: int
    additions: int
    int8_additions: int
    concatenations: int
    int8_concatenations: int

    @property
    def notes(self) -> tuple[str, ...]:
        """What stays float that TensorRT could have fused, in words."""
        counts = (
            ("layer(s)", self.layers, self.int8_layers),
            ("residual addition(s)", self.additions, self.int8_additions),
            ("concatenation(s)", self.concatenations, self.int8_concatenations),
        )
        return tuple(
            f"{all_ - int8} of {all_} {what} stay float"
            for what, all_, int8 in counts
            if all_ > int8
        )


def check_placement(graph: Any) -> Placement:
    """Check an ONNX model against TensorRT's rules for QDQ graphs, and count what is INT8.

    Raises:
        QuantizationError: A rule is broken; the node is named.
    """
    model = _Model.of(graph)
    found = list(qdq_nodes(graph))
    if not found:
        raise QuantizationError("the graph holds no QDQ node: nothing in it is INT8")
    for node in found:
        model.check_parameters(node)
    layers = [node for node in graph.graph.node if node.op_type in LAYERS]
    additions = [node for node in graph.graph.node if model.is_residual(node)]
    concats = [node for node in graph.graph.node if node.op_type == "Concat"]
    return Placement(
        layers=len(layers),
        int8_layers=sum(model.is_int8_layer(node) for node in layers),
        additions=len(additions),
        int8_additions=sum(any(model.dequantized(node)) for node in additions),
        concatenations=len(concats),
        int8_concatenations=sum(model.is_int8_concat(node) for node in concats),
    )


@dataclass(frozen=True, eq=False)
class _Model:
    constants: Mapping[str, Any]
    producers: Mapping[str, Any]
    consumers: Mapping[str, list[Any]]

    @classmethod
    def of(cls, graph: Any) -> _Model:
        consumers: dict[str, list[Any]] = {}
        for node in graph.graph.node:
            for name in node.input:
                consumers.setdefault(name, []).append(node)
        return cls(
            constants={one.name: one for one in graph.graph.initializer},
            producers={name: node for node in graph.graph.node for name in node.output},
            consumers=consumers,
        )

    def check_parameters(self, node: Any) -> None:
        from onnx import TensorProto, numpy_helper

        first = self.constants.get(node.input[0])
        if first is not None and first.data_type == TensorProto.INT32:
            raise QuantizationError(f"{node.name} holds an int32 bias, which TensorRT refuses")
        if len(node.input) < 3:
            return
        zero = self.constants.get(node.input[2])
        if zero is None or np.any(numpy_helper.to_array(zero)):
            raise QuantizationError(
                f"{node.name} has a zero point that is not 0; TensorRT refuses it"
            )
        if zero.data_type != TensorProto.INT8:
            raise QuantizationError(f"{node.name} is not signed INT8, which TensorRT would misread")

    def dequantized(self, node: Any) -> Iterator[bool]:
        """Yield of each input whether it comes from a DequantizeLinear."""
        for name in node.input:
            producer = self.producers.get(name)
            yield producer is not None and producer.op_type == "DequantizeLinear"

    def is_int8_layer(self, node: Any) -> bool:
        activation, weights, *bias = self.dequantized(node)
        if activation != weights:
            which, other = ("activation", "weights") if activation else ("weights", "activation")
            raise QuantizationError(
                f"{node.name} has INT8 {which} and float {other}; TensorRT would run it in float"
            )
        if any(bias):
            raise QuantizationError(f"{node.name} has a quantized bias, which TensorRT refuses")
        if weights:
            self._check_axis(node, self.producers[node.input[1]])
        return weights

    def _check_axis(self, node: Any, dequantize: Any) -> None:
        scale = self.constants.get(dequantize.input[1])
        axis = next((one.i for one in dequantize.attribute if one.name == "axis"), 1)
        wanted = weight_axis(node)
        if scale is None:
            raise QuantizationError(f"{node.name}: the scale of its weights is no constant")
        if len(scale.dims) == 1 and scale.dims[0] > 1 and axis != wanted:
            raise QuantizationError(
                f"{node.name} has a scale for each index of axis {axis} of its weights; TensorRT "
                f"wants axis {wanted}"
            )

    def is_residual(self, node: Any) -> bool:
        """Return whether a node adds two branches, of which one comes from a layer."""
        if node.op_type != "Add" or any(name in self.constants for name in node.input):
            return False
        kinds = {self._origin(name) for name in node.input}
        return bool(kinds & LAYERS)

    def _origin(self, name: str) -> str:
        """Return the kind of the node that a tensor comes from, QDQ nodes aside."""
        node = self.producers.get(name)
        while node is not None and node.op_type in QDQ:
            node = self.producers.get(node.input[0])
        return "" if node is None else str(node.op_type)

    def is_int8_concat(self, node: Any) -> bool:
        from onnx import numpy_helper

        inputs = list(self.dequantized(node))
        if not any(inputs):
            return False
        if not all(inputs):
            raise QuantizationError(f"{node.name} joins INT8 and float, so TensorRT joins floats")
        around = [self.producers[name] for name in node.input]
        around += [
            one for one in self.consumers.get(node.output[0], []) if one.op_type == "QuantizeLinear"
        ]
        scales = {numpy_helper.to_array(self.constants[one.input[1]]).tobytes() for one in around}
        if len(scales) > 1:
            raise QuantizationError(
                f"{node.name} joins and gives INT8 of {len(scales)} scales; TensorRT would "
                "requantize, it must be one"
            )
        return True
