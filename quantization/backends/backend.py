"""What a backend is: one function that writes the INT8 model of one format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from asdic.contract.target import ModelFormat
from asdic.contract.variant import InputRule, OutputRule, TensorSpec
from asdic.quantization.recipe import Recipe
from asdic.training.description import ModelDescription

Tensors: TypeAlias = Mapping[str, NDArray[np.float32]]
"""One set of a model's inputs by name, prepared, in the layout of the float model."""


class FloatFiles(msgspec.Struct, frozen=True, kw_only=True):
    """A float model in one format: names inside its folder, the one that a runtime opens first.

    ``inputs`` to ``postprocessing`` describe the files' own tensors, which are those of the INT8
    files as well; ``channels_last`` names the tensors that the model's description holds
    channels-first and these files do not (TFLite's images).
    """

    name: str
    files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: tuple[InputRule, ...]
    postprocessing: tuple[OutputRule, ...]
    channels_last: tuple[str, ...] = ()

    @classmethod
    def described(cls, description: ModelDescription, *, files: tuple[str, ...]) -> FloatFiles:
        """Return files whose tensors are those of the description."""
        return cls(
            name=description.name,
            files=files,
            inputs=description.inputs,
            outputs=description.outputs,
            preprocessing=description.preprocessing,
            postprocessing=description.postprocessing,
        )

    def laid_out(self, samples: Sequence[Tensors]) -> list[dict[str, NDArray[np.float32]]]:
        """Return tensors in the layout of the description as these files take them."""
        return [
            {
                name: np.ascontiguousarray(array.transpose(0, 2, 3, 1))
                if name in self.channels_last
                else array
                for name, array in one.items()
            }
            for one in samples
        ]


class QuantizedFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The INT8 files of one format: names inside the folder, the one that is opened first.

    ``notes`` is what else is to be known about them, in words.
    """

    files: tuple[str, ...]
    notes: tuple[str, ...] = ()


class Write(Protocol):
    """Write the INT8 model into ``folder``, and say what was written.

    ``floats`` are layers that stay float, by the names that ``graphs`` gives them.

    Raises:
        QuantizationError: The tools failed, or there is no such layer.
    """

    def __call__(self, folder: Path, floats: Sequence[str] = ()) -> QuantizedFiles:
        """Write the files."""
        ...


class Backend(Protocol):
    """Get ready to quantize the float model in ``source``: what is returned writes the files.

    Statistics are taken once, however often it writes. ``calibration`` is in the layout of the
    model's description (``FloatFiles.laid_out``).

    Raises:
        MissingPackageError: A package of the extra ``quantize`` is not installed.
        QuantizationError: The tools failed, or a tensor of the float model is not finite.
    """

    def __call__(
        self, model: FloatFiles, source: Path, calibration: Sequence[Tensors], recipe: Recipe
    ) -> Write:
        """Return what writes the files."""
        ...


BACKENDS: Final = MappingProxyType(
    {
        ModelFormat.TFLITE: "asdic.quantization.backends.litert:prepare",
        ModelFormat.OPENVINO_IR: "asdic.quantization.backends.openvino:prepare",
        ModelFormat.ONNX_QDQ: "asdic.quantization.backends.tensorrt:prepare",
    }
)


def strip_onnx(graph: Any, name: str) -> None:
    """Remove what tells of this machine (stack traces, paths) from an ONNX model."""
    graph.graph.name = name
    graph.graph.doc_string = graph.doc_string = ""
    del graph.metadata_props[:], graph.graph.metadata_props[:], graph.graph.value_info[:]
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del value.metadata_props[:]
