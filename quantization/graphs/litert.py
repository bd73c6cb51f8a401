"""A look into TFLite files, as converters and ai-edge-quantizer write them.

A layer is named as the tensor that it answers with: ai-edge-quantizer keeps that name, TensorFlow's
converter puts ``_int8`` behind the model's own outputs. Built-in kernels compute: XNNPACK would
keep what lies between its layers to itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import MissingPackageError, QuantizationError
from asdic.contract.files import read_bounded
from asdic.device.runner.processors import usable_threads
from asdic.quantization.graphs.graph import Codes, Layer, Tensors
from asdic.quantization.graphs.operators import batch_of, kind_word, unique

_MODEL_LIMIT_BYTES: Final = 2 << 30
_BETWEEN: Final = frozenset({"QUANTIZE", "DEQUANTIZE"})

Shape: TypeAlias = tuple[int, ...]


def _per_output(taken: Shape, weights: Shape, answer: Shape) -> int:
    del taken
    return math.prod(answer) * math.prod(weights[1:])


# The places of the input and of the weights among what an operator takes, where not the first two.
_PLACES: Final = MappingProxyType({"TRANSPOSE_CONV": (2, 1), "CONV_3D_TRANSPOSE": (2, 1)})
# What an operator multiplies, from the shapes of its input, weights and answer; see Layer.macs.
_MACS: Final[Mapping[str, Callable[[Shape, Shape, Shape], int]]] = MappingProxyType(
    {
        "CONV_2D": _per_output,  # weights: output, height, width, input channels of a group
        "FULLY_CONNECTED": _per_output,
        "DEPTHWISE_CONV_2D": lambda _, weights, answer: math.prod(answer) * math.prod(weights[:-1]),
        "CONV_3D": lambda _, weights, answer: math.prod(answer) * math.prod(weights[:-1]),
        "TRANSPOSE_CONV": lambda taken, weights, _: math.prod(taken) * math.prod(weights[:-1]),
        "CONV_3D_TRANSPOSE": lambda taken, weights, _: math.prod(taken) * math.prod(weights[:-1]),
        "BATCH_MATMUL": lambda taken, _, answer: (  # whichever of its last axes is summed over
            math.prod(answer) * math.prod(taken[-2:]) // answer[-2]
        ),
    }
)


class LiteRtGraph:
    """One ``.tflite`` file, float or INT8."""

    def __init__(self, path: Path) -> None:
        content = read_bounded(path, _MODEL_LIMIT_BYTES)
        self._interpreter = _interpreter(path, content)
        self._tensors = _tensors(self._interpreter, content)
        self._inputs = {name: self._tensors[at] for name, at in _inputs(self._interpreter).items()}
        self._batch = batch_of(one.shape for one in self._inputs.values())
        operators = tuple(self._operators())
        rounded = {one.inputs[0]: one.output for one in operators if one.type == "QUANTIZE"}
        found = [one for one in operators if one.type not in _BETWEEN]
        names = unique(self._tensors[one.output].float_name for one in found)
        self._layers = dict(zip(names, found, strict=True))
        self._answers = {
            name: self._tensors[rounded.get(one.output, one.output)]
            for name, one in self._layers.items()
        }
        self.layers = tuple(self._layer(name, one) for name, one in self._layers.items())

    def run(self, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
        """Return what every layer answers."""
        for name, tensor in self._inputs.items():
            self._interpreter.set_tensor(tensor.index, tensor.stored(tensors[name]))
        self._interpreter.invoke()
        return {name: self._values(tensor) for name, tensor in self._answers.items()}

    def weights(self, layer: str) -> NDArray[np.float32] | None:
        """Return a layer's weights, or None."""
        index = self._layers[layer].weights
        return None if index is None else self._values(self._tensors[index])

    def close(self) -> None:
        """Free the model."""
        self._interpreter = None

    def _values(self, tensor: _Tensor) -> NDArray[np.float32]:
        return tensor.real(self._interpreter.get_tensor(tensor.index))

    def _operators(self) -> Iterator[_Operator]:
        """Yield what takes activations and answers with numbers, in the order of the file."""
        for one in self._interpreter._get_ops_details():
            inputs = [int(index) for index in one["inputs"]]
            numbers = [at for at in inputs if at >= 0 and self._tensors[at].holds_numbers]
            active = tuple(index for index in numbers if not self._tensors[index].is_constant)
            factors = _factors(str(one["op_name"]), inputs)
            output = next(iter(map(int, one["outputs"])), -1)
            if active and output in self._tensors and self._tensors[output].holds_numbers:
                yield _Operator(
                    type=str(one["op_name"]),
                    inputs=active,
                    output=output,
                    factors=factors,
                    weights=next((at for at in factors if self._tensors[at].is_constant), None),
                )

    def _layer(self, name: str, one: _Operator) -> Layer:
        taken = [*one.inputs, *(() if one.weights is None else (one.weights,))]
        shape = self._tensors[one.output].shape
        macs = 0
        if one.factors:
            input_, weights = (self._tensors[index].shape for index in one.factors)
            macs = _MACS[one.type](input_, weights, shape) // self._batch
        return Layer(
            name=name,
            kind=kind_word(one.type),
            shape=shape,
            macs=macs,
            is_int8=all(self._tensors[index].is_int8 for index in taken),
            codes=self._answers[name].codes,
        )


@dataclass(frozen=True, kw_only=True)
class _Operator:
    """An operator of the file; tensors by their numbers.

    ``inputs`` are its activations, ``factors`` what it multiplies: input and weights, if it does.
    ``weights`` are those of them that are constant.
    """

    type: str
    inputs: tuple[int, ...]
    output: int
    factors: tuple[int, ...]
    weights: int | None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tensor:
    """A tensor of the file, and how its stored numbers relate to real values."""

    name: str
    index: int
    shape: Shape
    dtype: np.dtype[Any]
    scale: NDArray[np.float64] | None
    zero_point: NDArray[np.float64]
    is_constant: bool

    @classmethod
    def of(cls, details: Mapping[str, Any], *, is_constant: bool) -> _Tensor:
        """Return the tensor that LiteRT describes by ``details``."""
        shape = tuple(int(side) for side in details["shape"])
        rule = details["quantization_parameters"]
        scale, zero_point = (
            np.asarray(rule[name], np.float64) for name in ("scales", "zero_points")
        )
        sides: list[int] = []
        if scale.size > 1:
            sides = [1] * len(shape)
            sides[int(rule["quantized_dimension"])] = scale.size
        return cls(
            name=str(details["name"]),
            index=int(details["index"]),
            shape=shape,
            dtype=np.dtype(details["dtype"]),
            scale=scale.reshape(sides) if scale.size else None,
            zero_point=zero_point.reshape(sides) if scale.size else np.zeros(()),
            is_constant=is_constant,
        )

    @property
    def is_int8(self) -> bool:
        return self.scale is not None and self.dtype.kind in "iu" and self.dtype.itemsize == 1

    @property
    def float_name(self) -> str:
        """What it is called in the float file."""
        return self.name.removesuffix("_int8") if self.is_int8 else self.name

    @property
    def holds_numbers(self) -> bool:
        """Whether it is float or quantized: no shape, index or condition."""
        return self.dtype == np.float32 or (self.scale is not None and self.dtype.itemsize <= 2)

    @property
    def codes(self) -> Codes | None:
        if self.scale is None or self.dtype == np.float32:
            return None
        limits = np.iinfo(self.dtype)
        return Codes(
            scale=self.scale, zero_point=self.zero_point, low=int(limits.min), high=int(limits.max)
        )

    def real(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """Return what stored numbers stand for."""
        if self.scale is None or self.dtype == np.float32:
            return np.asarray(stored, np.float32)
        return np.asarray((stored - self.zero_point) * self.scale, np.float32)

    def stored(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """Return how the file stores real values."""
        codes = self.codes
        return np.asarray(values if codes is None else codes.of(values), self.dtype)


def _factors(type_: str, inputs: Sequence[int]) -> tuple[int, ...]:
    """Return which tensors an operator multiplies: its input and its weights."""
    if type_ not in _MACS:
        return ()
    input_, weights = _PLACES.get(type_, (0, 1))
    return inputs[input_], inputs[weights]


def _interpreter(path: Path, content: bytes) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise MissingPackageError("LiteRT", "litert") from error
    try:
        interpreter = Interpreter(
            model_content=content,
            num_threads=usable_threads(),
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise QuantizationError(f"LiteRT cannot read {path}: {reason}") from error
    return interpreter


def _tensors(interpreter: Any, content: bytes) -> dict[int, _Tensor]:
    """Return the tensors of the (first) graph by number. Constants are those with content."""
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    buffers = [graph.Tensors(number).Buffer() for number in range(graph.TensorsLength())]
    filled = {number for number in set(buffers) if _is_filled(model.Buffers(number))}
    constant = dict(enumerate(number in filled for number in buffers))
    return {
        int(one["index"]): _Tensor.of(one, is_constant=constant.get(int(one["index"]), False))
        for one in interpreter.get_tensor_details()
    }


def _is_filled(buffer: Any) -> bool:
    """Return whether a buffer holds something, in the file's structure or, if large, behind it."""
    return bool(buffer.DataLength() or buffer.Size())


def _inputs(interpreter: Any) -> dict[str, int]:
    """Return the numbers of the inputs by the names of the only signature, or else the tensors'."""
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        return {name: int(one["index"]) for name, one in runner.get_input_details().items()}
    return {one["name"]: int(one["index"]) for one in interpreter.get_input_details()}
