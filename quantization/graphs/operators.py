"""What is alike in graphs of all formats: words for operators, unique names, layers of several.

Runtimes compute a convolution, its bias and its activation function in one step, and only the
last one's answer is rounded to INT8. So they are one layer here, in the float file as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from asdic.quantization.graphs.graph import Codes, Layer

# Where an operator's own name says too little or is called otherwise elsewhere.
_WORDS: Final = MappingProxyType(
    {
        **dict.fromkeys(("Conv", "Convolution", "GroupConvolution", "CONV_2D", "CONV_3D"), "conv"),
        "DEPTHWISE_CONV_2D": "depthwise-conv",
        **dict.fromkeys(
            ("ConvTranspose", "ConvolutionBackpropData", "GroupConvolutionBackpropData"),
            "transposed-conv",
        ),
        **dict.fromkeys(("TRANSPOSE_CONV", "CONV_3D_TRANSPOSE"), "transposed-conv"),
        **dict.fromkeys(("Gemm", "FULLY_CONNECTED"), "linear"),
        **dict.fromkeys(("MatMul", "BATCH_MATMUL"), "matmul"),
        **dict.fromkeys(("Concat", "CONCATENATION"), "concat"),
        **dict.fromkeys(("AvgPool", "AveragePool", "AVERAGE_POOL_2D"), "average-pool"),
        **dict.fromkeys(("MaxPool", "MAX_POOL_2D"), "max-pool"),
        **dict.fromkeys(("PRelu", "PRELU"), "prelu"),
        "LeakyRelu": "leaky-relu",
        "Mul": "multiply",
        "MUL": "multiply",
        "Sub": "subtract",
        "SUB": "subtract",
        "SoftMax": "softmax",
    }
)
_WORD: Final = re.compile(r"[A-Z]+(?![a-z])[0-9]*|[A-Z][a-z0-9]*|[a-z0-9]+")

WITH_MACS: Final = frozenset({"conv", "depthwise-conv", "transposed-conv", "linear", "matmul"})


@dataclass(frozen=True, kw_only=True)
class Operator:
    """An operator that takes activations. Tensors have any id that is unique in the file.

    ``inputs`` are its activations, each as it was before it was rounded to INT8, so that float
    and INT8 files have the same ones. ``joins`` says that it is a bias or an activation function
    with one such input, and belongs to a convolution or linear layer before it. ``weights`` is
    the tensor of its weights.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    output: str
    shape: tuple[int, ...]
    macs: int = 0
    is_int8: bool = False
    joins: bool = False
    weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class Found:
    """A layer, the tensor that holds its answer (as it is rounded), and that of its weights."""

    layer: Layer
    answer: str
    weights: str | None


@dataclass
class Reading:
    """What is known of a graph whose roundings are operators, after each of its operators.

    ``sources`` gives each activation as it was before it was rounded, ``rounded`` what such a one
    was rounded to first, and ``int8`` how those are stored that are INT8.
    """

    sources: dict[str, str] = field(default_factory=dict)
    rounded: dict[str, tuple[str, Codes]] = field(default_factory=dict)
    int8: dict[str, Codes] = field(default_factory=dict)
    operators: list[Operator] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def note_activations(self, tensors: Iterable[str]) -> None:
        """Take note of tensors that depend on the model's inputs."""
        self.sources.update((one, one) for one in tensors)

    def note_rounding(self, taken: str, answer: str, codes: Codes | None) -> None:
        """Take note that ``answer`` is ``taken``, rounded to ``codes`` or, if None, otherwise."""
        source = self.sources[answer] = self.sources[taken]
        if codes is not None:
            self.int8[answer] = codes
            self.rounded.setdefault(source, (answer, codes))

    def note_moved(self, taken: Iterable[str], answers: Iterable[str]) -> None:
        """Take note that ``answers`` are the codes of ``taken``, if all of these are INT8."""
        codes = [self.int8.get(one) for one in taken]
        if codes[0] is not None and None not in codes:
            self.int8.update(dict.fromkeys(answers, codes[0]))

    def note_output(self, tensor: str) -> None:
        """Take note of what the model answers with."""
        self.outputs.append(self.sources.get(tensor, tensor))

    def found(self) -> tuple[Found, ...]:
        """Return the layers of what was read."""
        layers = joined(self.operators, self.outputs)
        names = unique(first.name for first, _ in layers)
        return tuple(
            self._found(name, first, last)
            for name, (first, last) in zip(names, layers, strict=True)
        )

    def _found(self, name: str, first: Operator, last: Operator) -> Found:
        answer, codes = self.rounded.get(last.output, (last.output, None))
        layer = Layer(
            name=name,
            kind=first.kind,
            shape=last.shape,
            macs=first.macs,
            is_int8=first.is_int8,
            codes=codes,
        )
        return Found(layer=layer, answer=answer, weights=first.weights)


def kind_word(operator: str) -> str:
    """Return a kind for the type of an operator: ``ReduceMean`` gives ``reduce-mean``."""
    if operator in _WORDS:
        return _WORDS[operator]
    return "-".join(_WORD.findall(operator)).lower()


def batch_of(shapes: Iterable[Sequence[int]]) -> int:
    """Return how many inputs a model takes at once: the first side of its first input."""
    return max(1, next((shape[0] for shape in shapes if len(shape)), 1))


def unique(names: Iterable[str]) -> Iterator[str]:
    """Yield the names; a name that was there before gets a number."""
    seen: Counter[str] = Counter()
    for name in names:
        seen[name] += 1
        yield name if seen[name] == 1 else f"{name}#{seen[name]}"


def joined(
    operators: Sequence[Operator], outputs: Iterable[str]
) -> tuple[tuple[Operator, Operator], ...]:
    """Return each layer as its first and its last operator, in the order of the first ones.

    An operator joins the layer before it where nobody else takes that layer's answer.

    Args:
        operators: In the order in which they are computed.
        outputs: The tensors that the model answers with, before rounding.
    """
    takers = Counter(outputs)
    takers.update(tensor for one in operators for tensor in set(one.inputs))
    layers: list[tuple[Operator, Operator]] = []
    ends: dict[str, int] = {}
    for one in operators:
        before = one.inputs[0] if one.joins else ""
        number = ends.get(before)
        if number is not None and takers[before] == 1:
            layers[number] = (layers[number][0], one)
            ends[one.output] = number
            continue
        layers.append((one, one))
        if one.kind in WITH_MACS:
            ends[one.output] = len(layers) - 1
    return tuple(layers)
