"""A look into ONNX files, float or with QuantizeLinear and DequantizeLinear.

A layer is named as its node; a node without a name, as what it answers with. Optimizations are
off, so the pairs round and everything else is computed in float32, as TensorRT reads the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import MissingPackageError, QuantizationError
from asdic.device.runner.processors import usable_threads
from asdic.quantization.graphs.graph import Codes, Tensors
from asdic.quantization.graphs.operators import Operator, Reading, batch_of, kind_word

# What an operator multiplies, from the shapes of its input, weights and answer; see Layer.macs.
# Weights: output channels, input channels of a group, kernel; transposed: the other way round.
_MACS: Final[Mapping[str, Callable[[Any, Any, Any], int]]] = MappingProxyType(
    {
        "Conv": lambda _, weights, answer: math.prod(answer) * math.prod(weights[1:]),
        "ConvTranspose": lambda taken, weights, _: math.prod(taken) * math.prod(weights[1:]),
        "MatMul": lambda taken, _, answer: math.prod(answer) * taken[-1],
        "Gemm": lambda taken, _, answer: math.prod(taken) * answer[-1],
    }
)
# What hands INT8 codes on as they are.
_MOVES: Final = frozenset(
    {
        *("Concat", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Split"),
        *("MaxPool", "Slice", "Pad", "DepthToSpace", "SpaceToDepth", "Gather", "Identity"),
    }
)
_CODES: Final = frozenset({np.dtype(np.int8), np.dtype(np.uint8)})
_DTYPES: Final[Mapping[str, np.dtype[Any]]] = MappingProxyType(
    {
        "tensor(float)": np.dtype(np.float32),
        "tensor(int8)": np.dtype(np.int8),
        "tensor(uint8)": np.dtype(np.uint8),
        "tensor(int64)": np.dtype(np.int64),
    }
)
_ACTIVATIONS: Final = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu"})


class OnnxGraph:
    """One ``.onnx`` file, float or with QDQ nodes."""

    def __init__(self, path: Path) -> None:
        onnx, runtime = _libraries()
        try:
            model = onnx.load(str(path))
            self._session: Any = _session(onnx, runtime, model)
        except Exception as error:  # both libraries' exceptions have no public base but Exception
            reason = " ".join(str(error).split())
            raise QuantizationError(f"ONNX Runtime cannot read {path}: {reason}") from error
        self._reading = _Reading(onnx, model, _tensors(self._session))
        found = self._reading.found()
        self._answers = {one.layer.name: one.answer for one in found}
        self._weights = {one.layer.name: one.weights for one in found if one.weights is not None}
        self.layers = tuple(one.layer for one in found)

    def run(self, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
        """Return what every layer answers."""
        answers = self._session.run(list(self._answers.values()), dict(tensors))
        return dict(zip(self._answers, answers, strict=True))

    def weights(self, layer: str) -> NDArray[np.float32] | None:
        """Return a layer's weights, or None."""
        tensor = self._weights.get(layer)
        return None if tensor is None else self._reading.real(tensor)

    def close(self) -> None:
        """Free the model."""
        self._session = None


class _Reading(Reading):
    """What is known of a model. ``tensors`` are types and shapes of what its nodes answer."""

    def __init__(self, onnx: Any, model: Any, tensors: Mapping[str, _Tensor]) -> None:
        super().__init__()
        self._tensors = tensors
        self._onnx = onnx
        self._constants = {
            one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer
        }
        self._made_by = {name: node for node in model.graph.node for name in node.output}
        inputs = [one.name for one in model.graph.input if one.name not in self._constants]
        self._batch = batch_of(tensors[name].shape for name in inputs)
        self.note_activations(name for name in inputs if tensors[name].is_real)
        for node in model.graph.node:
            self._take(node, [name for name in node.input if name in self.sources])
        for one in model.graph.output:
            self.note_output(one.name)

    def real(self, tensor: str) -> NDArray[np.float32] | None:
        """Return the constant behind a tensor; None where more than DequantizeLinear is."""
        if tensor in self._constants:
            return np.asarray(self._constants[tensor], np.float32)
        node = self._made_by.get(tensor)
        if node is None or node.op_type != "DequantizeLinear":
            return None
        stored, scale, zero = (self._constants.get(name) for name in _rule(node))
        if stored is None or scale is None:
            return None
        sides = [1] * stored.ndim
        if scale.size > 1:
            sides[_attribute(node, "axis", 1)] = scale.size
        start = 0 if zero is None else zero.astype(np.float32).reshape(sides)
        return np.asarray((stored.astype(np.float32) - start) * scale.reshape(sides), np.float32)

    def _take(self, node: Any, active: list[str]) -> None:
        answers = [name for name in node.output if name]
        match node.op_type:
            case "Constant":
                self._take_constant(node)
            case "QuantizeLinear" | "DequantizeLinear" if active:
                self.note_rounding(active[0], answers[0], self._codes(node))
            case _ if active and self._tensors[answers[0]].is_real:
                self.note_activations(answers)
                self._take_operator(node, answers, active)

    def _take_constant(self, node: Any) -> None:
        for one in node.attribute:
            if one.name == "value":
                self._constants[node.output[0]] = self._onnx.numpy_helper.to_array(one.t)

    def _take_operator(self, node: Any, answers: list[str], active: list[str]) -> None:
        kind = node.op_type
        is_int8 = all(one in self.int8 for one in active)
        if kind in _MOVES:
            self.note_moved(active, answers)
        weights = None
        if kind in _MACS:
            weights = next((name for name in node.input[:2] if name not in self.sources), None)
            is_int8 = is_int8 and (weights is None or self._is_stored_int8(weights))
        self.operators.append(
            Operator(
                name=node.name or answers[0],
                kind=self._kind(node, has_weights=weights is not None),
                inputs=tuple(self.sources[one] for one in active),
                output=answers[0],
                shape=self._tensors[answers[0]].shape,
                macs=self._macs(node) // self._batch,
                is_int8=is_int8,
                joins=len(active) == 1 and (kind in _ACTIVATIONS or kind == "Add"),
                weights=weights,
            )
        )

    def _codes(self, node: Any) -> Codes | None:
        """Return the rule of a DequantizeLinear that makes real values of INT8 codes."""
        stored, scale, zero = _rule(node)
        dtype = self._tensors[stored].dtype
        values, start = self._constants.get(scale), self._constants.get(zero)
        if node.op_type == "QuantizeLinear" or dtype not in _CODES or values is None:
            return None
        sides: list[int] = []
        if values.size > 1:
            sides = [1] * len(self._tensors[stored].shape)
            sides[_attribute(node, "axis", 1)] = values.size
        starts = np.zeros_like(values) if start is None else start
        limits = np.iinfo(dtype)
        return Codes(
            scale=values.astype(np.float64).reshape(sides),
            zero_point=starts.astype(np.float64).reshape(sides),
            low=int(limits.min),
            high=int(limits.max),
        )

    def _is_stored_int8(self, tensor: str) -> bool:
        node = self._made_by.get(tensor)
        while node is not None and node.op_type != "DequantizeLinear":
            node = self._made_by.get(node.input[0]) if node.input else None
        if node is None:
            return False
        stored = node.input[0]
        dtype = self._constants[stored].dtype if stored in self._constants else None
        return (dtype or self._tensors[stored].dtype) in _CODES

    def _kind(self, node: Any, *, has_weights: bool) -> str:
        if node.op_type == "MatMul":
            return "linear" if has_weights else "matmul"
        groups = _attribute(node, "group", 1)
        if node.op_type == "Conv" and groups > 1:
            channels = self._tensors[node.input[0]].shape[1]
            return "depthwise-conv" if groups == channels else "conv"
        return kind_word(node.op_type)

    def _macs(self, node: Any) -> int:
        if node.op_type not in _MACS:
            return 0
        return _MACS[node.op_type](
            *(self._shape(name) for name in (*node.input[:2], node.output[0]))
        )

    def _shape(self, tensor: str) -> tuple[int, ...]:
        constant = self._constants.get(tensor)
        return self._tensors[tensor].shape if constant is None else constant.shape


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    """What ONNX Runtime says of a tensor. ``dtype`` is that of numpy; None for others."""

    dtype: np.dtype[Any] | None
    shape: tuple[int, ...]

    @property
    def is_real(self) -> bool:
        return self.dtype == np.float32


def _session(onnx: Any, runtime: Any, model: Any) -> Any:
    """Return a session that answers with what every node answers."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    known = {one.name for one in wide.graph.output}
    names = [name for node in wide.graph.node for name in node.output if name]
    wide.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = usable_threads()
    options.use_deterministic_compute = True
    options.log_severity_level = 4  # fatal only: what goes wrong is raised as well
    return runtime.InferenceSession(
        wide.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _tensors(session: Any) -> dict[str, _Tensor]:
    """Return what is known of the inputs and of every answer.

    Where a shape is computed inside, it is taken from an inference.

    Raises:
        QuantizationError: An input's shape is open.
    """
    ports = (*session.get_inputs(), *session.get_outputs())
    found = {
        one.name: _Tensor(dtype=_DTYPES.get(one.type), shape=tuple(one.shape)) for one in ports
    }
    open_ = [name for name, one in found.items() if not all(isinstance(x, int) for x in one.shape)]
    for one in session.get_inputs():
        if one.name in open_:
            raise QuantizationError(
                f"input {one.name!r} leaves its shape open: {one.shape}; write the file with "
                "whole numbers in it"
            )
    if open_:
        zeros = {
            one.name: np.zeros(found[one.name].shape, found[one.name].dtype)
            for one in session.get_inputs()
        }
        for name, answer in zip(open_, session.run(open_, zeros), strict=True):
            found[name] = _Tensor(dtype=answer.dtype, shape=answer.shape)
    return found


def _rule(node: Any) -> tuple[str, str, str]:
    """Return what a Quantize- or DequantizeLinear takes: values, scale, zero point or ""."""
    stored, scale, *rest = node.input
    return stored, scale, rest[0] if rest else ""


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(one.i) for one in node.attribute if one.name == name), default)


def _libraries() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(error.name or "onnxruntime", "quantize") from error
    return onnx, onnxruntime
