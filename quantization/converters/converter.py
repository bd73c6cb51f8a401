"""Which kind of float model becomes which format, and by what."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol

from asdic.contract.errors import UnsupportedModelError
from asdic.contract.target import ModelFormat
from asdic.quantization.backends.backend import FloatFiles
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


CONVERTERS: Final = MappingProxyType(
    {
        (SourceKind.PROGRAM, ModelFormat.TFLITE): "asdic.quantization.converters.litert:of_program",
        (
            SourceKind.PROGRAM,
            ModelFormat.OPENVINO_IR,
        ): "asdic.quantization.converters.openvino:of_program",
        (SourceKind.PROGRAM, ModelFormat.ONNX_QDQ): "asdic.quantization.converters.onnx:of_program",
    }
)


def convert(model: FloatModel, model_format: ModelFormat, folder: Path) -> FloatFiles:
    """Write ``model`` as a float model of ``model_format`` into ``folder``.

    Raises:
        MissingPackageError: A package of the extra ``quantize`` is not installed.
        UnsupportedModelError: There is no way from the model's kind to the format, or the model
            holds an operator that the format cannot express.
    """
    try:
        module, function = CONVERTERS[model.kind, model_format].split(":")
    except KeyError:
        raise UnsupportedModelError(
            f"a model given as {model.kind.value} cannot be converted for {model_format.value}"
        ) from None
    converter: Converter = getattr(importlib.import_module(module), function)
    return converter(model, folder)
