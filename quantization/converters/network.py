"""An ONNX model as a torch module, for converters that take nothing else.

No package that is kept does this: onnx2torch 1.5.15 (August 2024) read 4 of 11 networks here, and
torch could export one of these 4; onnx2tf does not run on Python 3.11.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor

from asdic.quantization.converters.node import Node
from asdic.quantization.converters.operators import OPERATORS

_NO_PATH: Final = re.compile(r"[^0-9A-Za-z_]+")


class _Layer(torch.nn.Module):
    """One node, as a module of its own, so that the layers of the TFLite file bear its name."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._node = node

    def forward(self, *inputs: Tensor | None) -> Tensor | tuple[Tensor, ...]:
        return OPERATORS[self._node.kind](self._node, *inputs)


class Network(torch.nn.Module):
    """Takes and returns what the ONNX graph does, in the graph's order, as tensors.

    Its shapes and constants must be fixed, as the front end and ONNX Runtime leave them.
    """

    def __init__(self, graph: Any, opset: int) -> None:
        super().__init__()
        constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
        constants |= dict(_constant_nodes(graph))
        self._inputs = [one.name for one in graph.input if one.name not in constants]
        self._outputs = [one.name for one in graph.output]
        self._wires: list[tuple[str, list[str], list[str]]] = []
        self.layers = torch.nn.ModuleDict()
        for number, node in enumerate(graph.node):
            if node.op_type != "Constant":
                layer = f"{_NO_PATH.sub('_', node.name or node.op_type)}_{number}"
                self.layers[layer] = _Layer(_node(node, opset, constants))
                self._wires.append((layer, list(node.input), list(node.output)))
        self._weights: dict[str, str] = {}
        for number, (name, value) in enumerate(constants.items()):
            self._weights[name] = f"weight_{number}"
            self.register_buffer(f"weight_{number}", torch.from_numpy(np.array(value)))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the answers for one set of inputs."""
        values: dict[str, Tensor] = dict(zip(self._inputs, inputs, strict=True))
        for name, weight in self._weights.items():
            values[name] = self.get_buffer(weight)
        for layer, taken, given in self._wires:
            arguments = [values[name] if name else None for name in taken]
            answer = self.layers[layer](*arguments)
            answers = answer if isinstance(answer, tuple) else (answer,)
            values.update(zip(given, answers, strict=False))
        return tuple(values[name] for name in self._outputs)


# What a TFLite file calls its layers by, and a report shows.
_Layer.__module__, _Layer.__qualname__ = "asdic", "Node"
Network.__module__, Network.__qualname__ = "asdic", "Onnx"


def read_network(path: Path) -> Network:
    """Return the ONNX model at ``path`` as a torch module.

    Raises:
        UnsupportedModelError: It holds an operator that ``operators.py`` does not.
    """
    model = onnx.load(path)
    opset = max(one.version for one in model.opset_import if one.domain in {"", "ai.onnx"})
    return Network(model.graph, opset).eval()


def _constant_nodes(graph: Any) -> Sequence[tuple[str, NDArray[Any]]]:
    return [
        (node.output[0], onnx.numpy_helper.to_array(node.attribute[0].t))
        for node in graph.node
        if node.op_type == "Constant"
    ]


def _node(node: Any, opset: int, constants: dict[str, NDArray[Any]]) -> Node:
    attributes = {one.name: _plain(onnx.helper.get_attribute_value(one)) for one in node.attribute}
    found = Node(
        kind=node.op_type,
        name=node.name or node.output[0],
        opset=opset,
        attributes=attributes | {"outputs": len(node.output)},
        constants=[constants.get(name) if name else np.empty(0) for name in node.input],
    )
    if node.domain not in {"", "ai.onnx"} or node.op_type not in OPERATORS:
        raise found.refused("is not among the operators that it knows")
    return found


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
