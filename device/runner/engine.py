"""An engine: one inference library that has loaded one model. The table is what there is."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from asdic.contract.bench import Build
from asdic.contract.errors import ConfigError
from asdic.contract.target import Runtime
from asdic.contract.variant import TensorSpec
from asdic.device.runner.processors import usable_threads as usable_threads  # noqa: PLC0414

# Features whose kernels round differently: outputs recorded with other ones may differ.
_RESULT_CHANGING: Final = frozenset(
    {
        *("sse4_1", "avx", "avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni"),
        *("amx_int8", "asimd", "asimddp", "asimdhp", "fphp", "i8mm", "sve", "sve2"),
    }
)
_CPU_INFO: Final = Path("/proc/cpuinfo")
_CPU_INFO_LIMIT_CHARACTERS: Final = 1 << 16


Tensors: TypeAlias = Mapping[str, NDArray[np.float32]]


class Engine(Protocol):
    """A loaded model. Not for use by two threads at once.

    Attributes:
        version: The library's.
        delegate: What computes inside the library, and its version.
        build: How the library came by what it runs; None where it runs the file as it is.
    """

    runtime: Runtime
    version: str
    delegate: str
    build: Build | None
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, inputs: Tensors, into: Tensors | None = None) -> dict[str, NDArray[np.float32]]:
        """Return every output by name for one set of inputs in the shapes of ``self.inputs``.

        Values are real: an engine quantizes and dequantizes what its file holds as integers.
        The arrays returned belong to the caller: new ones, or those of ``into``, which has a
        contiguous, writable float32 array of the right shape for every output.
        """

    def close(self) -> None:
        """Free the model. The engine is not used after that."""


@runtime_checkable
class BuiltEngine(Engine, Protocol):
    """An engine that runs what this machine built from the model.

    Attributes:
        plan: Names what was built, and all that it depends on: it changes with either.
    """

    plan: str


@runtime_checkable
class AsyncEngine(Engine, Protocol):
    """An engine that can be given the next inputs while it works on the last ones.

    Attributes:
        ahead: How many inferences can be under way.
    """

    ahead: int

    def start(self, inputs: Tensors) -> Callable[[], dict[str, NDArray[np.float32]]]:
        """Start one inference and return what waits for its outputs; they end in this order.

        ``inputs`` must not change until then. At most ``ahead`` may be under way.
        """


ENGINES: Final = MappingProxyType(
    {
        Runtime.LITERT: "asdic.device.runner.litert:LiteRtEngine",
        Runtime.OPENVINO: "asdic.device.runner.openvino:OpenVinoEngine",
        Runtime.ONNXRUNTIME: "asdic.device.runner.onnxruntime:OnnxRuntimeEngine",
        Runtime.TENSORRT: "asdic.device.runner.tensorrt:TensorRtEngine",
    }
)


def open_engine(
    runtime: Runtime,
    files: Sequence[Path],
    *,
    threads: int | None = None,
    execution_device: str = "cpu",
) -> Engine:
    """Return the model in ``files`` loaded by ``runtime``; the first file is the one it opens.

    Args:
        runtime: The inference library.
        files: The model's files, which lie in one folder.
        threads: Processor threads for one inference; None takes all that this process may use.
        execution_device: ``cpu``, ``gpu`` or ``npu``, as in ``Target.execution_device``.

    Raises:
        ConfigError: There is no engine for the runtime, a file is missing, or the execution
            device is not there.
        MissingPackageError: The runtime's package is not installed.
        ReleaseError: The file is damaged, or holds a model that the runtime cannot load.
    """
    if runtime not in ENGINES:
        raise ConfigError(
            f"this asdic cannot open models with {runtime.value}; a variant for it can be "
            "simulated with ONNX Runtime (simulate=True, --simulate)"
        )
    for file in files:
        if not file.is_file():
            raise ConfigError(f"model file {file} does not exist")
    module, name = ENGINES[runtime].split(":")
    kind = getattr(importlib.import_module(module), name)
    engine: Engine = kind(
        files,
        threads=usable_threads() if threads is None else threads,
        execution_device=execution_device,
    )
    return engine


def refuse_other_devices(execution_device: str, *, runtime: str) -> None:
    """Raise unless the model is to run on the processor, for engines that know nothing else.

    Raises:
        ConfigError: Another execution device is asked for.
    """
    if execution_device != "cpu":
        raise ConfigError(f"{runtime} runs models on the cpu here, not on {execution_device!r}")


def cpu_features() -> tuple[str, ...]:
    """Return, sorted, the processor's features that can change a model's results.

    Names are those of ``/proc/cpuinfo`` (``avx512_vnni``, ``asimddp``); empty where there is none.
    """
    try:
        with _CPU_INFO.open(encoding="utf-8", errors="replace") as file:
            text = file.read(_CPU_INFO_LIMIT_CHARACTERS)
    except OSError:
        return ()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip().lower() in {"flags", "features"}:
            return tuple(sorted(_RESULT_CHANGING & set(value.split())))
    return ()
