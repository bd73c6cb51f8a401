"""ONNX operators that look through a window: convolutions, pools and resizing, in torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from asdic.quantization.converters.node import Node, Operator


def _ends(node: Node, sides: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return what a window is padded with before and after each side (``auto_pad``, ``pads``)."""
    count = len(kernel)
    mode = node.get("auto_pad", "NOTSET")
    if mode in {"NOTSET", "VALID"}:
        pads = list(node.get("pads", [0] * 2 * count)) if mode == "NOTSET" else [0] * 2 * count
        return pads[:count], pads[count:]
    strides, dilations = node.get("strides", [1] * count), node.get("dilations", [1] * count)
    totals = [
        max((-(-side // step) - 1) * step + (size - 1) * spread + 1 - side, 0)
        for side, step, size, spread in zip(sides, strides, kernel, dilations, strict=True)
    ]
    small, large = [one // 2 for one in totals], [one - one // 2 for one in totals]
    return (small, large) if mode == "SAME_UPPER" else (large, small)


def _zeros_around(x: Tensor, before: Sequence[int], after: Sequence[int]) -> Tensor:
    pads = [side for pair in zip(reversed(before), reversed(after), strict=True) for side in pair]
    return functional.pad(x, pads)


def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    count = x.ndim - 2
    before, after = _ends(node, x.shape[2:], weight.shape[2:])
    if before != after:
        x, before = _zeros_around(x, before, after), [0] * count
    function = (functional.conv1d, functional.conv2d, functional.conv3d)[count - 1]
    return function(
        x,
        weight,
        bias,
        stride=node.get("strides", [1] * count),
        padding=before,
        dilation=node.get("dilations", [1] * count),
        groups=node.get("group", 1),
    )


def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    count = x.ndim - 2
    if node.get("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in node.attributes:
        raise node.refused("leaves its padding to be worked out")
    before, after = _ends(node, x.shape[2:], weight.shape[2:])
    extra = node.get("output_padding", [0] * count)
    function = (
        functional.conv_transpose1d,
        functional.conv_transpose2d,
        functional.conv_transpose3d,
    )[count - 1]
    answer = function(
        x,
        weight,
        bias,
        stride=node.get("strides", [1] * count),
        padding=before,
        output_padding=extra,
        groups=node.get("group", 1),
        dilation=node.get("dilations", [1] * count),
    )
    for axis, (first, last) in enumerate(zip(before, after, strict=True), start=2):
        if last < first:
            raise node.refused("cuts more before than after")
        answer = answer.narrow(axis, 0, answer.shape[axis] - (last - first))
    return answer


def _max_pool(node: Node, x: Tensor) -> Tensor:
    kernel = node.get("kernel_shape")
    before, after = _ends(node, x.shape[2:], kernel)
    if before != after:
        # What is repeated is in the window already, so it changes no maximum. TFLite's own
        # padding with minus infinity would ruin the range.
        for axis, (first, last) in enumerate(zip(before, after, strict=True), start=2):
            edges = [x.narrow(axis, 0, 1)] * first, [x.narrow(axis, x.shape[axis] - 1, 1)] * last
            x = torch.cat([*edges[0], x, *edges[1]], axis)
        before = [0] * len(kernel)
    function = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
    return function[len(kernel) - 1](
        x,
        kernel,
        stride=node.get("strides", [1] * len(kernel)),
        padding=before,
        dilation=node.get("dilations", [1] * len(kernel)),
        ceil_mode=bool(node.get("ceil_mode", 0)),
    )


def _average_pool(node: Node, x: Tensor) -> Tensor:
    kernel = node.get("kernel_shape")
    if any(one != 1 for one in node.get("dilations", [1])):
        raise node.refused("has dilations")
    before, after = _ends(node, x.shape[2:], kernel)
    average: Callable[..., Tensor] = partial(
        (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[len(kernel) - 1],
        kernel_size=kernel,
        stride=node.get("strides", [1] * len(kernel)),
        ceil_mode=bool(node.get("ceil_mode", 0)),
    )
    with_padding = bool(node.get("count_include_pad", 0))
    if before == after:
        return average(x, padding=before, count_include_pad=with_padding)
    answer = average(_zeros_around(x, before, after))
    if with_padding:
        return answer
    return answer / average(_zeros_around(torch.ones_like(x), before, after))


def _resize(node: Node, x: Tensor, *_rest: Any) -> Tensor:
    scales = node.numbers(2)
    sizes = node.numbers(3)
    if node.get("axes") is not None or node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise node.refused("resizes some axes or keeps their ratio")
    if not sizes:
        factors = scales or [1.0] * x.ndim
        sizes = [int(side * factor) for side, factor in zip(x.shape, factors, strict=True)]
    if sizes[:2] != list(x.shape[:2]):
        raise node.refused("resizes batch or channels")
    where = node.get("coordinate_transformation_mode", "half_pixel")
    mode = node.get("mode", "nearest")
    if mode == "nearest" and _repeats(node, where, x.shape[2:], sizes[2:]):
        return functional.interpolate(x, size=sizes[2:], mode="nearest")
    smooth = {("linear", 3): "linear", ("linear", 4): "bilinear"}.get((mode, x.ndim))
    if smooth is None or where not in {"half_pixel", "pytorch_half_pixel", "align_corners"}:
        raise node.refused(f"resizes by {mode}, {where}")
    if node.get("antialias", 0):
        raise node.refused("smooths what it shrinks (antialias)")
    return functional.interpolate(
        x, size=sizes[2:], mode=smooth, align_corners=where == "align_corners"
    )


def _repeats(node: Node, where: str, old: Sequence[int], new: Sequence[int]) -> bool:
    """Return whether the nearest neighbour is that of torch, which takes the floor."""
    whole = all(after % before == 0 for before, after in zip(old, new, strict=True))
    how = node.get("nearest_mode", "round_prefer_floor")
    if where == "asymmetric":
        return bool(how == "floor")
    return whole and where in {"half_pixel", "pytorch_half_pixel"} and how.startswith("round")


WINDOWS: Final[Mapping[str, Operator]] = MappingProxyType(
    {
        "AveragePool": _average_pool,
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "MaxPool": _max_pool,
        "Resize": _resize,
    }
)
