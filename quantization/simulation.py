"""The same INT8 file in arithmetic that does not depend on this processor's INT8 kernels.

On x86 without VNNI, INT8 kernels add two products in 16 bits, and what is too large is cut off:
a model may be ruined by the processor and not by its quantization. Judged here beside the real
kernels, the two are told apart. Where both agree, the processor is not to blame.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from asdic.contract.errors import ConfigError
from asdic.contract.target import ModelFormat
from asdic.device.runner.engine import Engine, usable_threads
from asdic.device.runner.litert import LiteRtEngine
from asdic.device.runner.onnxruntime import OnnxRuntimeEngine
from asdic.device.runner.openvino import OpenVinoEngine
from asdic.quantization.graphs.openvino import FLOAT_SETTINGS


class LiteRtSimulation(LiteRtEngine):
    """TFLite's reference kernels: plain loops, sums exact in 32 bits, some 40 times slower."""

    def __init__(self, files: Sequence[Path], *, threads: int, execution_device: str) -> None:
        super().__init__(files, threads=threads, execution_device=execution_device)
        self.delegate = f"none (simulation: reference kernels of LiteRT {self.version})"

    def _options(self) -> dict[str, Any]:
        from ai_edge_litert.interpreter import OpResolverType

        return {"experimental_op_resolver_type": OpResolverType.BUILTIN_REF}


class OpenVinoSimulation(OpenVinoEngine):
    """FakeQuantize computed as it is written, and all between in float32."""

    def __init__(self, files: Sequence[Path], *, threads: int, execution_device: str) -> None:
        super().__init__(files, threads=threads, execution_device=execution_device)
        self.delegate += ", simulation: FakeQuantize in float32"

    def _options(self) -> dict[str, Any]:
        return dict(FLOAT_SETTINGS)


SIMULATIONS: Final[Mapping[ModelFormat, Callable[..., Any]]] = MappingProxyType(
    {
        ModelFormat.TFLITE: LiteRtSimulation,
        ModelFormat.OPENVINO_IR: OpenVinoSimulation,
        ModelFormat.ONNX_QDQ: OnnxRuntimeEngine,  # its graph optimizations are off already
    }
)


def open_simulation(
    model_format: ModelFormat, files: Sequence[Path], *, threads: int | None = None
) -> Engine:
    """Return the model in ``files`` loaded so that no INT8 kernel of this processor runs.

    What it is, its ``delegate`` says.

    Args:
        model_format: How the model is stored.
        files: The model's files, the one that a runtime opens first.
        threads: Processor threads for one inference; None takes all usable ones.

    Raises:
        ConfigError: A file is missing.
        MissingPackageError: The format's runtime is not installed.
        ReleaseError: The file is damaged, or holds a model that the runtime cannot load.
    """
    for file in files:
        if not file.is_file():
            raise ConfigError(f"model file {file} does not exist")
    engine: Engine = SIMULATIONS[model_format](
        files,
        threads=usable_threads() if threads is None else threads,
        execution_device="cpu",
    )
    return engine
