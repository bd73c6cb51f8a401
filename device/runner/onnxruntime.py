"""ONNX models in ONNX Runtime, as a stand-in for a Jetson's TensorRT.

Graph optimizations are off: a QDQ graph then runs in float with the rounding of each
QuantizeLinear, as the quantizer means it. ONNX Runtime's own INT8 kernels saturate at 16 bits on
processors without VNNI (14.1 dB where this simulation gives 31.1) and would say nothing of Jetson.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.bench import Build
from asdic.contract.errors import MissingPackageError, ReleaseError
from asdic.contract.target import Runtime
from asdic.contract.variant import TensorSpec
from asdic.device.runner.engine import Tensors, refuse_other_devices

_PROVIDER: Final = "CPUExecutionProvider"


class OnnxRuntimeEngine:
    """One ``.onnx`` file, on the processor."""

    runtime = Runtime.ONNXRUNTIME
    build: Build | None = None

    def __init__(self, files: Sequence[Path], *, threads: int, execution_device: str) -> None:
        refuse_other_devices(execution_device, runtime="ONNX Runtime")
        library = _library()
        self.version: str = library.__version__
        self.delegate = f"{_PROVIDER} {self.version}, graph optimizations off"
        path = files[0]
        try:
            self._session = library.InferenceSession(
                str(path), _options(library, threads), providers=[_PROVIDER]
            )
        except Exception as error:  # its exception classes have no public base but Exception
            reason = " ".join(str(error).split())
            raise ReleaseError(f"ONNX Runtime cannot load {path}: {reason}") from error
        self.inputs = tuple(_spec(item, path) for item in self._session.get_inputs())
        self.outputs = tuple(_spec(item, path) for item in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]

    def run(self, inputs: Tensors, into: Tensors | None = None) -> dict[str, NDArray[np.float32]]:
        """Return every output by name."""
        if into is not None:
            return self._run_into(inputs, into)
        return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))

    def _run_into(self, inputs: Tensors, into: Tensors) -> dict[str, NDArray[np.float32]]:
        binding = self._session.io_binding()
        held = [np.ascontiguousarray(inputs[spec.name]) for spec in self.inputs]
        for spec, array in zip(self.inputs, held, strict=True):
            binding.bind_input(spec.name, "cpu", 0, np.float32, spec.shape, array.ctypes.data)
        for spec in self.outputs:
            address = into[spec.name].ctypes.data
            binding.bind_output(spec.name, "cpu", 0, np.float32, spec.shape, address)
        self._session.run_with_iobinding(binding)
        return {name: into[name] for name in self._names}

    def close(self) -> None:
        """Free the model."""
        self._session = None


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError("ONNX Runtime", "onnxruntime") from error
    onnxruntime.disable_telemetry_events()  # a box in a hospital reports to its fleet alone
    return onnxruntime


def _options(library: Any, threads: int) -> Any:
    options = library.SessionOptions()
    options.graph_optimization_level = library.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.execution_mode = library.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # fatal only: what goes wrong is raised as well
    return options


def _spec(item: Any, path: Path) -> TensorSpec:
    if item.type != "tensor(float)" or not all(isinstance(side, int) for side in item.shape):
        raise ReleaseError(
            f"tensor {item.name!r} of {path} is {item.type} of shape {item.shape}; asdic runs "
            "float32 tensors of fixed shape"
        )
    return TensorSpec(name=item.name, shape=tuple(item.shape))
