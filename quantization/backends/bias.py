"""Bias correction of a QDQ graph: the mean error of each layer goes into its float bias.

Quantized weights shift the mean of a layer's output; with few weights a channel, as in depthwise
convolutions, the shift is large (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, section 4.2). Either each layer is measured for
itself, on the float model's own activations, in one pass; or the layers are corrected in turn,
each in the INT8 model with all those before it corrected, which also takes up what these left.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.quantization.backends.backend import Tensors
from asdic.quantization.backends.means import samples_for_mean
from asdic.quantization.backends.onnx_tensors import tensors_of
from asdic.quantization.backends.qdq import DEQUANTIZED, LAYERS, qdq_nodes

_TWIN: Final = "_twin"
_BIASED: Final = LAYERS - {"MatMul"}


def correct_biases(quantized: Any, graph: Any, samples: Sequence[Tensors]) -> None:
    """Correct the biases of ``quantized``, which was made of the float ``graph``, in place.

    Each layer is measured for itself.
    """
    layers = _biased(quantized)
    if not layers:
        return
    for node, error in zip(layers, _mean_errors(quantized, graph, layers, samples), strict=True):
        _add_to_bias(quantized, node, -error)


def correct_biases_in_turn(quantized: Any, graph: Any, samples: Sequence[Tensors]) -> None:
    """Correct the biases of ``quantized``, which was made of the float ``graph``, in place.

    The layers are corrected in their order; one model run for each of them takes a while.
    """
    layers = _biased(quantized)
    for node, count, exact in _float_means(graph, layers, samples):
        error = _means(quantized, node.output[:1], samples[:count])[0] - exact
        _add_to_bias(quantized, node, -error)


def _float_means(
    graph: Any, layers: Sequence[Any], samples: Sequence[Tensors]
) -> Iterator[tuple[Any, int, NDArray[np.float64]]]:
    """Yield each layer, how many samples give its mean answer, and that of the float model."""
    names = [node.output[0] for node in layers]
    shapes = [one.shape for one in next(tensors_of(graph, samples[:1], names)).values()]
    counts = [samples_for_mean(math.prod(shape) // shape[1]) for shape in shapes]
    found: dict[str, NDArray[np.float64]] = {}
    for count in set(counts):
        some = [name for name, wanted in zip(names, counts, strict=True) if wanted == count]
        found |= dict(zip(some, _means(graph, some, samples[:count]), strict=True))
    yield from zip(layers, counts, (found[name] for name in names), strict=True)


def _biased(quantized: Any) -> list[Any]:
    return [
        node
        for node in quantized.graph.node
        if node.op_type in _BIASED and node.input[1].endswith(DEQUANTIZED)
    ]


def _means(
    graph: Any, names: Sequence[str], samples: Sequence[Tensors]
) -> list[NDArray[np.float64]]:
    """Return the mean of each tensor for every channel, (channels,), over the samples."""
    sums: list[Any] = [0.0] * len(names)
    for answers in tensors_of(graph, samples, names):
        for number, name in enumerate(names):
            sums[number] = sums[number] + _channel_means(answers[name])
    return [one / len(samples) for one in sums]


def _channel_means(answer: NDArray[Any]) -> NDArray[np.float64]:
    over = tuple(one for one in range(answer.ndim) if one != 1)
    return np.asarray(answer.mean(axis=over, dtype=np.float64))


def _mean_errors(
    quantized: Any, graph: Any, layers: Sequence[Any], samples: Sequence[Tensors]
) -> list[NDArray[np.float64]]:
    """Return each layer's mean error for every channel, (channels,).

    One graph answers: the float one, and in it beside each layer its INT8 twin.
    """
    import onnx

    both = onnx.ModelProto()
    both.CopyFrom(graph)
    names = {one.name for one in both.graph.initializer}
    both.graph.initializer.extend(
        one for one in quantized.graph.initializer if one.name not in names
    )
    both.graph.node.extend(qdq_nodes(quantized))
    for node in layers:
        twin = both.graph.node.add()
        twin.CopyFrom(node)
        twin.name += _TWIN
        twin.output[0] += _TWIN
    _sort(both)
    sums: list[Any] = [0.0] * len(layers)
    pairs = [(node.output[0], node.output[0] + _TWIN) for node in layers]
    for answers in tensors_of(both, samples, [name for pair in pairs for name in pair]):
        for number, (exact, twin) in enumerate(pairs):
            error = answers[twin].astype(np.float64) - answers[exact]
            sums[number] = sums[number] + _channel_means(error)
    return [one / len(samples) for one in sums]


def _sort(graph: Any) -> None:
    """Put the nodes into an order in which every input is known before it is taken."""
    known = {one.name for one in (*graph.graph.input, *graph.graph.initializer)} | {""}
    left, order = list(graph.graph.node), []
    while left:
        ready = [node for node in left if known.issuperset(node.input)]
        known.update(name for node in ready for name in node.output)
        order += ready
        left = [node for node in left if not known.issuperset(node.output)]
    del graph.graph.node[:]
    graph.graph.node.extend(order)


def _add_to_bias(graph: Any, node: Any, values: NDArray[np.float64]) -> None:
    from onnx import numpy_helper

    constants = {one.name: one for one in graph.graph.initializer}
    old = node.input[2] if len(node.input) > 2 else ""
    if old and old not in constants:
        return  # a bias that is computed
    before = numpy_helper.to_array(constants[old]) if old else np.zeros(1, np.float32)
    name = f"{node.name}_corrected"
    graph.graph.initializer.append(
        numpy_helper.from_array((before + values).astype(np.float32), name)
    )
    del node.input[2:]
    node.input.append(name)
