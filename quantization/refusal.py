"""What a converter could not take, in one line: the operator, and the layer that it is in."""

from __future__ import annotations

import re
from typing import Any, Final

from asdic.contract.errors import UnsupportedModelError

# How each converter says that it does not know an operator.
_UNKNOWN_OPERATOR: Final = (
    re.compile(r"Lowering not found: (\S+)"),  # litert-torch
    re.compile(r"No conversion rule found for operations: ([^\n]+)"),  # OpenVINO
    re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'"),  # torch.onnx
    re.compile(r"Fatal error: (\S+?)\(-?\d+\) is not a registered"),  # ONNX Runtime
    re.compile(r"No Op registered for (\S+)"),  # onnx
)
_OPSET: Final = re.compile(r"-\d+$")


def unsupported(
    error: BaseException, *, converter: str, program: Any = None, graph: Any = None
) -> UnsupportedModelError:
    """Return the error for a model that ``converter`` refused.

    It names the operator if the converter did, and the layer that it is in: the module's path in
    an exported ``program``, the node's name in an ONNX ``graph``.
    """
    text = str(error)
    for pattern in _UNKNOWN_OPERATOR:
        if found := pattern.search(text):
            operators = _OPSET.sub("", found[1].strip().removesuffix(".default"))
            layer = _layer_of(operators, program) or _node_of(operators, graph)
            return UnsupportedModelError(
                f"{converter} does not support the operator {operators}{layer}; "
                "replace it in the model, or choose another target"
            )
    return UnsupportedModelError(f"{converter} cannot convert the model: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or else its kind."""
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)


def _layer_of(operator: str, program: Any) -> str:
    """Return where in an exported program an operator is, in words, or nothing."""
    named = set(re.split(r"\W+", operator))
    for node in program.graph.nodes if program is not None else ():
        parts = str(node.target).split(".")[1:2]  # aten.special_bessel_j0.default
        if node.op == "call_function" and any(_is_same(one, named) for one in parts):
            modules = list(node.meta.get("nn_module_stack", {}).values())
            path = str(modules[-1][0]) if modules else ""
            return f" (in the layer {path!r})" if path else " (in the model's own forward)"
    return ""


def _is_same(operator: str, named: set[str]) -> bool:
    """Return whether an operator is named; converters know some without ``special_``, say."""
    return any(operator == one or operator.endswith(f"_{one}") for one in named if one)


def _node_of(operator: str, graph: Any) -> str:
    """Return where in an ONNX graph an operator is, in words, or nothing."""
    named = set(re.split(r"\W+", operator))
    for node in graph.node if graph is not None else ():
        if node.op_type in named:
            return f" (the node {node.name or node.output[0]!r})"
    return ""
