"""Whether a model's weights are numbers: one that is not spreads to every answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import QuantizationError
from asdic.contract.files import read_bounded
from asdic.quantization.frontends.sizes import MODEL_LIMIT_BYTES
from asdic.quantization.frontends.torch import read_program
from asdic.quantization.kinds import FloatModel, SourceKind


def check_weights(model: FloatModel) -> None:
    """Check that no weight is NaN or infinite.

    Raises:
        QuantizationError: One is; the message names it.
        ConfigError: The model cannot be read.
    """
    for name, values in READERS[model.kind](model.path):
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            broken = int(values.size - np.isfinite(values).sum())
            raise QuantizationError(
                f"the weight {name!r} holds NaN or infinity in {broken} of {values.size} places; "
                "train the model again"
            )


def _of_program(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, tensor in read_program(path).state_dict.items():
        yield name, tensor.detach().float().numpy()


def _of_onnx(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    import onnx

    graph = onnx.load(path).graph
    for tensor in graph.initializer:
        yield tensor.name, onnx.numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield node.output[0], onnx.numpy_helper.to_array(attribute.t)


def _of_tflite(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromPackedBuf(read_bounded(path, MODEL_LIMIT_BYTES), 0)
    for tensor in model.subgraphs[0].tensors:
        data = model.buffers[tensor.buffer].data
        if tensor.type == schema.TensorType.FLOAT32 and data is not None:
            yield tensor.name.decode(), np.asarray(data, np.uint8).view(np.float32)


READERS: Final = MappingProxyType(
    {
        SourceKind.PROGRAM: _of_program,
        SourceKind.ONNX: _of_onnx,
        SourceKind.TFLITE: _of_tflite,
    }
)
"""What yields the names and values of the weights of each kind of file."""
