"""What a model file holds: its layers, how much of each is INT8, and what each one answers.

The float file and the INT8 file of one model are looked into alike, so that layers pair by their
names: the tools keep them. Nothing here uses this processor's INT8 kernels: an INT8 file is
computed as it is meant, so that its layers say what quantization did, not what saturation did.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, QuantizationError
from asdic.contract.target import ModelFormat

Tensors: TypeAlias = Mapping[str, NDArray[np.float32]]

ANSWERS_LIMIT_BYTES: Final = 4 << 30
"""What all layers of a model may answer to one input, in float32. More is refused."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Codes:
    """How an INT8 tensor stands for real values: ``real = (code - zero_point) * scale``.

    ``scale`` (float64, above 0) and ``zero_point`` (float64) have the shape () or, with a scale
    for each channel, one that broadcasts to the tensor's. Codes go from ``low`` to ``high``. A
    zero point is whole but in OpenVINO, which may place zero between two codes.
    """

    scale: NDArray[np.float64]
    zero_point: NDArray[np.float64]
    low: int
    high: int

    @property
    def count(self) -> int:
        """How many codes there are: 256 with 8 bits."""
        return self.high - self.low + 1

    def of(self, values: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return the codes of real values, those beyond the ends at the ends."""
        codes = np.rint(values / self.scale + self.zero_point)
        return np.clip(codes, self.low, self.high).astype(np.int64)

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the smallest and the largest real value that there is a code for."""
        ends = (np.float64(end) - self.zero_point for end in (self.low, self.high))
        low, high = (np.asarray(end * self.scale) for end in ends)
        return low, high


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One operator of a model, together with the bias and the activation function behind it.

    Attributes:
        name: The operator's own; unique in the file, and the same in the float and the INT8 file.
        kind: What it does: ``conv``, ``depthwise-conv``, ``transposed-conv``, ``linear``,
            ``matmul``, ``add``, ``concat``, and else its type in kebab case.
        shape: Of its (first) answer.
        macs: Multiply-accumulates for one input (batch 1); 0 for a kind that has none. With E
            elements in the answer, e in the input, O output and I input channels, G groups and a
            kernel of k elements: ``conv`` E * I/G * k, ``depthwise-conv`` E * k,
            ``transposed-conv`` e * O/G * k, ``linear`` and ``matmul`` E * the length of the axis
            that is summed over.
        is_int8: Everything it takes is INT8: its activations, and its weights if it has any.
        codes: How its answer is stored; None where it stays float.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    macs: int = 0
    is_int8: bool = False
    codes: Codes | None = None


class Graph(Protocol):
    """An open model file. Not for use by two threads at once.

    Attributes:
        layers: In the order in which they are computed. What only reshapes constants is left out.
    """

    layers: tuple[Layer, ...]

    def run(self, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
        """Return what every layer answers to one set of the model's inputs, by layer.

        Codes are returned as the real values that they stand for. What is returned is all that
        is kept of it: at most ``ANSWERS_LIMIT_BYTES``.

        Args:
            tensors: By the names, and in the shapes, of the file's own inputs; float32.
        """

    def weights(self, layer: str) -> NDArray[np.float32] | None:
        """Return a layer's weights as real values in the file's layout; None if it has none."""

    def close(self) -> None:
        """Free the model. The graph is not used after that."""


GRAPHS: Final = MappingProxyType(
    {
        ModelFormat.TFLITE: "asdic.quantization.graphs.litert:LiteRtGraph",
        ModelFormat.OPENVINO_IR: "asdic.quantization.graphs.openvino:OpenVinoGraph",
        ModelFormat.ONNX_QDQ: "asdic.quantization.graphs.onnx:OnnxGraph",
    }
)


@contextmanager
def open_graph(model_format: ModelFormat, files: Sequence[Path]) -> Iterator[Graph]:
    """Yield the model in ``files``, float or INT8, open to be looked into; then it is freed.

    Args:
        model_format: How it is stored.
        files: The file that a runtime opens first comes first.

    Raises:
        ConfigError: A file is missing.
        MissingPackageError: The format's runtime is not installed.
        QuantizationError: The file is damaged, leaves shapes open, or its layers answer too much.
    """
    for file in files:
        if not file.is_file():
            raise ConfigError(f"model file {file} does not exist")
    graph: Graph
    with closing(resolve_name(GRAPHS[model_format])(files[0])) as graph:
        check_size(files[0], graph.layers)
        yield graph


def int8_share(layers: Iterable[Layer]) -> float:
    """Return the share of the multiply-accumulates that are INT8, 0 to 1; 0 without any."""
    counted = [(layer.macs, layer.is_int8) for layer in layers]
    total = sum(macs for macs, _ in counted)
    return sum(macs for macs, is_int8 in counted if is_int8) / total if total else 0.0


def check_size(path: Path, layers: Iterable[Layer]) -> None:
    """Raise if the answers of all layers together would not fit in memory.

    Raises:
        QuantizationError: They are more than ``ANSWERS_LIMIT_BYTES``.
    """
    needed = sum(4 * int(np.prod(layer.shape, dtype=np.int64)) for layer in layers)
    if needed > ANSWERS_LIMIT_BYTES:
        raise QuantizationError(
            f"the layers of {path} answer {needed >> 20} MiB to one input, at most "
            f"{ANSWERS_LIMIT_BYTES >> 20} MiB are looked at; give the model a smaller input"
        )
