"""INT8 for TensorRT on a Jetson: an ONNX graph with explicit QDQ nodes.

The nodes are placed by ``qdq.py``, with ranges by ``ranges.py``; what TensorRT asks of such a
graph is checked after the fact by ``placement.py``. The graph has not run on an
Orin: here it is judged in simulation, and read and built by TensorRT-RTX where that is installed,
which is a relative of the one on a Jetson and not the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from asdic.contract.files import write_file
from asdic.contract.variant import TensorSpec
from asdic.quantization.backends.backend import (
    FloatFiles,
    QuantizedFiles,
    Tensors,
    Write,
)
from asdic.quantization.backends.bias import correct_biases, correct_biases_in_turn
from asdic.quantization.backends.onnx_tensors import onnx_package, tensors_of
from asdic.quantization.backends.placement import check_placement
from asdic.quantization.backends.qdq import activations_of, insert_qdq
from asdic.quantization.backends.ranges import (
    BEST,
    Bounds,
    best_range,
    bounds_of,
    judges_for,
    observe,
)
from asdic.quantization.recipe import Recipe

FILE: Final = "model.onnx"


def prepare(
    model: FloatFiles, source: Path, calibration: Sequence[Tensors], recipe: Recipe
) -> Write:
    """Take the ranges; what is returned writes ``model.onnx``."""
    samples = model.laid_out(calibration)
    graph = onnx_package().load(source / model.files[0])
    _name_nodes(graph)
    return _Graph(graph=graph, samples=samples, recipe=recipe, outputs=model.outputs).prepared()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Graph:
    """A float ONNX model that is to be written with QDQ nodes."""

    graph: Any
    samples: Sequence[Tensors]
    recipe: Recipe
    outputs: Sequence[TensorSpec]

    def prepared(self) -> Write:
        names = activations_of(self.graph, layers_only=self._layers_only)
        histograms = self.recipe.range not in {"minmax", "average"}
        seen = observe(tensors_of(self.graph, self.samples, names), histograms=histograms)
        by = partial(bounds_of, seen, symmetric=True)
        if self.recipe.range != BEST:
            return partial(self._write, by(self.recipe.range))
        some = self.samples[: judges_for(self.outputs)]
        outputs = [one.name for one in self.outputs]
        exact = list(tensors_of(self.graph, some, outputs))

        def answers_by(range_: str) -> list[dict[str, NDArray[Any]]]:
            return list(tensors_of(self._quantized(by(range_)), some, outputs))

        return partial(self._write, by(best_range(answers_by, exact)))

    @property
    def _layers_only(self) -> bool:
        return "layers" in self.recipe.options

    def _write(
        self, bounds: Mapping[str, Bounds], folder: Path, floats: Sequence[str] = ()
    ) -> QuantizedFiles:
        quantized = self._quantized(bounds, floats)
        if "bias" in self.recipe.options:
            correct_biases(quantized, self.graph, self.samples)
        if "full-bias" in self.recipe.options:
            correct_biases_in_turn(quantized, self.graph, self.samples)
        placement = check_placement(quantized)
        write_file(folder / FILE, quantized.SerializeToString(deterministic=True))
        return QuantizedFiles(files=(FILE,), notes=placement.notes)

    def _quantized(self, bounds: Mapping[str, Bounds], floats: Sequence[str] = ()) -> Any:
        quantized = onnx_package().ModelProto()
        quantized.CopyFrom(self.graph)
        insert_qdq(quantized, bounds, layers_only=self._layers_only, floats=floats)
        return quantized


def _name_nodes(graph: Any) -> None:
    """Give nodes without a name that of their output, so that each can be left float."""
    for node in graph.graph.node:
        node.name = node.name or node.output[0]
