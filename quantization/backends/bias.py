"""Bias correction of a QDQ graph: the mean error of each layer goes into its float bias.

Quantized weights shift the mean of a layer's output; with few weights a channel, as in depthwise
convolutions, the shift is large (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, section 4.2). Each layer is measured for itself, on
the float model's own activations, so no layer's correction depends on another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.quantization.backends.backend import Tensors
from asdic.quantization.backends.qdq import DEQUANTIZED, LAYERS, qdq_nodes

_TWIN: Final = "_twin"
_BIASED: Final = LAYERS - {"MatMul"}


def correct_biases(quantized: Any, graph: Any, samples: Sequence[Tensors]) -> None:
    """Correct the biases of ``quantized``, which was made of the float ``graph``, in place."""
    layers = [
        node
        for node in quantized.graph.node
        if node.op_type in _BIASED and node.input[1].endswith(DEQUANTIZED)
    ]
    if not layers:
        return
    for node, error in zip(layers, _mean_errors(quantized, graph, layers, samples), strict=True):
        _add_to_bias(quantized, node, -error)


def _mean_errors(
    quantized: Any, graph: Any, layers: Sequence[Any], samples: Sequence[Tensors]
) -> list[NDArray[np.float64]]:
    """Return each layer's mean error for every channel, (channels,).

    One graph answers: the float one, and in it beside each layer its INT8 twin.
    """
    import onnx
    import onnxruntime

    both = onnx.ModelProto()
    both.CopyFrom(graph)
    del both.graph.output[:]
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
        both.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name in (node.output[0], twin.output[0])
        )
    _sort(both)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        both.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    sums: list[Any] = [0.0] * len(layers)
    for sample in samples:
        answers = session.run(None, dict(sample))
        for number, (exact, int8) in enumerate(zip(answers[::2], answers[1::2], strict=True)):
            over = tuple(one for one in range(exact.ndim) if one != 1)
            sums[number] = sums[number] + (int8.astype(np.float64) - exact).mean(axis=over)
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
