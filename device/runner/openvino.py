"""Models for OpenVINO, the runtime of Intel boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, MissingPackageError, ReleaseError
from asdic.contract.target import Runtime
from asdic.contract.variant import TensorSpec


class OpenVinoEngine:
    """One ``.xml`` file with its ``.bin`` beside it."""

    runtime = Runtime.OPENVINO

    def __init__(self, files: Sequence[Path], *, threads: int, execution_device: str) -> None:
        library = _library()
        self.version: str = library.get_version().split("-")[0]
        compiled = _compiled(library, files[0], threads, execution_device.upper())
        self.inputs = tuple(_spec(port, files[0]) for port in compiled.inputs)
        self.outputs = tuple(_spec(port, files[0]) for port in compiled.outputs)
        self._request = compiled.create_infer_request()

    def run(self, inputs: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
        """Return every output by name."""
        arrays = [inputs[spec.name] for spec in self.inputs]
        answers = self._request.infer(arrays, share_inputs=True, share_outputs=False)
        return {spec.name: answers[number] for number, spec in enumerate(self.outputs)}

    def close(self) -> None:
        """Free the model."""
        self._request = None


def _library() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingPackageError("OpenVINO", "openvino") from error
    return openvino


def _compiled(library: Any, path: Path, threads: int, device: str) -> Any:
    core = library.Core()
    if device not in {name.split(".")[0] for name in core.available_devices}:
        found = ", ".join(core.available_devices)
        raise ConfigError(f"OpenVINO finds no {device} on this machine, only: {found}")
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device == "CPU":
        # By default newer processors run float layers in bf16: FP32 would not stay FP32.
        settings |= {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    try:
        return core.compile_model(core.read_model(str(path)), device, settings)
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[-1].strip()
        raise ReleaseError(f"OpenVINO cannot load {path}: {reason}") from error


def _spec(port: Any, path: Path) -> TensorSpec:
    names = port.get_names()
    name = min(names) if names else port.get_node().get_friendly_name()
    dtype = port.get_element_type().get_type_name()
    if port.get_partial_shape().is_dynamic or dtype != "f32":
        raise ReleaseError(
            f"tensor {name!r} of {path} is {dtype} of shape {port.get_partial_shape()}; asdic "
            "runs float32 tensors of fixed shape"
        )
    return TensorSpec(name=name, shape=tuple(port.get_shape()))
