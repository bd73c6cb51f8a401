"""Who judged, on what, and with which tools: the part of a report that keeps it honest."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from asdic.contract.errors import MissingPackageError, UnsupportedModelError
from asdic.contract.messages import RuntimeFacts
from asdic.contract.target import Architecture, Runtime, Target
from asdic.quantization.backends.rtx import try_rtx

_MODULES: Final = MappingProxyType(
    {
        Runtime.LITERT: "ai_edge_litert.interpreter",
        Runtime.OPENVINO: "openvino",
        Runtime.ONNXRUNTIME: "onnxruntime",
    }
)

_JUDGES: Final = MappingProxyType(
    {
        Runtime.LITERT: "LiteRT {version}, XNNPACK",
        Runtime.OPENVINO: "OpenVINO {version}, CPU",
        Runtime.ONNXRUNTIME: "ONNX Runtime {version}, optimizations off",
    }
)

_MACHINES: Final = MappingProxyType({"x86_64": Architecture.X86_64, "aarch64": Architecture.ARM64})

_TOOLS: Final = (
    *("asdic", "numpy", "opencv-python-headless", "torch", "litert-torch", "ai-edge-quantizer"),
    *("ai-edge-litert", "openvino", "nncf", "onnx", "onnxscript", "onnxruntime", "tensorrt-rtx"),
)


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """What judged a variant here, and the versions of the tools that made it.

    ``delegate`` is what computes inside the runtime; ``tools`` lacks what is not installed.
    """

    runtime: str
    version: str
    delegate: str | None
    machine: str
    cpu_features: tuple[str, ...]
    tools: dict[str, str]


def environment_of(facts: RuntimeFacts) -> Environment:
    """Return this machine and its tools, beside what the runtime says of itself."""
    return Environment(
        runtime=facts.runtime,
        version=facts.version,
        delegate=facts.delegate,
        machine=platform.machine(),
        cpu_features=facts.cpu_features,
        tools={tool: version for tool, version in tool_versions().items() if version},
    )


def judge_of(target: Target) -> Runtime:
    """Return the runtime that judges a variant for ``target`` on this machine."""
    return target.simulator or target.runtime


def check_runtime(runtime: Runtime) -> None:
    """Say at once, and not after the conversion, that a runtime is missing.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        importlib.import_module(_MODULES[runtime])
    except ImportError as error:
        raise MissingPackageError(_MODULES[runtime].split(".")[0], runtime.value) from error


def runs_here(target: Target) -> bool:
    """Return whether this machine is of the target's kind, so that times mean something."""
    return (
        target.simulator is None
        and target.execution_device == "cpu"
        and target.architecture is _MACHINES.get(platform.machine())
    )


def judged_by(target: Target, facts: RuntimeFacts) -> str:
    """Return who judged, in words: runtime, version, machine and the features that matter."""
    name = _JUDGES[Runtime(facts.runtime)].format(version=facts.version)
    features = " ".join(facts.cpu_features) or "no known features"
    simulated = f" (simulates {target.runtime.value})" if target.simulator else ""
    return f"{name}{simulated}, {platform.machine()}: {features}"


def remarks_for(target: Target, *, labelled: bool) -> Iterator[str]:
    """Yield what a reader of the figures must know about them."""
    if not labelled:
        yield "no labels: this is agreement with FP32, not accuracy"
    if target.simulator is None and target.architecture is not _MACHINES.get(platform.machine()):
        yield (
            f"judged on {platform.machine()}, not on {target.architecture.value}; the golden set "
            "confirms it on the device"
        )
    if target.simulator is None and target.execution_device != "cpu":
        yield f"judged on the processor, not on the {target.execution_device}"


def parser_remark(path: Path) -> str:
    """Return what TensorRT-RTX's parser and builder say of a Jetson's graph.

    Raises:
        UnsupportedModelError: They refuse the graph.
    """
    errors = try_rtx(path)
    if errors is None:
        return "not checked by a TensorRT parser: tensorrt-rtx is not installed; not run on an Orin"
    if errors:
        raise UnsupportedModelError(f"TensorRT-RTX refuses the graph: {errors[0]}")
    return (
        f"accepted by the parser and builder of TensorRT-RTX {_version('tensorrt-rtx')}; "
        "not run on an Orin"
    )


def tool_versions() -> dict[str, str]:
    """Return the version of everything that may change a variant's bytes; empty: not installed."""
    return {tool: _version(tool) for tool in _TOOLS}


def _version(tool: str) -> str:
    try:
        return importlib.metadata.version(tool)
    except importlib.metadata.PackageNotFoundError:
        return ""
