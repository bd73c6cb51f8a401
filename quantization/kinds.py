"""A float model, the three kinds of file that one of any origin becomes first, and who runs it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from asdic.contract.target import ModelFormat, Runtime
from asdic.training.description import ModelDescription

RUNTIMES: Final = MappingProxyType(
    {
        ModelFormat.TFLITE: Runtime.LITERT,
        ModelFormat.OPENVINO_IR: Runtime.OPENVINO,
        ModelFormat.ONNX_QDQ: Runtime.ONNXRUNTIME,
    }
)
"""What runs a file of each format on this machine."""


class SourceKind(str, Enum):
    """What a float model is given as: torch's exported program, or a file of another kind."""

    PROGRAM = "exported-program"
    ONNX = "onnx"
    TFLITE = "tflite"


class FloatModel(msgspec.Struct, frozen=True, kw_only=True):
    """A float model: the file that holds it, its description, and what was assumed.

    ``data`` is what calibrates and judges it: a folder, a file, or ``package.module:loader``;
    ``digest`` is that of what the user gave (``sha256:<hex>``). The file's tensors are those of
    the description, in their order; its names for them may be others.
    """

    kind: SourceKind
    path: Path
    description: ModelDescription
    data: str | None
    digest: str
    assumptions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the model is called in variants and reports."""
        return self.description.name
