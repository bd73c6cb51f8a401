"""Weights of an ONNX file that are stored as integers, and files that are quantized already."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import UnsupportedModelError

_QUANTIZED: Final = frozenset(
    {
        *("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv"),
        *("QLinearMatMul", "ConvInteger", "MatMulInteger", "QLinearAdd", "QGemm"),
    }
)


def float_weights(onnx: Any, model: Any, path: Path) -> tuple[str, ...]:
    """Turn weights behind a DequantizeLinear into the float ones that they stand for.

    Returns:
        What was done, in words, or nothing.

    Raises:
        UnsupportedModelError: Something is left that computes with integers: it is quantized.
    """
    constants = {one.name: one for one in model.graph.initializer}
    kept, stored = [], 0
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and all(name in constants for name in node.input):
            parts = [onnx.numpy_helper.to_array(constants[name]) for name in node.input]
            axis = next((one.i for one in node.attribute if one.name == "axis"), 1)
            if parts[1].ndim > 1:
                raise UnsupportedModelError(
                    f"{path} stores the weight {node.input[0]!r} in blocks; give the float model"
                )
            values = _real(axis, *parts)
            model.graph.initializer.append(onnx.numpy_helper.from_array(values, node.output[0]))
            stored += 1
        elif node.op_type in _QUANTIZED:
            raise UnsupportedModelError(
                f"{path} is quantized already ({node.op_type}, the node "
                f"{node.name or node.output[0]!r}); give the float model"
            )
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    if not stored:
        return ()
    return (
        f"{stored} weight(s) were stored as integers; they are taken as the numbers that these "
        "stand for",
    )


def _real(
    axis: int, stored: NDArray[Any], scale: NDArray[Any], zero: NDArray[Any] | None = None
) -> NDArray[np.float32]:
    """Return ``(stored - zero) * scale``, with one scale for all or one an index of ``axis``."""
    sides = [1] * stored.ndim
    if scale.size > 1:
        sides[axis] = scale.size
    offset = np.zeros(1, np.float32) if zero is None else zero.astype(np.float32)
    centred = stored.astype(np.float32) - offset.reshape(sides if offset.size > 1 else -1)
    return np.asarray(centred * scale.astype(np.float32).reshape(sides), np.float32)
