"""What quantization did to each layer: INT8 beside float, on the same inputs.

The two files answer to the same inputs, each with its own errors carried on: a layer's figures
are what has come together up to it, not its own share. That is ``sensitivity_db``, which is
measured elsewhere. Where a recipe changes the scale of channels between two layers (channel
alignment, SmoothQuant), what lies between differs by design, and so do the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from asdic.device.metrics import decibel
from asdic.quantization.graphs.graph import Codes, Graph, Layer, Tensors


class LayerQuality(msgspec.Struct, frozen=True, kw_only=True):
    """How good the INT8 answers of one layer are, over all samples together.

    ``macs`` are multiply-accumulates for one input, ``int8`` says that they are INT8.
    ``sqnr_db`` is None where float and INT8 answer the same. ``cosine`` is that of the angle
    between both answers: 1 where they differ by a factor alone. ``saturation`` is the share of
    numbers at the first or last code while the float model's lie more than a step beyond it; a
    ReLU's zeros are not among them. ``range_use`` is the share of the codes that lie between the
    smallest and the largest one seen. Both are None where the answer is not stored as INT8.
    ``weights_sqnr_db`` is None without weights, and where they are the same. ``sensitivity_db``
    is None until it is measured.
    """

    name: str
    kind: str
    macs: int
    int8: bool
    sqnr_db: float | None
    cosine: float
    saturation: float | None
    range_use: float | None
    weights_sqnr_db: float | None = None
    sensitivity_db: float | None = None


def layer_qualities(
    float_graph: Graph, int8_graph: Graph, samples: Iterable[Tensors]
) -> tuple[LayerQuality, ...]:
    """Return the quality of each layer that both files have, in the order of the float file.

    One sample's answers are kept at a time.

    Args:
        float_graph: The float model.
        int8_graph: What the same tools made of it.
        samples: Inputs of both, by name, in their shapes; float32.
    """
    pairs = _paired(float_graph.layers, int8_graph.layers)
    sums = {layer.name: _Sums() for layer in pairs}
    for tensors in samples:
        exact, rounded = float_graph.run(tensors), int8_graph.run(tensors)
        for layer in pairs:
            sums[layer.name].add(exact.pop(layer.name), rounded.pop(layer.name), layer.codes)
    return tuple(
        _quality(layer, sums[layer.name], _weights_sqnr(layer.name, float_graph, int8_graph))
        for layer in pairs
    )


def first_nan(graph: Graph, tensors: Tensors) -> str | None:
    """Return the first layer that answers NaN or infinity to one set of inputs, or None."""
    answers = graph.run(tensors)
    return next(
        (one.name for one in graph.layers if not np.isfinite(answers[one.name]).all()), None
    )


def _paired(float_layers: Iterable[Layer], int8_layers: Iterable[Layer]) -> tuple[Layer, ...]:
    """Return the INT8 layers that the float file has as well, in its order."""
    found: Mapping[str, Layer] = {layer.name: layer for layer in int8_layers}
    return tuple(
        found[layer.name]
        for layer in float_layers
        if layer.name in found and found[layer.name].shape == layer.shape
    )


@dataclass
class _Sums:
    """What has come together of one layer."""

    signal: float = 0.0
    answer: float = 0.0
    noise: float = 0.0
    product: float = 0.0
    numbers: int = 0
    saturated: int = 0
    codes_seen: tuple[int, int] | None = None

    def add(
        self, exact: NDArray[np.float32], rounded: NDArray[np.float32], codes: Codes | None
    ) -> None:
        """Add one sample's answers."""
        difference = np.subtract(exact, rounded)
        self.signal += _power(exact, exact)
        self.answer += _power(rounded, rounded)
        self.product += _power(exact, rounded)
        self.noise += _power(difference, difference)
        self.numbers += exact.size
        if codes is not None:
            self.saturated += _saturated(exact, rounded, codes)
            self._add_codes(rounded, codes)

    def _add_codes(self, rounded: NDArray[np.float32], codes: Codes) -> None:
        """Take note of the smallest and the largest code; with one scale, the numbers' own."""
        ends = np.array([rounded.min(), rounded.max()]) if codes.scale.size == 1 else rounded
        found = codes.of(ends)
        lowest, highest = self.codes_seen or (codes.high, codes.low)
        self.codes_seen = (min(lowest, int(found.min())), max(highest, int(found.max())))


def _power(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Return the sum of products: of float32 in blocks, which is exact enough and fast."""
    return float(np.dot(one.ravel(), other.ravel()))


def _saturated(exact: NDArray[np.float32], rounded: NDArray[np.float32], codes: Codes) -> int:
    """Return how many numbers were cut off at the first or the last code."""
    low, high = codes.bounds()
    count = 0
    if np.any(exact.min() < low - codes.scale):
        beyond = (exact < low - codes.scale) & (rounded < low + codes.scale / 2)
        count += int(np.count_nonzero(beyond))
    if np.any(exact.max() > high + codes.scale):
        beyond = (exact > high + codes.scale) & (rounded > high - codes.scale / 2)
        count += int(np.count_nonzero(beyond))
    return count


def _quality(layer: Layer, sums: _Sums, weights_sqnr_db: float | None) -> LayerQuality:
    saturation = range_use = None
    if layer.codes is not None and sums.codes_seen is not None:
        lowest, highest = sums.codes_seen
        saturation = sums.saturated / sums.numbers
        range_use = (highest - lowest + 1) / layer.codes.count
    return LayerQuality(
        name=layer.name,
        kind=layer.kind,
        macs=layer.macs,
        int8=layer.is_int8,
        sqnr_db=_finite(decibel(sums.signal, sums.noise)),
        cosine=_cosine(sums),
        saturation=saturation,
        range_use=range_use,
        weights_sqnr_db=weights_sqnr_db,
    )


def _cosine(sums: _Sums) -> float:
    """Return the cosine; two answers that are both all zero are alike."""
    length = math.sqrt(sums.signal) * math.sqrt(sums.answer)
    if length == 0.0:
        return 1.0 if sums.signal == sums.answer else 0.0
    return min(1.0, max(-1.0, sums.product / length))


def _weights_sqnr(name: str, float_graph: Graph, int8_graph: Graph) -> float | None:
    exact, rounded = float_graph.weights(name), int8_graph.weights(name)
    if exact is None or rounded is None or exact.shape != rounded.shape:
        return None
    signal = float(np.square(exact, dtype=np.float64).sum())
    noise = float(np.square(np.subtract(exact, rounded, dtype=np.float64)).sum())
    return _finite(decibel(signal, noise))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
