"""Which kind of float model becomes which format, and by what."""

from __future__ import annotations

from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Final, Protocol

from asdic.contract.target import ModelFormat
from asdic.quantization.backends.backend import FloatFiles
from asdic.quantization.converters.weights import check_weights
from asdic.quantization.kinds import FloatModel, SourceKind


class Converter(Protocol):
    """Write ``model`` as a float model of one format into ``folder``, and say what was written.

    Raises:
        MissingPackageError: A package of the extra ``quantize`` is not installed.
        UnsupportedModelError: The model holds an operator that the format cannot express.
    """

    def __call__(self, model: FloatModel, folder: Path) -> FloatFiles:
        """Write the files."""
        ...


_MODULES: Final = MappingProxyType(
    {
        ModelFormat.TFLITE: "asdic.quantization.converters.litert",
        ModelFormat.OPENVINO_IR: "asdic.quantization.converters.openvino",
        ModelFormat.ONNX_QDQ: "asdic.quantization.converters.onnx",
    }
)
CONVERTERS: Final = MappingProxyType(
    {
        (SourceKind.PROGRAM, ModelFormat.TFLITE): "of_program",
        (SourceKind.PROGRAM, ModelFormat.OPENVINO_IR): "of_program",
        (SourceKind.PROGRAM, ModelFormat.ONNX_QDQ): "of_program",
        (SourceKind.ONNX, ModelFormat.TFLITE): "of_onnx",
        (SourceKind.ONNX, ModelFormat.OPENVINO_IR): "of_onnx",
        (SourceKind.ONNX, ModelFormat.ONNX_QDQ): "of_onnx",
        (SourceKind.TFLITE, ModelFormat.TFLITE): "of_tflite",
        (SourceKind.TFLITE, ModelFormat.OPENVINO_IR): "of_tflite",
        (SourceKind.TFLITE, ModelFormat.ONNX_QDQ): "of_tflite",
    }
)
"""The function of each pair, in the module of its format."""


def convert(model: FloatModel, model_format: ModelFormat, folder: Path) -> FloatFiles:
    """Write ``model`` as a float model of ``model_format`` into ``folder``.

    Raises:
        MissingPackageError: A package of the extra ``quantize`` is not installed.
        QuantizationError: A weight is NaN or infinite.
        UnsupportedModelError: The model holds an operator that the format cannot express.
    """
    check_weights(model)
    function = CONVERTERS[model.kind, model_format]
    converter: Converter = resolve_name(f"{_MODULES[model_format]}:{function}")
    return converter(model, folder)
