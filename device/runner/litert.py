"""Models for LiteRT (TFLite), the runtime of ARM boxes and phones.

XNNPACK runs what it can, which is LiteRT's own default: outputs are then the same bit for bit on
x86 and ARM, while the reference kernels differ by up to 69 steps.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.bench import Build
from asdic.contract.errors import MissingPackageError, ReleaseError
from asdic.contract.target import Runtime
from asdic.contract.variant import TensorSpec
from asdic.device.runner.engine import Tensors, refuse_other_devices

# module -> distribution, and what goes before its version. The second is all that there is for
# 32-bit ARM; it is older than any LiteRT though its number, 2.14, is higher than LiteRT's 2.3.
_LIBRARIES: Final = MappingProxyType(
    {
        "ai_edge_litert.interpreter": ("ai-edge-litert", ""),
        "tflite_runtime.interpreter": ("tflite-runtime", "tflite-runtime "),
    }
)


class LiteRtEngine:
    """One ``.tflite`` file. Integer inputs and outputs are real values to the caller."""

    runtime = Runtime.LITERT
    build: Build | None = None

    def __init__(self, files: Sequence[Path], *, threads: int, execution_device: str) -> None:
        refuse_other_devices(execution_device, runtime="LiteRT")
        interpreter_class, self.version = _library()
        path = files[0]
        try:
            self._interpreter = interpreter_class(
                model_path=str(path), num_threads=threads, **self._options()
            )
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise ReleaseError(f"LiteRT cannot load {path}: {_first_line(error)}") from error
        self.delegate = _delegate(self._interpreter, self.version)
        inputs, outputs = _named_tensors(self._interpreter)
        self._inputs = tuple(_Tensor.of(name, item, path) for name, item in inputs.items())
        self._outputs = tuple(_Tensor.of(name, item, path) for name, item in outputs.items())
        self.inputs = tuple(tensor.spec for tensor in self._inputs)
        self.outputs = tuple(tensor.spec for tensor in self._outputs)

    def run(self, inputs: Tensors, into: Tensors | None = None) -> dict[str, NDArray[np.float32]]:
        """Return every output by name."""
        interpreter = self._interpreter
        for tensor in self._inputs:
            # The interpreter's own memory: no view of it may be kept while it infers.
            tensor.store(inputs[tensor.spec.name], interpreter.tensor(tensor.index)())
        interpreter.invoke()
        outputs = {}
        for tensor in self._outputs:
            name = tensor.spec.name
            array = np.empty(tensor.spec.shape, np.float32) if into is None else into[name]
            outputs[name] = tensor.read(interpreter.tensor(tensor.index)(), array)
        return outputs

    def close(self) -> None:
        """Free the model."""
        self._interpreter = None

    def _options(self) -> dict[str, Any]:
        """Return what else the interpreter is told: nothing, but by an engine made of this one."""
        return {}


@dataclass(frozen=True, eq=False)
class _Tensor:
    """A tensor of the file: where it is, and how its stored numbers relate to real values.

    ``steps`` is memory to compute in, made once.
    """

    spec: TensorSpec
    index: int
    dtype: np.dtype[Any]
    scale: np.float32
    zero_point: int
    steps: NDArray[np.float32]

    @classmethod
    def of(cls, name: str, details: Mapping[str, Any], path: Path) -> _Tensor:
        """Return the tensor that LiteRT describes by ``details``."""
        dtype = np.dtype(details["dtype"])
        scale, zero_point = details["quantization"]
        if dtype != np.float32 and (dtype.kind not in "iu" or not scale):
            raise ReleaseError(
                f"tensor {name!r} of {path} holds {dtype} without a scale; asdic passes real values"
            )
        shape = tuple(int(side) for side in details["shape"])
        return cls(
            spec=TensorSpec(name=name, shape=shape),
            index=int(details["index"]),
            dtype=dtype,
            scale=np.float32(scale),
            zero_point=int(zero_point),
            steps=np.empty(shape if dtype != np.float32 else 0, np.float32),
        )

    def store(self, values: NDArray[np.float32], stored: NDArray[Any]) -> None:
        """Write real values as the file stores them, saturated at the ends of its range."""
        if self.dtype == np.float32:
            np.copyto(stored, values)
            return
        limits = np.iinfo(self.dtype)
        steps = np.divide(values, self.scale, out=self.steps)
        np.rint(steps, out=steps)
        np.add(steps, np.float32(self.zero_point), out=steps)
        np.clip(steps, limits.min, limits.max, out=steps)
        np.copyto(stored, steps, casting="unsafe")

    def read(self, stored: NDArray[Any], values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Write stored numbers to ``values``, as real ones, and return it."""
        if self.dtype == np.float32:
            np.copyto(values, stored)
            return values
        np.subtract(stored, np.float32(self.zero_point), out=values, dtype=np.float32)
        return np.multiply(values, self.scale, out=values)


def _library() -> tuple[Callable[..., Any], str]:
    for module, (distribution, prefix) in _LIBRARIES.items():
        try:
            interpreter = importlib.import_module(module).Interpreter
        except ImportError:
            continue
        return interpreter, prefix + importlib.metadata.version(distribution)
    raise MissingPackageError("LiteRT", "litert")


def _delegate(interpreter: Any, version: str) -> str:
    """Return who computes: XNNPACK has no version of its own, it is built into the library.

    The library lists a ``DELEGATE`` where XNNPACK took a part of the model over; no other is asked
    for here.
    """
    library = version if version[0].isalpha() else f"LiteRT {version}"
    operators = {item["op_name"] for item in interpreter._get_ops_details()}
    if "DELEGATE" not in operators:
        return f"none (built-in kernels of {library})"
    return f"XNNPACK (built into {library})"


def _named_tensors(interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs' and the outputs' details by name.

    A signature's names are those that the model's author chose; tensor names are what a converter
    left. A file with several signatures has no one set of names, so its tensors' are taken.
    """
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        return runner.get_input_details(), runner.get_output_details()
    return (
        {item["name"]: item for item in interpreter.get_input_details()},
        {item["name"]: item for item in interpreter.get_output_details()},
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no reason given"])[0]
