"""Models for OpenVINO, the runtime of Intel boxes: processor, GPU or NPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.bench import Build
from asdic.contract.errors import ConfigError, MissingPackageError, ReleaseError
from asdic.contract.target import Runtime
from asdic.contract.variant import TensorSpec
from asdic.device.runner.cache import cache_folder
from asdic.device.runner.engine import Tensors

# Two requests keep the library busy; more only make results older.
_AHEAD: Final = 2


class OpenVinoEngine:
    """One ``.xml`` file with its ``.bin`` beside it.

    What the GPU's and NPU's compilers make is kept in OpenVINO's own cache, which knows the
    model, the device and the driver; without it a GPU compiles for seconds at each start.
    """

    runtime = Runtime.OPENVINO
    ahead = _AHEAD

    def __init__(self, files: Sequence[Path], *, threads: int, execution_device: str) -> None:
        self._library = _library()
        self.version: str = self._library.get_version().split("-")[0]
        device = execution_device.upper()
        core = self._library.Core()
        settings = {**_settings(device, threads), **self._options()}
        compiled, self.build = _compiled(core, files[0], device, settings)
        plugin = next(iter(core.get_versions(device).values()))
        self.delegate = f"{plugin.description} {plugin.build_number.split('-releases/')[0]}"
        self.inputs = tuple(_spec(port, files[0]) for port in compiled.inputs)
        self.outputs = tuple(_spec(port, files[0]) for port in compiled.outputs)
        self._names = [spec.name for spec in self.inputs]
        self._compiled: Any = compiled
        self._requests = [compiled.create_infer_request() for _ in range(_AHEAD)]
        self._turn = 0
        self._bound: Any = None
        self._targets: list[NDArray[np.float32]] = []

    def run(self, inputs: Tensors, into: Tensors | None = None) -> dict[str, NDArray[np.float32]]:
        """Return every output by name."""
        arrays = [inputs[name] for name in self._names]
        if into is not None:
            self._bind(into).infer(arrays, share_inputs=True, share_outputs=True)
            return {spec.name: into[spec.name] for spec in self.outputs}
        answers = self._requests[0].infer(arrays, share_inputs=True, share_outputs=False)
        return {spec.name: answers[number] for number, spec in enumerate(self.outputs)}

    def start(self, inputs: Tensors) -> Callable[[], dict[str, NDArray[np.float32]]]:
        """Start one inference on the next request and return what waits for its outputs."""
        request = self._requests[self._turn]
        self._turn = (self._turn + 1) % _AHEAD
        request.start_async([inputs[name] for name in self._names], share_inputs=True)

        def outputs() -> dict[str, NDArray[np.float32]]:
            request.wait()
            return {
                spec.name: request.get_output_tensor(number).data.copy()
                for number, spec in enumerate(self.outputs)
            }

        return outputs

    def close(self) -> None:
        """Free the model."""
        self._bound, self._targets = None, []
        self._requests = []
        self._compiled = None

    def _options(self) -> dict[str, Any]:
        """Return more of OpenVINO's properties: none, but by an engine made of this one."""
        return {}

    def _bind(self, into: Tensors) -> Any:
        """Return a request of its own that writes to the arrays of ``into``."""
        if self._bound is None:
            self._bound = self._compiled.create_infer_request()
        targets = [into[spec.name] for spec in self.outputs]
        if len(targets) != len(self._targets) or any(
            new is not old for new, old in zip(targets, self._targets, strict=True)
        ):
            for number, array in enumerate(targets):
                self._bound.set_output_tensor(
                    number, self._library.Tensor(array, shared_memory=True)
                )
            self._targets = targets
        return self._bound


def _library() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingPackageError("OpenVINO", "openvino") from error
    return openvino


def _compiled(core: Any, path: Path, device: str, settings: dict[str, Any]) -> tuple[Any, Build]:
    if device not in {name.split(".")[0] for name in core.available_devices}:
        found = ", ".join(core.available_devices)
        raise ConfigError(f"OpenVINO finds no {device} on this machine, only: {found}")
    try:
        model = core.read_model(str(path))
        started = time.perf_counter()
        compiled = core.compile_model(model, device, settings)
        return compiled, build_of(compiled, time.perf_counter() - started)
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[-1].strip()
        raise ReleaseError(f"OpenVINO cannot load {path}: {reason}") from error


def build_of(compiled: Any, seconds: float) -> Build:
    """Return whether OpenVINO compiled the model just now, in so many seconds."""
    from_cache = bool(compiled.get_property("LOADED_FROM_CACHE"))
    return Build(from_cache=from_cache, seconds=None if from_cache else seconds)


def _settings(device: str, threads: int) -> dict[str, Any]:
    """Return OpenVINO's properties by name."""
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
    if device == "CPU":
        # By default newer processors run float layers in bf16: FP32 would not stay FP32.
        return settings | {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    folder = cache_folder("openvino")
    return settings if folder is None else settings | {"CACHE_DIR": str(folder)}


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
