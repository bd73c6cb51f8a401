"""What each ONNX operator computes, in torch: the words of the way from ONNX to LiteRT.

It holds what vision networks use, at any opset from 13 on (https://onnx.ai/onnx/operators). An
operator, or a way of using one, that is not here is refused by name; every conversion is compared
with ONNX Runtime afterwards (``check.py``), so a wrong word here is an error and never an answer.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from asdic.quantization.converters.moves import MOVES
from asdic.quantization.converters.node import Node, Operator
from asdic.quantization.converters.windows import WINDOWS

_DTYPES: Final = MappingProxyType(
    {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 11: torch.float64}
)
"""``onnx.TensorProto.DataType``."""


def _elementwise(function: Callable[..., Tensor]) -> Operator:
    """Return the operator of a torch function that takes what the node takes and nothing else."""
    return lambda _node, *inputs: function(*inputs)


def _folded(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda _node, *inputs: reduce(function, inputs)


def _with(function: Callable[..., Tensor], **defaults: float) -> Operator:
    """Return the operator of a torch function whose further arguments are the node's attributes."""
    return lambda node, x: function(x, *(node.get(key, value) for key, value in defaults.items()))


def _same(_node: Node, x: Tensor, *_rest: Any) -> Tensor:
    return x


def _clip(node: Node, x: Tensor, *_bounds: Any) -> Tensor:
    low, high = node.numbers(1, "min"), node.numbers(2, "max")
    return torch.clamp(x, low[0] if low else None, high[0] if high else None)


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    slope, offset = node.get("alpha", 0.2), node.get("beta", 0.5)
    if abs(slope - 1 / 6) < 1e-6 and offset == 0.5:
        return functional.relu6(x + 3.0) * (1 / 6)
    return torch.clamp(x * slope + offset, 0.0, 1.0)


def _prelu(_node: Node, x: Tensor, slope: Tensor) -> Tensor:
    return functional.relu(x) - slope * functional.relu(-x)


def _gelu(node: Node, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=node.get("approximate", "none"))


def _softmax(node: Node, x: Tensor) -> Tensor:
    return torch.softmax(x, node.get("axis", -1))


def _cast(node: Node, x: Tensor) -> Tensor:
    if node.get("to") not in _DTYPES:
        raise node.refused(f"makes numbers of ONNX's type {node.get('to')}")
    return x.to(_DTYPES[node.get("to")])


def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    a = a.t() if node.get("transA", 0) else a
    b = b if node.get("transB", 0) else b.t()
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    product = functional.linear(a, b if alpha == 1.0 else b * alpha)
    return product if c is None else product + (c if beta == 1.0 else c * beta)


def _global(function: Callable[..., Tensor]) -> Operator:
    return lambda _node, x: function(x, tuple(range(2, x.ndim)), keepdim=True)


def _batch_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor, *seen: Tensor) -> Tensor:
    mean, variance = seen
    return functional.batch_norm(x, mean, variance, scale, bias, eps=node.get("epsilon", 1e-5))


def _instance_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return functional.instance_norm(x, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


def _layer_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    sides = list(x.shape[node.get("axis", -1) :])
    return functional.layer_norm(x, sides, scale.reshape(sides), bias, node.get("epsilon", 1e-5))


def _group_norm(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    groups = node.get("num_groups")
    if node.opset < 21:  # it had one scale a group before
        scale = scale.repeat_interleave(x.shape[1] // groups)
        bias = bias.repeat_interleave(x.shape[1] // groups)
    return functional.group_norm(x, groups, scale, bias, node.get("epsilon", 1e-5))


def _reduced(function: Callable[..., Tensor]) -> Operator:
    def apply(node: Node, x: Tensor, _axes: Any = None) -> Tensor:
        axes = node.numbers(1, "axes")
        if not axes and node.get("noop_with_empty_axes", 0):
            return x
        return function(x, tuple(axes or range(x.ndim)), keepdim=bool(node.get("keepdims", 1)))

    return apply


def _einsum(node: Node, *parts: Tensor) -> Tensor:
    return torch.einsum(node.get("equation"), *parts)


OPERATORS: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        **MOVES,
        **WINDOWS,
        "Abs": _elementwise(torch.abs),
        "Add": _elementwise(operator.add),
        "BatchNormalization": _batch_norm,
        "Cast": _cast,
        "Ceil": _elementwise(torch.ceil),
        "Clip": _clip,
        "Cos": _elementwise(torch.cos),
        "Div": _elementwise(operator.truediv),
        "Dropout": _same,
        "Einsum": _einsum,
        "Elu": _with(functional.elu, alpha=1.0),
        "Equal": _elementwise(torch.eq),
        "Erf": _elementwise(torch.erf),
        "Exp": _elementwise(torch.exp),
        "Floor": _elementwise(torch.floor),
        "Gelu": _gelu,
        "Gemm": _gemm,
        "GlobalAveragePool": _global(torch.mean),
        "GlobalMaxPool": _global(torch.amax),
        "Greater": _elementwise(torch.gt),
        "GroupNormalization": _group_norm,
        "HardSigmoid": _hard_sigmoid,
        "HardSwish": _elementwise(functional.hardswish),
        "Identity": _same,
        "InstanceNormalization": _instance_norm,
        "LayerNormalization": _layer_norm,
        "LeakyRelu": _with(functional.leaky_relu, alpha=0.01),
        "Less": _elementwise(torch.lt),
        "Log": _elementwise(torch.log),
        "MatMul": _elementwise(torch.matmul),
        "Max": _folded(torch.maximum),
        "Min": _folded(torch.minimum),
        "Mish": _elementwise(functional.mish),
        "Mul": _elementwise(operator.mul),
        "Neg": _elementwise(torch.neg),
        "PRelu": _prelu,
        "Pow": _elementwise(torch.pow),
        "Reciprocal": _elementwise(torch.reciprocal),
        "ReduceMax": _reduced(torch.amax),
        "ReduceMean": _reduced(torch.mean),
        "ReduceMin": _reduced(torch.amin),
        "ReduceSum": _reduced(torch.sum),
        "Relu": _elementwise(torch.relu),
        "Sigmoid": _elementwise(torch.sigmoid),
        "Sin": _elementwise(torch.sin),
        "Softmax": _softmax,
        "Softplus": _elementwise(functional.softplus),
        "Sqrt": _elementwise(torch.sqrt),
        "Sub": _elementwise(operator.sub),
        "Sum": _folded(operator.add),
        "Tanh": _elementwise(torch.tanh),
        "Where": _elementwise(torch.where),
    }
)
"""The operators that can come from ONNX to LiteRT."""
