"""Where an ONNX graph is INT8, said with QuantizeLinear and DequantizeLinear, as TensorRT reads it.

Only what TensorRT fuses into INT8 kernels gets the nodes (NVIDIA, "TensorRT Developer Guide",
section on explicit quantization): the activation and the weights of each layer, the branch of a
residual addition that the other layer's kernel takes along, and what merely moves values. Every
other rounding is noise for nothing. All is symmetric, and biases stay float.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import QuantizationError
from asdic.quantization.backends.ranges import Bounds

LAYERS: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
MOVERS: Final = frozenset({"Concat", "MaxPool", "Resize"})
"""They copy values: what goes in and what comes out has one scale."""

POOLS: Final = frozenset({"AveragePool", "GlobalAveragePool"})
QDQ: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
LARGEST: Final = 127
QUANTIZED, DEQUANTIZED = "_int8", "_real"


def weight_axis(node: Any) -> int:
    """Return the axis of a layer's weights with its output channels."""
    match node.op_type:
        case "ConvTranspose":
            return 1
        case "Gemm":
            transposed = any(one.name == "transB" and one.i for one in node.attribute)
            return 0 if transposed else 1
        case "MatMul":
            return 1
        case _:
            return 0


def insert_qdq(
    graph: Any,
    bounds: Mapping[str, Bounds],
    *,
    layers_only: bool,
    floats: Sequence[str] = (),
) -> None:
    """Make an ONNX model INT8 by inserting nodes, in place.

    Args:
        graph: The float model; its nodes have names.
        bounds: Of every activation.
        layers_only: Leave additions, concatenations and pools float.
        floats: Names of nodes that stay float.

    Raises:
        QuantizationError: A node that is to stay float is not in the graph, or weights are not
            finite; the node is named.
    """
    nodes = list(graph.graph.node)
    if missing := sorted(set(floats) - {node.name for node in nodes}):
        raise QuantizationError(f"there is no node {missing[0]!r} to leave float")
    chosen = [node for node in nodes if node.name not in set(floats)]
    inserted = _Insertion(
        graph=graph,
        constants={one.name: one for one in graph.graph.initializer},
        scales=_scales(nodes, chosen, bounds, layers_only=layers_only),
    )
    places = {id(node): node.op_type in LAYERS or not layers_only for node in chosen}
    del graph.graph.node[:]
    producers = {name: node.op_type for node in nodes for name in node.output}
    for node in nodes:
        if places.get(id(node)):
            for place in _places(node, inserted.constants, producers):
                inserted.quantize(node, place)
        graph.graph.node.append(node)
    used = {name for node in graph.graph.node for name in node.input}
    kept = [one for one in graph.graph.initializer if one.name in used]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)


def activations_of(graph: Any, *, layers_only: bool) -> list[str]:
    """Return the names of the tensors whose bounds ``insert_qdq`` asks for, in order."""
    constants = {one.name: one for one in graph.graph.initializer}
    producers = {name: node.op_type for node in graph.graph.node for name in node.output}
    found: dict[str, None] = {}
    for node in graph.graph.node:
        if node.op_type not in LAYERS and layers_only:
            continue
        found |= dict.fromkeys(node.input[one] for one in _places(node, constants, producers))
        if node.op_type in MOVERS:
            found |= dict.fromkeys(node.output[:1])
    return [name for name in found if name not in constants]


def _places(node: Any, constants: Mapping[str, Any], producers: Mapping[str, str]) -> Sequence[int]:
    """Return which of a node's inputs are INT8."""
    activations = [number for number, name in enumerate(node.input) if name not in constants]
    if node.op_type in LAYERS:
        return (0, 1) if activations[:1] == [0] and node.input[1] in constants else ()
    if node.op_type == "Concat":
        return activations
    if node.op_type in MOVERS | POOLS:
        return (0,)
    if node.op_type == "Add" and len(activations) == 2:
        # The kernel of one layer adds the other branch: the layer's own sum stays exact.
        return (0,) if producers.get(node.input[1]) in LAYERS else (1,)
    return ()


def _scales(
    nodes: Sequence[Any],
    chosen: Sequence[Any],
    bounds: Mapping[str, Bounds],
    *,
    layers_only: bool,
) -> dict[str, np.float32]:
    """Return the scale of each tensor; what movers connect shares the largest."""
    limits = {name: max(-low, high) for name, (low, high) in bounds.items()}
    wanted = {id(node) for node in chosen}
    for node in () if layers_only else (*nodes, *reversed(nodes)):
        if node.op_type in MOVERS and id(node) in wanted:
            names = [one for one in (*node.input, *node.output) if one in limits]
            limits |= dict.fromkeys(names, max(limits[one] for one in names))
    smallest = float(np.finfo(np.float32).tiny)
    return {
        name: np.float32(max(limit / LARGEST, smallest) if limit else 1.0)
        for name, limit in limits.items()
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Insertion:
    """A graph that gets nodes, one pair for a tensor however many take it."""

    graph: Any
    constants: Mapping[str, Any]
    scales: Mapping[str, np.float32]
    done: set[str] = field(default_factory=set)

    def quantize(self, node: Any, place: int) -> None:
        name = node.input[place]
        if name in self.constants:
            node.input[place] = self._weights(node, name)
        elif name in self.scales:
            node.input[place] = self._activation(name)
        else:
            raise QuantizationError(f"{node.name}: the range of its input {name!r} is not known")

    def _activation(self, name: str) -> str:
        if name not in self.done:
            self.done.add(name)
            scale, zero = self._parameters(name, np.array(self.scales[name]))
            self._append("QuantizeLinear", [name, scale, zero], name + QUANTIZED)
            self._append("DequantizeLinear", [name + QUANTIZED, scale, zero], name + DEQUANTIZED)
        return name + DEQUANTIZED

    def _weights(self, node: Any, name: str) -> str:
        from onnx import numpy_helper

        axis = weight_axis(node)
        own = f"{name}_{axis}"  # shared weights may have another axis elsewhere
        if own not in self.done:
            self.done.add(own)
            values, scales = quantized_weights(
                numpy_helper.to_array(self.constants[name]), axis, node=node.name
            )
            scale, zero = self._parameters(own, scales)
            self._constant(own + QUANTIZED, values)
            self._append(
                "DequantizeLinear", [own + QUANTIZED, scale, zero], own + DEQUANTIZED, axis=axis
            )
        return own + DEQUANTIZED

    def _parameters(self, name: str, scales: NDArray[np.float32]) -> tuple[str, str]:
        return (
            self._constant(f"{name}_scale", scales),
            self._constant(f"{name}_zero", np.zeros(scales.shape, np.int8)),
        )

    def _constant(self, name: str, values: NDArray[Any]) -> str:
        from onnx import numpy_helper

        self.graph.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def _append(
        self, kind: str, inputs: Sequence[str], output: str, *, axis: int | None = None
    ) -> None:
        from onnx import helper

        self.graph.graph.node.append(
            helper.make_node(kind, inputs, [output], name=output, axis=axis)
        )  # None leaves the attribute out


def quantized_weights(
    weights: NDArray[np.float32], axis: int, *, node: str
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return weights as INT8, rounded to nearest even, and one scale for each index of ``axis``.

    Raises:
        QuantizationError: They hold NaN or infinity; ``node`` is named.
    """
    if not np.isfinite(weights).all():
        raise QuantizationError(f"the weights of {node} hold NaN or infinity")
    others = tuple(one for one in range(weights.ndim) if one != axis)
    largest = np.abs(weights).max(axis=others, keepdims=True)
    scales = np.where(largest > 0, largest / np.float32(LARGEST), np.float32(1.0))
    values = np.clip(np.rint(weights / scales), -LARGEST, LARGEST).astype(np.int8)
    return values, scales.reshape(-1).astype(np.float32)


def qdq_nodes(graph: Any) -> Iterator[Any]:
    """Yield the QDQ nodes of an ONNX model."""
    return (node for node in graph.graph.node if node.op_type in QDQ)
