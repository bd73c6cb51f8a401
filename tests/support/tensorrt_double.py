"""TensorRT and CUDA for machines that have neither: doubles that record, and refuse wrong order.

What TensorRT computes is computed by ONNX Runtime, but only when the stream is waited for, from
the memory that the addresses name; so a copy that is forgotten, or made too late, shows. Every
refusal here is one of the real library, or would crash it.
"""

from __future__ import annotations

import ctypes
import types
from collections.abc import Callable
from enum import Enum, IntEnum
from typing import Any

import numpy as np
import onnxruntime

PLAN = b"a plan for sm_87 of "


class WrongOrderError(AssertionError):
    """The real library would refuse this call, or crash."""


class CudaDouble:
    """``libcudart`` as ctypes shows it: addresses, and a stream whose work is done at the end."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.memory: dict[int, bytearray] = {}
        self.queue: list[Callable[[], None]] = []
        self.streams: set[int] = set()
        self.fails: dict[str, int] = {}
        self.driver = 12060
        self.chip = (8, 7)
        self.cudaGetErrorString = _Function(lambda _code: b"out of memory")

    def cudaStreamCreate(self, stream: Any) -> int:  # noqa: N802
        stream._obj.value = 0x5000 + len(self.streams)
        self.streams.add(stream._obj.value)
        return self._called("cudaStreamCreate")

    def cudaStreamDestroy(self, stream: Any) -> int:  # noqa: N802
        self.streams.remove(stream.value)
        return self._called("cudaStreamDestroy")

    def cudaStreamSynchronize(self, stream: Any) -> int:  # noqa: N802
        self._known(stream.value)
        while self.queue:
            self.queue.pop(0)()
        return self._called("cudaStreamSynchronize")

    def cudaMalloc(self, address: Any, size: Any) -> int:  # noqa: N802
        if code := self._called("cudaMalloc"):
            return code
        address._obj.value = 0x7000_0000 + 0x1_0000 * len(self.calls)
        self.memory[address._obj.value] = bytearray(size.value)
        return 0

    def cudaFree(self, address: Any) -> int:  # noqa: N802
        del self.memory[address.value]
        return self._called("cudaFree")

    def cudaMemcpyAsync(self, to: Any, source: Any, size: Any, kind: Any, stream: Any) -> int:  # noqa: N802
        self._known(stream.value)
        inside = to.value if kind.value == 1 else source.value
        if len(self.memory[inside]) != size.value:
            raise WrongOrderError(f"{size.value} bytes for {len(self.memory[inside])}")
        self.queue.append(lambda: self._copy(to.value, source.value, size.value, kind.value))
        return self._called(f"cudaMemcpyAsync-{('in', 'out')[kind.value - 1]}")

    def cudaDeviceGetAttribute(self, value: Any, attribute: Any, _device: int) -> int:  # noqa: N802
        value._obj.value = self.chip[attribute.value - 75]
        return 0

    def cudaDriverGetVersion(self, value: Any) -> int:  # noqa: N802
        value._obj.value = self.driver
        return 0

    def cudaRuntimeGetVersion(self, value: Any) -> int:  # noqa: N802
        value._obj.value = 12060
        return 0

    def _copy(self, to: int, source: int, size: int, kind: int) -> None:
        if kind == 1:
            self.memory[to][:] = ctypes.string_at(source, size)
        else:
            ctypes.memmove(to, bytes(self.memory[source]), size)

    def _known(self, stream: int) -> None:
        if stream not in self.streams:
            raise WrongOrderError("work for a stream that does not exist")

    def _called(self, name: str) -> int:
        self.calls.append(name)
        return self.fails.get(name, 0)


class _Function:
    """A function with the ``restype`` that ctypes gives it."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self.restype: Any = None
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)


class DataType(Enum):
    """TensorRT's types, as far as a model's ends have them."""

    FLOAT = "float"
    HALF = "half"


class TensorIOMode(Enum):
    """Which end of the model a tensor is at."""

    INPUT = "input"
    OUTPUT = "output"


class BuilderFlag(Enum):
    """What a builder may do."""

    TF32 = "tf32"


class MemoryPoolType(Enum):
    """What memory is limited."""

    WORKSPACE = "workspace"


class NetworkDefinitionCreationFlag(IntEnum):
    """How a network is to be read."""

    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class ILogger:
    """Whoever takes complaints; a subclass must call this ``__init__``."""

    class Severity(Enum):
        """How bad it is."""

        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def __init__(self) -> None:
        self.is_made = True


def make_tensorrt(cuda: CudaDouble, *, version: str = "10.3.0") -> Any:
    """Return a module ``tensorrt`` that works on ``cuda``; ``module.calls`` is what was called."""
    module: Any = types.ModuleType("tensorrt")
    module.__version__ = version
    module.calls = []
    module.parse_errors = []
    module.builds = True
    module.loads = True
    module.dtype = DataType.FLOAT
    for kind in (
        *(DataType, TensorIOMode, BuilderFlag, MemoryPoolType, NetworkDefinitionCreationFlag),
        ILogger,
    ):
        setattr(module, kind.__name__, kind)
    for kind in (Builder, OnnxParser, Runtime):
        setattr(module, kind.__name__, _bound(kind, module, cuda))
    return module


def _bound(kind: Any, module: Any, cuda: CudaDouble) -> Any:
    def make(*arguments: Any) -> Any:
        module.calls.append(kind.__name__)
        return kind(module, cuda, *arguments)

    return make


def _check_log(log: Any) -> None:
    if not getattr(log, "is_made", False):
        raise WrongOrderError("ILogger.__init__ was not called")


class Network:
    """What a parser fills."""

    def __init__(self) -> None:
        self.model: bytes | None = None


class Config:
    """How to build."""

    def __init__(self) -> None:
        self.limits: dict[Any, int] = {}
        self.flags = {BuilderFlag.TF32}

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self.limits[pool] = size

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)


class Builder:
    """Makes a plan of a network."""

    def __init__(self, module: Any, _cuda: CudaDouble, log: Any) -> None:
        _check_log(log)
        self.max_threads = 0
        self._module = module
        self._log = log

    def create_network(self, flags: int) -> Network:
        if flags != 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED:
            raise WrongOrderError("a network whose types the builder may change")
        self._module.calls.append("create_network")
        return Network()

    def create_builder_config(self) -> Config:
        self._module.calls.append("create_builder_config")
        return Config()

    def build_serialized_network(self, network: Network, config: Config) -> Any:
        self._module.calls.append("build_serialized_network")
        if network.model is None:
            raise WrongOrderError("the network is empty: nothing was parsed into it")
        if BuilderFlag.TF32 in config.flags or not config.limits or not self.max_threads:
            raise WrongOrderError("the plan would not be the one that was judged")
        if not self._module.builds:
            self._log.log(ILogger.Severity.ERROR, "no kernel\n  for Conv")
            return None
        return memoryview(PLAN + network.model)


class OnnxParser:
    """Fills a network."""

    def __init__(self, module: Any, _cuda: CudaDouble, network: Network, log: Any) -> None:
        _check_log(log)
        self._module = module
        self._network = network
        self.num_errors = 0

    def parse(self, model: bytes) -> bool:
        self._module.calls.append("parse")
        self.num_errors = len(self._module.parse_errors)
        if not self.num_errors:
            self._network.model = model
        return not self.num_errors

    def get_error(self, number: int) -> Any:
        return types.SimpleNamespace(desc=lambda: self._module.parse_errors[number])


class Runtime:
    """Loads plans."""

    def __init__(self, module: Any, cuda: CudaDouble, log: Any) -> None:
        _check_log(log)
        self._module, self._cuda = module, cuda

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        self._module.calls.append("deserialize_cuda_engine")
        if not plan.startswith(PLAN):
            raise WrongOrderError("these bytes are no plan; the real library may crash")
        if not self._module.loads:
            return None
        return Engine(self._module, self._cuda, plan[len(PLAN) :])


class Engine:
    """A loaded plan."""

    def __init__(self, module: Any, cuda: CudaDouble, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        self._module, self.cuda = module, cuda
        self.inputs = {item.name: item.shape for item in self.session.get_inputs()}
        self.outputs = {item.name: item.shape for item in self.session.get_outputs()}
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, number: int) -> str:
        return self.names[number]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name: str) -> Any:
        return {**self.inputs, **self.outputs}[name]

    def get_tensor_dtype(self, _name: str) -> DataType:
        kind: DataType = self._module.dtype
        return kind

    def create_execution_context(self) -> Context:
        self._module.calls.append("create_execution_context")
        return Context(self._module, self)


class Context:
    """What infers."""

    def __init__(self, module: Any, engine: Engine) -> None:
        self._module, self._engine = module, engine
        self._addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._module.calls.append("set_tensor_address")
        if address not in self._engine.cuda.memory:
            raise WrongOrderError("an address that is not the device's")
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        self._module.calls.append("execute_async_v3")
        cuda = self._engine.cuda
        if stream not in cuda.streams:
            raise WrongOrderError("a stream that does not exist")
        if self._addresses.keys() != set(self._engine.names):
            raise WrongOrderError("a tensor has no address")
        cuda.queue.append(self._compute)
        cuda.calls.append("execute")
        return True

    def _compute(self) -> None:
        engine, memory = self._engine, self._engine.cuda.memory
        inputs = {
            name: np.frombuffer(memory[self._addresses[name]], np.float32).reshape(shape)
            for name, shape in engine.inputs.items()
        }
        for name, output in zip(
            engine.outputs, engine.session.run([*engine.outputs], inputs), strict=True
        ):
            memory[self._addresses[name]][:] = output.tobytes()
