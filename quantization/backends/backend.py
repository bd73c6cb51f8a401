"""What a backend is: one function that writes the float and the INT8 model for one format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import UnsupportedModelError
from asdic.contract.target import ModelFormat
from asdic.contract.variant import InputRule, OutputRule, TensorSpec
from asdic.quantization.recipe import Recipe
from asdic.quantization.source import FloatModel

Tensors: TypeAlias = Mapping[str, NDArray[np.float32]]
"""One set of a model's inputs by name, prepared, in the layout of the float model."""


class QuantizedFiles(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one format: names inside the folder, the one that a runtime opens first.

    ``inputs`` to ``postprocessing`` describe the files' own tensors (TFLite is channels-last).
    ``int8_share`` is the share of the weights that are stored as INT8, 0 to 1.
    """

    files: tuple[str, ...]
    float_files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: tuple[InputRule, ...]
    postprocessing: tuple[OutputRule, ...]
    int8_share: float


class Backend(Protocol):
    """Write ``model`` as float and as INT8 into ``folder``, and say what was written.

    A folder may be used again with another recipe: the float model in it is then reused.

    Raises:
        MissingPackageError: A package of the extra ``quantize`` is not installed.
        UnsupportedModelError: The model holds an operator that the format cannot express.
        QuantizationError: The tools failed otherwise.
    """

    def __call__(
        self, model: FloatModel, calibration: Sequence[Tensors], recipe: Recipe, folder: Path
    ) -> QuantizedFiles:
        """Write the files."""
        ...


BACKENDS: Final = MappingProxyType(
    {
        ModelFormat.TFLITE: "asdic.quantization.backends.litert:quantize",
        ModelFormat.OPENVINO_IR: "asdic.quantization.backends.openvino:quantize",
        ModelFormat.ONNX_QDQ: "asdic.quantization.backends.tensorrt:quantize",
    }
)

# How each converter says that it does not know an operator of the exported program.
_UNKNOWN_OPERATOR: Final = (
    re.compile(r"Lowering not found: (\S+)"),  # litert-torch
    re.compile(r"No conversion rule found for operations: ([^\n]+)"),  # OpenVINO
    re.compile(r"No ONNX function found for <OpOverload\(op='([^']+)'"),  # torch.onnx
)


def unsupported(error: BaseException, *, converter: str) -> UnsupportedModelError:
    """Return the error for a model that ``converter`` refused; it names the operator if known."""
    text = str(error)
    for pattern in _UNKNOWN_OPERATOR:
        if found := pattern.search(text):
            operators = found[1].strip().removesuffix(".default")
            return UnsupportedModelError(
                f"{converter} does not support the operator {operators}; "
                "replace it in the model, or choose another target"
            )
    reason = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    return UnsupportedModelError(f"{converter} cannot convert the model: {reason.strip()}")


def int8_share(sizes: Iterable[tuple[int, bool]]) -> float:
    """Return the share of weights in INT8 from pairs of (elements, is INT8), one a constant."""
    pairs = list(sizes)
    total = sum(count for count, _ in pairs)
    return sum(count for count, is_int8 in pairs if is_int8) / total if total else 0.0
