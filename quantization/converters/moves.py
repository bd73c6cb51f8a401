"""ONNX operators that move numbers and change none, in torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from asdic.quantization.converters.node import Node, Operator


def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    size = node.get("blocksize")
    if node.get("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(x, size)
    batch, channels, height, width = x.shape
    deep = x.reshape(batch, size, size, channels // size**2, height, width)
    deep = deep.permute(0, 3, 4, 1, 5, 2)
    return deep.reshape(batch, channels // size**2, height * size, width * size)


def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    size = node.get("blocksize")
    batch, channels, height, width = x.shape
    blocks = x.reshape(batch, channels, height // size, size, width // size, size)
    blocks = blocks.permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(batch, channels * size**2, height // size, width // size)


def _reshape(node: Node, x: Tensor, _shape: Any) -> Tensor:
    wanted = node.numbers(1) or []
    if not node.get("allowzero", 0):
        wanted = [x.shape[place] if side == 0 else side for place, side in enumerate(wanted)]
    return x.reshape(wanted)


def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    rows = int(np.prod(x.shape[:axis], dtype=np.int64))
    return x.reshape(rows, -1)


def _squeeze(node: Node, x: Tensor, _axes: Any = None) -> Tensor:
    axes = node.numbers(1, "axes")
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(node: Node, x: Tensor, _axes: Any = None) -> Tensor:
    axes = node.numbers(1, "axes") or []
    for axis in sorted(one % (x.ndim + len(axes)) for one in axes):
        x = x.unsqueeze(axis)
    return x


def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.get("perm") or list(reversed(range(x.ndim))))


def _concat(node: Node, *parts: Tensor) -> Tensor:
    return torch.cat(parts, node.get("axis"))


def _split(node: Node, x: Tensor, _sizes: Any = None) -> tuple[Tensor, ...]:
    axis = node.get("axis", 0)
    sizes = node.numbers(1, "split")
    if sizes is None:
        return torch.split(
            x, -(-x.shape[axis] // node.get("num_outputs", node.get("outputs"))), axis
        )
    return torch.split(x, sizes, axis)


def _slice(node: Node, x: Tensor, *_rest: Any) -> Tensor:
    starts, ends = node.numbers(1) or [], node.numbers(2) or []
    axes = node.numbers(3) or list(range(len(starts)))
    steps = node.numbers(4) or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, last, stride = slice(start, end, step).indices(x.shape[axis])
        if stride < 0:
            raise node.refused("goes backwards")
        places = [slice(None)] * x.ndim
        places[axis] = slice(first, last, stride)
        x = x[tuple(places)]
    return x


_PADS: Final = MappingProxyType({"constant": "constant", "reflect": "reflect", "edge": "replicate"})


def _pad(node: Node, x: Tensor, *_rest: Any) -> Tensor:
    mode = _PADS.get(node.get("mode", "constant"))
    if mode is None:
        raise node.refused(f"pads by {node.get('mode')}")
    pads, value = node.numbers(1, "pads") or [], node.numbers(2) or [0.0]
    axes = node.numbers(3) or list(range(x.ndim))
    ends = {axis % x.ndim: pads[place :: len(axes)] for place, axis in enumerate(axes)}
    flat = [side for axis in reversed(range(x.ndim)) for side in ends.get(axis, (0, 0))]
    if mode == "constant":
        return functional.pad(x, flat, value=float(value[0]))
    if any(flat[-4:]):  # of channels and batch, which torch pads with numbers alone
        raise node.refused("repeats channels or samples")
    return functional.pad(x, flat[:-4], mode=mode)


def _expand(node: Node, x: Tensor, _shape: Any) -> Tensor:
    return x.expand(np.broadcast_shapes(x.shape, tuple(node.numbers(1) or ())))


def _tile(node: Node, x: Tensor, _repeats: Any) -> Tensor:
    return x.repeat(node.numbers(1) or [])


def _gather(node: Node, x: Tensor, _indices: Any) -> Tensor:
    axis, indices = node.get("axis", 0) % x.ndim, node.constants[1]
    if indices is None:
        raise node.refused("computes its indices anew for every image")
    size = x.shape[axis]
    wanted = torch.from_numpy(np.asarray(indices % size, np.int64))
    if wanted.ndim == 0:
        return x.select(axis, int(wanted))
    found = x.index_select(axis, wanted.flatten())
    return found.reshape(*x.shape[:axis], *wanted.shape, *x.shape[axis + 1 :])


MOVES: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "Concat": _concat,
        "DepthToSpace": _depth_to_space,
        "Expand": _expand,
        "Flatten": _flatten,
        "Gather": _gather,
        "Pad": _pad,
        "Reshape": _reshape,
        "Slice": _slice,
        "SpaceToDepth": _space_to_depth,
        "Split": _split,
        "Squeeze": _squeeze,
        "Tile": _tile,
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
    }
)
