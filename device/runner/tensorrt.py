"""Models for TensorRT 10, the runtime of Jetsons, by its own Python API.

The release carries the portable ONNX file. Whoever opens it builds the engine (TensorRT calls that
a plan) and keeps it by fingerprint, where it may write (``plans.py``).

This has not run on a Jetson here: it was tested against a double that refuses calls which the
real library would refuse (``tests/support/tensorrt_double.py``).
https://docs.nvidia.com/deeplearning/tensorrt/10.3.0/developer-guide/
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.bench import Build
from asdic.contract.errors import ConfigError, InstallError, ReleaseError
from asdic.contract.files import read_bounded
from asdic.contract.target import Runtime
from asdic.contract.variant import TensorSpec
from asdic.device.runner.cache import cache_folder
from asdic.device.runner.cuda import Cuda
from asdic.device.runner.engine import Tensors
from asdic.device.runner.plans import PlanCache, fingerprint_of

MODEL_LIMIT_BYTES: Final = 1 << 30
WORKSPACE_BYTES: Final = 1 << 30
_OLDEST_MAJOR: Final = 10
_FLOAT_BYTES: Final = 4

log = logging.getLogger("asdic.runner")


class TensorRtEngine:
    """One ``.onnx`` file with QuantizeLinear and DequantizeLinear, on the Jetson's GPU.

    Attributes:
        fingerprint: What its plan depends on.
        plan: The fingerprint's name and the plan's digest, as in ``BuiltEngine``.
        is_new: Whether the plan was built now: nothing has gated it yet.
    """

    runtime = Runtime.TENSORRT

    def __init__(self, files: Sequence[Path], *, threads: int, execution_device: str) -> None:
        if execution_device != "gpu":
            raise ConfigError(f"TensorRT runs models on the gpu, not on {execution_device!r}")
        library = _library()
        self.version: str = library.__version__
        self.delegate = f"TensorRT {self.version}"
        path = files[0]
        model = read_bounded(path, MODEL_LIMIT_BYTES)
        self._log = log_of(library)
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._addresses: dict[str, int] = {}
        self._cuda = Cuda.load()
        try:
            self.fingerprint = fingerprint_of(model, runtime=self.version, cuda=self._cuda)
            cache = PlanCache(cache_folder("tensorrt"))
            plan = cache.read(self.fingerprint)
            self.is_new = plan is None
            self.build = Build(from_cache=True, seconds=None)
            if plan is None:
                log.warning("TensorRT builds an engine from %s, which nothing has gated yet", path)
                started = time.perf_counter()
                plan = build_plan(library, self._log, model, path, threads)
                self.build = Build(from_cache=False, seconds=time.perf_counter() - started)
                cache.write(self.fingerprint, plan)
            self.plan = f"{self.fingerprint.name}:{hashlib.sha256(plan).hexdigest()}"
            self._open(library, plan, path)
        except BaseException:
            self.close()
            raise

    def run(self, inputs: Tensors, into: Tensors | None = None) -> dict[str, NDArray[np.float32]]:
        """Return every output by name."""
        # Contiguous copies, if any are made, must live until the stream has read them.
        held = {spec.name: np.ascontiguousarray(inputs[spec.name]) for spec in self.inputs}
        outputs = {
            spec.name: np.empty(spec.shape, np.float32) if into is None else into[spec.name]
            for spec in self.outputs
        }
        for name, array in held.items():
            self._cuda.copy_in(self._addresses[name], array)
        if not self._context.execute_async_v3(self._cuda.stream):
            raise InstallError(f"TensorRT could not start an inference: {self._log.said()}")
        for name, array in outputs.items():
            self._cuda.copy_out(array, self._addresses[name])
        self._cuda.wait()
        return outputs

    def close(self) -> None:
        """Free the model, what depends on something before that."""
        self._context = None
        self._engine = None
        self._runtime = None
        self._cuda.close()

    def _open(self, library: Any, plan: bytes, path: Path) -> None:
        self._runtime = library.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise InstallError(f"TensorRT cannot load its own engine: {self._log.said()}")
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        specs = {name: _spec(library, self._engine, name, path) for name in names}
        modes = {name: self._engine.get_tensor_mode(name) for name in names}
        is_input = library.TensorIOMode.INPUT
        self.inputs = tuple(specs[name] for name in names if modes[name] == is_input)
        self.outputs = tuple(specs[name] for name in names if modes[name] != is_input)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise InstallError(f"TensorRT has no memory for the model: {self._log.said()}")
        for name, spec in specs.items():
            self._addresses[name] = self._cuda.allocate(math.prod(spec.shape) * _FLOAT_BYTES)
            self._context.set_tensor_address(name, self._addresses[name])


def _library() -> Any:
    try:
        library = importlib.import_module("tensorrt")
    except ImportError as error:
        raise ConfigError(
            "TensorRT is not installed; on a Jetson it comes with JetPack. Elsewhere the target "
            "can be simulated with ONNX Runtime (simulate=True, --simulate)"
        ) from error
    if int(library.__version__.split(".")[0]) < _OLDEST_MAJOR:
        raise ConfigError(
            f"TensorRT {library.__version__} is too old; asdic needs {_OLDEST_MAJOR}, which comes "
            "with JetPack 6.1"
        )
    return library


def log_of(library: Any) -> Any:
    """Return a logger that keeps TensorRT's last complaint, which its exceptions do not carry."""

    class Log(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self._last = ""

        def log(self, severity: Any, message: str) -> None:
            if severity in {
                library.ILogger.Severity.ERROR,
                library.ILogger.Severity.INTERNAL_ERROR,
            }:
                self._last = " ".join(message.split())[:300]

        def said(self) -> str:
            return self._last or "no reason given"

    return Log()


def build_plan(library: Any, complaints: Any, model: bytes, path: Path, threads: int) -> bytes:
    """Return a plan for the model, as precise as the quantizer's simulation of it.

    Args:
        library: The module ``tensorrt``.
        complaints: From ``log_of``.
        model: The ONNX file's bytes.
        path: Its name, for messages.
        threads: How many processor threads may look for the fastest kernels.

    Raises:
        ReleaseError: TensorRT does not take the model.
    """
    builder = library.Builder(complaints)
    builder.max_threads = threads
    # Strongly typed: integers where the graph quantizes and floats elsewhere, never halves.
    typed = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = library.OnnxParser(network, complaints)
    if not parser.parse(model):
        reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise ReleaseError(f"TensorRT cannot load {path}: {(reasons or [complaints.said()])[0]}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    # Ten bits of mantissa where the graph says float: not what was judged.
    config.clear_flag(library.BuilderFlag.TF32)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ReleaseError(f"TensorRT cannot build an engine from {path}: {complaints.said()}")
    return bytes(plan)


def _spec(library: Any, engine: Any, name: str, path: Path) -> TensorSpec:
    shape = tuple(int(side) for side in engine.get_tensor_shape(name))
    dtype = engine.get_tensor_dtype(name)
    if dtype != library.DataType.FLOAT or min(shape, default=1) < 1:
        raise ReleaseError(
            f"tensor {name!r} of {path} is {dtype} of shape {shape}; asdic runs float32 tensors of "
            "fixed shape"
        )
    return TensorSpec(name=name, shape=shape)
