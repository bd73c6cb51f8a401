"""The kinds of device that a model can be built for, as one literal table.

A new target is a row here; only a new runtime needs code elsewhere.
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import Final

import msgspec

from asdic.contract.errors import ConfigError


class Architecture(str, Enum):
    """The instruction set of the device's main processor."""

    X86_64 = "x86-64"
    ARM64 = "arm64"


class Runtime(str, Enum):
    """The inference library that loads the model on the device."""

    LITERT = "litert"
    OPENVINO = "openvino"
    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"


class ModelFormat(str, Enum):
    """How the model is stored in a variant."""

    TFLITE = "tflite"
    OPENVINO_IR = "openvino-ir"
    ONNX_QDQ = "onnx-qdq"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of device: architecture, runtime, execution device and precision.

    ``simulator`` is the runtime that may stand in for ``runtime`` where the hardware is missing;
    whatever it reports is marked as simulated.
    """

    name: str
    architecture: Architecture
    runtime: Runtime
    execution_device: str
    precision: str
    model_format: ModelFormat
    simulator: Runtime | None = None


def _target(
    name: str,
    architecture: Architecture,
    runtime: Runtime,
    model_format: ModelFormat,
    *,
    execution_device: str = "cpu",
    simulator: Runtime | None = None,
) -> tuple[str, Target]:
    return name, Target(
        name=name,
        architecture=architecture,
        runtime=runtime,
        execution_device=execution_device,
        precision="int8",
        model_format=model_format,
        simulator=simulator,
    )


TARGETS: Final = MappingProxyType(
    dict(
        (
            _target("x86-litert-int8", Architecture.X86_64, Runtime.LITERT, ModelFormat.TFLITE),
            _target("arm64-litert-int8", Architecture.ARM64, Runtime.LITERT, ModelFormat.TFLITE),
            _target(
                "x86-openvino-int8", Architecture.X86_64, Runtime.OPENVINO, ModelFormat.OPENVINO_IR
            ),
            _target(
                "x86-openvino-gpu-int8",
                Architecture.X86_64,
                Runtime.OPENVINO,
                ModelFormat.OPENVINO_IR,
                execution_device="gpu",
            ),
            _target(
                "jetson-orin-int8",
                Architecture.ARM64,
                Runtime.TENSORRT,
                ModelFormat.ONNX_QDQ,
                execution_device="gpu",
                simulator=Runtime.ONNXRUNTIME,
            ),
        )
    )
)


def target_named(name: str) -> Target:
    """Return the target called ``name``.

    Raises:
        ConfigError: There is no such target; the message lists those that exist.
    """
    try:
        return TARGETS[name]
    except KeyError:
        known = ", ".join(sorted(TARGETS))
        raise ConfigError(f"unknown target {name!r}; known targets: {known}") from None
