"""INT8 for TensorRT on a Jetson: an ONNX graph with explicit QDQ nodes.

TensorRT's rules, each checked after the fact: every zero point is 0, and biases stay float (its
parser rejects ONNX Runtime's int32 DequantizeLinear). The graph has not run on an Orin: here it
is judged in simulation, and read by TensorRT-RTX's parser where that is installed, which is a
relative of the one on a Jetson and not the same.
"""

from __future__ import annotations

import importlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from asdic.contract.errors import MissingPackageError, QuantizationError
from asdic.contract.files import write_file
from asdic.quantization.backends.backend import (
    FloatFiles,
    QuantizedFiles,
    Tensors,
    int8_share,
    strip_onnx,
)
from asdic.quantization.recipe import Recipe

FILE: Final = "model.onnx"
_LAYERS: Final = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_QDQ: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
_WEIGHT_AT_LEAST: Final = 16  # elements; smaller constants are shapes and scalars


def quantize(
    model: FloatFiles, source: Path, calibration: Sequence[Tensors], recipe: Recipe, folder: Path
) -> QuantizedFiles:
    """Write ``model.onnx``."""
    quantized = _quantized(source / model.files[0], model.laid_out(calibration), recipe)
    check_graph(quantized)
    write_file(folder / FILE, quantized.SerializeToString(deterministic=True))
    return QuantizedFiles(files=(FILE,), int8_share=int8_share(_weights(quantized)))


def check_graph(graph: Any) -> None:
    """Check an ONNX model against TensorRT's rules for QDQ graphs.

    Raises:
        QuantizationError: There is no QDQ node, a zero point is not 0, or a bias is quantized.
    """
    constants = {one.name: one for one in graph.graph.initializer}
    nodes = [
        node for node in graph.graph.node if node.op_type in {"QuantizeLinear", "DequantizeLinear"}
    ]
    if not nodes:
        raise QuantizationError("the graph holds no QDQ node: nothing in it is INT8")
    for node in nodes:
        _check_node(node, constants)


def parse_with_rtx(path: Path) -> list[str] | None:
    """Return what TensorRT-RTX's parser has against an ONNX file (nothing: it accepts it).

    None where the wheel ``tensorrt-rtx`` is not installed. No GPU is needed to parse.
    """
    try:
        rtx: Any = importlib.import_module("tensorrt_rtx")
    except ImportError:
        return None
    logger = rtx.Logger(rtx.Logger.ERROR)
    network = rtx.Builder(logger).create_network(0)
    parser = rtx.OnnxParser(network, logger)
    if parser.parse(path.read_bytes()):
        return []
    errors = [parser.get_error(number) for number in range(parser.num_errors)]
    return [f"{one.node_operator()} {one.node_name()}: {one.desc()}" for one in errors] or [
        "refused without a reason"
    ]


def _quantized(path: Path, calibration: Sequence[Tensors], recipe: Recipe) -> Any:
    try:
        import onnx
        from onnxruntime import quantization as tools
    except ImportError as error:
        raise MissingPackageError(error.name or "onnxruntime", "quantize") from error

    class Reader(tools.CalibrationDataReader):  # type: ignore[misc]
        """The calibration inputs, one at a time, as ONNX Runtime wants them."""

        def __init__(self) -> None:
            self._left = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            """Return the next set of inputs, or None at the end."""
            found = next(self._left, None)
            return None if found is None else dict(found)

    layers = list(_LAYERS) if "layers" in recipe.options else None
    options: dict[str, Any] = {
        "ActivationSymmetric": True,
        "WeightSymmetric": True,
        "QuantizeBias": False,
        "CalibMovingAverage": recipe.range == "average",
    }
    if layers:
        options["OpTypesToExcludeOutputQuantization"] = layers
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / FILE
        try:
            tools.quantize_static(
                str(path),
                str(result),
                Reader(),
                quant_format=tools.QuantFormat.QDQ,
                op_types_to_quantize=layers,
                per_channel=True,
                activation_type=tools.QuantType.QInt8,
                weight_type=tools.QuantType.QInt8,
                calibrate_method=tools.CalibrationMethod.MinMax,
                extra_options=options,
            )
        except Exception as error:
            raise QuantizationError(f"ONNX Runtime's quantizer failed: {error}") from error
        graph = onnx.load(result)
    strip_onnx(graph, graph.graph.name)
    return graph


def _check_node(node: Any, constants: dict[str, Any]) -> None:
    from onnx import TensorProto, numpy_helper

    first = constants.get(node.input[0])
    if first is not None and first.data_type == TensorProto.INT32:
        raise QuantizationError(f"{node.name} holds an int32 bias, which TensorRT refuses")
    if len(node.input) < 3:
        return
    zero_point = constants.get(node.input[2])
    if zero_point is None or np.any(numpy_helper.to_array(zero_point)):
        raise QuantizationError(f"{node.name} has a zero point that is not 0; TensorRT refuses it")
    if zero_point.data_type != TensorProto.INT8:
        raise QuantizationError(f"{node.name} is not signed INT8, which TensorRT would misread")


def _weights(graph: Any) -> Iterator[tuple[int, bool]]:
    from onnx import TensorProto

    kinds = {TensorProto.FLOAT: False, TensorProto.INT8: True}
    parameters = {
        name for node in graph.graph.node if node.op_type in _QDQ for name in node.input[1:]
    }
    for one in graph.graph.initializer:
        count = math.prod(one.dims)
        if one.name not in parameters and one.data_type in kinds and count >= _WEIGHT_AT_LEAST:
            yield count, kinds[one.data_type]
