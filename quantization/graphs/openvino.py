"""A look into OpenVINO's IR, as converters and NNCF write it.

NNCF keeps the operators' names. It puts a FakeQuantize behind what is rounded, and stores weights
as integers with what makes them real behind them. Low precision transformations are off here:
FakeQuantize is computed in float32 as it is written; see ``simulation.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import MissingPackageError, QuantizationError
from asdic.device.runner.processors import usable_threads
from asdic.quantization.graphs.graph import Codes, Tensors
from asdic.quantization.graphs.operators import Operator, Reading, batch_of, kind_word

# FakeQuantize as it is written, on a processor with INT8 kernels or without. The second keeps
# linear layers with stored integers from rounding their activations by themselves.
FLOAT_SETTINGS: Final = MappingProxyType(
    {
        "LP_TRANSFORMS_MODE": "NO",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "INFERENCE_PRECISION_HINT": "f32",
    }
)

# What an operator multiplies, from the shapes of its input, weights and answer; see Layer.macs.
# Weights: [groups,] output, input, kernel; transposed: [groups,] input, output, kernel.
_MACS: Final[Mapping[str, Callable[[Any, Any, Any], int]]] = MappingProxyType(
    {
        "Convolution": lambda _, weights, answer: math.prod(answer) * math.prod(weights[1:]),
        "GroupConvolution": lambda _, weights, answer: math.prod(answer) * math.prod(weights[2:]),
        "ConvolutionBackpropData": lambda taken, weights, _: (
            math.prod(taken) * math.prod(weights[1:])
        ),
        "GroupConvolutionBackpropData": lambda taken, weights, _: (
            math.prod(taken) * math.prod(weights[2:])
        ),
    }
)
# What hands INT8 codes on as they are.
_MOVES: Final = frozenset(
    {
        *("Concat", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Split", "VariadicSplit"),
        *("MaxPool", "StridedSlice", "Slice", "Pad", "ShuffleChannels", "DepthToSpace"),
        *("SpaceToDepth", "BatchToSpace", "SpaceToBatch", "ReduceMax", "Gather"),
    }
)
# What OpenVINO computes in float where the codes of its activations have a zero point.
_WITHOUT_ZERO_POINT: Final = frozenset({"ConvolutionBackpropData", "GroupConvolutionBackpropData"})
_ACTIVATIONS: Final = frozenset({"Relu", "Clamp", "PRelu"})
_INTEGERS: Final = frozenset({"i8", "u8"})
_LEVELS: Final = 256
_ZERO_POINT_AT_LEAST: Final = 0.01  # of a code; less is the rounding of float32


class OpenVinoGraph:
    """One ``.xml`` file with its ``.bin`` beside it, float or INT8."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._core = _library().Core()
        self._request: Any = None
        try:
            self._model = self._core.read_model(str(path))
            reading = _Reading(self._model)
            found = reading.found()
            self._model.add_outputs([reading.ports[one.answer] for one in found])
        except RuntimeError as error:
            raise _unreadable(path, error) from error
        places = {
            _id(port.get_node().input_value(0)): number
            for number, port in enumerate(self._model.outputs)
        }
        self._inputs = [_name(port) for port in self._model.inputs]
        self._answers = {one.layer.name: places[one.answer] for one in found}
        self._weights = {
            one.layer.name: reading.ports[one.weights] for one in found if one.weights is not None
        }
        self.layers = tuple(one.layer for one in found)

    def run(self, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
        """Return what every layer answers. The first time takes longer: the model is compiled.

        Raises:
            QuantizationError: OpenVINO cannot compile it.
        """
        if self._request is None:
            self._request = self._compiled().create_infer_request()
        self._request.infer([tensors[name] for name in self._inputs])
        return {
            name: np.array(self._request.get_output_tensor(number).data, np.float32)
            for name, number in self._answers.items()
        }

    def weights(self, layer: str) -> NDArray[np.float32] | None:
        """Return a layer's weights, or None."""
        port = self._weights.get(layer)
        return None if port is None else np.asarray(_real(port), np.float32)

    def close(self) -> None:
        """Free the model."""
        self._request = self._model = None
        self._weights = {}

    def _compiled(self) -> Any:
        settings = {**FLOAT_SETTINGS, "INFERENCE_NUM_THREADS": usable_threads()}
        try:
            return self._core.compile_model(self._model, "CPU", settings)
        except RuntimeError as error:
            raise _unreadable(self._path, error) from error


class _Reading(Reading):
    """What is known of a model. ``ports`` are its tensors by their ids."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.ports: dict[str, Any] = {}
        self._batch = batch_of(map(_shape, model.inputs))
        for node in model.get_ordered_ops():
            self._take(node, [one.get_source_output() for one in node.inputs()])

    def _take(self, node: Any, taken: list[Any]) -> None:
        active = [_id(port) for port in taken if _id(port) in self.sources]
        self.ports.update((_id(port), port) for port in node.outputs())
        match node.get_type_name():
            case "Parameter":
                self.note_activations([_id(node.output(0))])
            case "Result":
                self.note_output(_id(taken[0]))
            case "FakeQuantize" if active:
                self.note_rounding(active[0], _id(node.output(0)), _codes(node))
            case _ if active and _is_real(node):
                self.note_activations(_id(port) for port in node.outputs())
                self._take_operator(node, taken, active)

    def _take_operator(self, node: Any, taken: list[Any], active: list[str]) -> None:
        kind = node.get_type_name()
        is_int8 = all(one in self.int8 for one in active)
        if kind in _MOVES:
            self.note_moved(active, [_id(port) for port in node.outputs()])
        weights = None
        if kind in _MACS or kind == "MatMul":
            weights = next((port for port in taken[:2] if _id(port) not in self.sources), None)
            is_int8 = is_int8 and (weights is None or _is_stored_int8(weights))
        if kind in _WITHOUT_ZERO_POINT:
            is_int8 = is_int8 and not _has_zero_point(self.int8[active[0]])
        self.operators.append(
            Operator(
                name=node.get_friendly_name(),
                kind=_kind(node, has_weights=weights is not None),
                inputs=tuple(self.sources[one] for one in active),
                output=_id(node.output(0)),
                shape=_shape(node.output(0)),
                macs=_macs(node) // self._batch,
                is_int8=is_int8,
                joins=len(active) == 1 and (kind in _ACTIVATIONS or kind == "Add"),
                weights=None if weights is None else _id(weights),
            )
        )


def _kind(node: Any, *, has_weights: bool) -> str:
    match node.get_type_name():
        case "MatMul":
            return "linear" if has_weights else "matmul"
        case "GroupConvolution" if node.input_value(1).get_shape()[2] == 1:
            return "depthwise-conv"
        case other:
            return kind_word(other)


def _macs(node: Any) -> int:
    kind = node.get_type_name()
    if kind != "MatMul" and kind not in _MACS:
        return 0
    taken, weights, answer = map(_shape, (node.input_value(0), node.input_value(1), node.output(0)))
    if kind == "MatMul":
        axis = -2 if node.get_attributes()["transpose_a"] else -1
        return math.prod(answer) * taken[axis]
    return _MACS[kind](taken, weights, answer)


def _codes(node: Any) -> Codes | None:
    """Return what a FakeQuantize rounds to: its first code stands for the lower end."""
    levels = int(node.get_attributes()["levels"])
    if levels > _LEVELS:
        return None
    low, high = (np.asarray(_real(node.input_value(one)), np.float64) for one in (3, 4))
    if low.size == 1:
        low, high = low.reshape(()), high.reshape(())
    scale = np.maximum((high - low) / (levels - 1), np.finfo(np.float32).tiny)
    return Codes(scale=scale, zero_point=-low / scale, low=0, high=levels - 1)


def _has_zero_point(codes: Codes) -> bool:
    """Return whether zero is neither the first of the codes (u8) nor in their middle (i8)."""
    places = np.array([codes.low, (codes.low + codes.high + 1) // 2])
    distance = np.abs(codes.zero_point.reshape(-1, 1) - places).min(axis=1)
    return bool((distance > _ZERO_POINT_AT_LEAST).any())


def _is_stored_int8(port: Any) -> bool:
    """Return whether weights are stored as INT8, or rounded to 8 bits before they are used."""
    node = port.get_node()
    while node.get_type_name() != "Constant":
        if node.get_type_name() == "FakeQuantize":
            return int(node.get_attributes()["levels"]) <= _LEVELS
        node = node.input_value(0).get_node()
    return node.get_element_type().get_type_name() in _INTEGERS


def _real(port: Any) -> NDArray[Any]:
    """Return what the constants behind a port amount to, computed by OpenVINO's own operators.

    Raises:
        QuantizationError: An operator answers only while the model runs.
    """
    node = port.get_node()
    if node.get_type_name() == "Constant":
        return np.asarray(node.data)
    tensor = _library().Tensor
    taken = [tensor(np.array(_real(one), order="C")) for one in node.input_values()]
    answers = [tensor(one.get_element_type(), one.get_shape()) for one in node.outputs()]
    if not node.evaluate(answers, taken):
        raise QuantizationError(
            f"weights are made by {node.get_type_name()} ({node.get_friendly_name()}), "
            "which answers only while the model runs"
        )
    return np.array(answers[port.get_index()].data)


def _is_real(node: Any) -> bool:
    return bool(node.get_output_element_type(0).get_type_name() == "f32")


def _shape(port: Any) -> tuple[int, ...]:
    return tuple(int(side) for side in port.get_shape())


def _id(port: Any) -> str:
    return f"{port.get_node().get_name()}:{port.get_index()}"


def _name(port: Any) -> str:
    """Return the name of an input as ``device/runner/openvino.py`` has it."""
    names = port.get_names()
    return min(names) if names else str(port.get_node().get_friendly_name())


def _unreadable(path: Path, error: RuntimeError) -> QuantizationError:
    reason = (str(error).strip().splitlines() or ["no reason given"])[-1].strip()
    return QuantizationError(f"OpenVINO cannot read {path}: {reason}")


def _library() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingPackageError("OpenVINO", "openvino") from error
    return openvino
