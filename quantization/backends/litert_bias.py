"""Bias correction of a TFLite file: the mean error of each layer goes into its bias.

Rounded weights and clipped activations shift the mean of a layer's answer, and the shifts of many
layers add up. The layers are corrected in their order, each with all those before it corrected, so
that it also takes up what they left (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", ICCV 2019, section 4.2, with real samples for the means).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.quantization.backends.backend import Tensors

FEWEST_SAMPLES: Final = 8
MOST_SAMPLES: Final = 16
ENOUGH_VALUES: Final = 1 << 12
"""A channel's mean is taken over that many values, within the bounds on the samples."""

# Where an operator takes its bias.
_BIAS: Final = MappingProxyType(
    {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
)
_THREADS: Final = 2
_SIGNATURE: Final = "serving_default"

Means = dict[str, NDArray[np.float64]]
"""A layer's mean answer for every channel, by the name of the tensor that it answers with."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Biased:
    """A layer whose bias can be corrected.

    ``codes`` are the 32-bit numbers in the file itself, and ``steps`` what one of each stands for.
    """

    answer: str
    positions: int
    codes: NDArray[np.int32]
    steps: NDArray[np.float32]

    @property
    def samples(self) -> int:
        """How many samples give its mean."""
        wanted = -(-ENOUGH_VALUES // self.positions)
        return min(max(wanted, FEWEST_SAMPLES), MOST_SAMPLES)


def correct_biases(quantized: bytes, exact: bytes, samples: Sequence[Tensors]) -> bytes:
    """Return the INT8 file ``quantized`` with corrected biases.

    Args:
        quantized: A ``.tflite`` as ai-edge-quantizer made it of ``exact``.
        exact: The float file.
        samples: Inputs of both, in the layout of the files.
    """
    content = bytearray(quantized)
    layers = list(_biased(content))
    means = _float_means(exact, layers, samples)
    for layer in (one for one in layers if one.answer in means):
        some = samples[: layer.samples]
        error = _means(bytes(content), [layer.answer], some)[layer.answer] - means[layer.answer]
        shifted = layer.codes - np.round(error / layer.steps)
        limits = np.iinfo(np.int32)
        layer.codes[:] = np.clip(shifted, limits.min, limits.max)
    return bytes(content)


def _float_means(exact: bytes, layers: Sequence[_Biased], samples: Sequence[Tensors]) -> Means:
    """Return the means over as many samples as each layer's own will be taken over."""
    found: Means = {}
    for count in sorted({layer.samples for layer in layers}):
        names = [layer.answer for layer in layers if layer.samples == count]
        found |= _means(exact, names, samples[:count])
    return found


def _biased(content: bytearray) -> Iterator[_Biased]:
    """Yield the layers with an INT8 answer and a bias of their own, in the order of the file."""
    from ai_edge_litert import schema_py_generated as schema

    names = {getattr(schema.BuiltinOperator, name): place for name, place in _BIAS.items()}
    model: Any = schema.Model.GetRootAs(content, 0)
    graph = model.Subgraphs(0)
    used = [graph.Tensors(number).Buffer() for number in range(graph.TensorsLength())]
    operators = [graph.Operators(number) for number in range(graph.OperatorsLength())]
    taken = [place for one in operators for place in one.InputsAsNumpy().tolist()]
    for operator in operators:
        at = names.get(model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode())
        if at is None or operator.InputsLength() <= at or operator.Inputs(at) < 0:
            continue
        place = operator.Inputs(at)
        bias, answer = graph.Tensors(place), graph.Tensors(operator.Outputs(0))
        stored = model.Buffers(bias.Buffer())
        is_own = used.count(bias.Buffer()) == 1 and taken.count(place) == 1
        if (
            bias.Type() != schema.TensorType.INT32
            or answer.Type() != schema.TensorType.INT8
            or not stored.DataLength()
            or not is_own
        ):
            continue
        yield _Biased(
            answer=answer.Name().decode(),
            positions=int(np.prod(answer.ShapeAsNumpy()[:-1])),
            codes=stored.DataAsNumpy().view(np.int32),
            steps=bias.Quantization().ScaleAsNumpy(),
        )


def _means(content: bytes, names: Sequence[str], samples: Sequence[Tensors]) -> Means:
    """Return the means of the tensors called ``names``, (channels,) each, over the samples."""
    interpreter = _interpreter(content)
    run = interpreter.get_signature_runner(_SIGNATURE)
    inputs = run.get_input_details()
    wanted = {one["name"]: one for one in interpreter.get_tensor_details() if one["name"] in names}
    sums: dict[str, Any] = dict.fromkeys(wanted, 0.0)
    for sample in samples:
        run(**{name: _stored(inputs[name], values) for name, values in sample.items()})
        for name, details in wanted.items():
            sums[name] = sums[name] + _channel_means(interpreter, details)
    return {name: total / len(samples) for name, total in sums.items()}


def _channel_means(interpreter: Any, details: Mapping[str, Any]) -> NDArray[np.float64]:
    stored = interpreter.get_tensor(details["index"])
    means = stored.reshape(-1, stored.shape[-1]).mean(axis=0, dtype=np.float64)
    scale, zero_point = details["quantization"]
    return np.asarray((means - zero_point) * scale if scale else means)


def _stored(details: Mapping[str, Any], values: NDArray[np.float32]) -> NDArray[Any]:
    """Return an input as the file stores it."""
    scale, zero_point = details["quantization"]
    if details["dtype"] is np.float32 or not scale:
        return values
    limits = np.iinfo(details["dtype"])
    codes = np.clip(np.round(values / scale) + zero_point, limits.min, limits.max)
    return np.asarray(codes, details["dtype"])


def _interpreter(content: bytes) -> Any:
    """Open a model without XNNPACK, which keeps what lies between layers to itself."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that keeping all tensors takes memory
        interpreter = Interpreter(
            model_content=content,
            num_threads=_THREADS,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            experimental_preserve_all_tensors=True,
        )
    interpreter.allocate_tensors()
    return interpreter
