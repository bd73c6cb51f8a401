"""Float models as ONNX."""

from __future__ import annotations

import importlib
import tempfile
import warnings
from pathlib import Path
from typing import Any, Final

from asdic.contract.errors import MissingPackageError, QuantizationError
from asdic.contract.files import write_file
from asdic.quantization.backends.backend import FloatFiles, strip_onnx
from asdic.quantization.frontends.tflite import tensor_names
from asdic.quantization.frontends.torch import program_of
from asdic.quantization.kinds import FloatModel
from asdic.quantization.refusal import unsupported
from asdic.training.description import ModelDescription

FILE: Final = "float.onnx"
OPSET: Final = 18


def of_program(model: FloatModel, folder: Path) -> FloatFiles:
    """Write ``float.onnx`` from an exported program."""
    write_file(folder / FILE, _exported(model))
    return FloatFiles.described(model.description, files=(FILE,))


def of_onnx(model: FloatModel, folder: Path) -> FloatFiles:
    """Write ``float.onnx`` from an ONNX file: batch normalization folded, constants computed."""
    write_file(folder / FILE, simplified(model.path, model))
    return FloatFiles.described(model.description, files=(FILE,))


def of_tflite(model: FloatModel, folder: Path) -> FloatFiles:
    """Write ``float.onnx`` from a TFLite file, by tf2onnx."""
    try:
        from tf2onnx.convert import from_tflite
    except ImportError as error:
        raise MissingPackageError("tf2onnx", "keras") from error
    inputs, outputs = tensor_names(model.path)
    converted = folder / "converted.onnx"
    try:
        graph, _ = from_tflite(
            str(model.path), opset=OPSET, input_names=inputs, output_names=outputs
        )
    except Exception as error:
        raise unsupported(error, converter="tf2onnx") from error
    write_file(converted, graph.SerializeToString(deterministic=True))
    write_file(folder / FILE, simplified(converted, model))
    return FloatFiles.described(model.description, files=(FILE,))


def simplified(path: Path, model: FloatModel) -> bytes:
    """Return an ONNX file after ONNX Runtime's basic optimizations, with the description's names.

    They fold batch normalization into convolutions, which quantizes better, and add no operator
    of ONNX Runtime's own.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise MissingPackageError(error.name or "onnxruntime", "quantize") from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / FILE
        options.optimized_model_filepath = str(target)
        try:
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise unsupported(error, converter="ONNX Runtime") from error
        graph = onnx.load(target)
    _rename(onnx, graph, model.description)
    strip_onnx(graph, model.name)
    data: bytes = graph.SerializeToString(deterministic=True)
    return data


def _rename(onnx: Any, graph: Any, description: ModelDescription) -> None:
    """Give inputs and outputs, which are in the description's order, its names and shapes."""
    new = {}
    for values, specs in (
        (graph.graph.input, description.inputs),
        (graph.graph.output, description.outputs),
    ):
        for value, spec in zip(values, specs, strict=True):
            new[value.name] = spec.name
            value.CopyFrom(
                onnx.helper.make_tensor_value_info(spec.name, onnx.TensorProto.FLOAT, spec.shape)
            )
    for node in graph.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = new.get(name, name)


def _exported(model: FloatModel) -> bytes:
    try:
        importlib.import_module("onnxscript")  # torch's exporter needs it and says so less clearly
        import torch
    except ImportError as error:
        raise MissingPackageError(error.name or "onnxscript", "quantize") from error
    program = program_of(model.path, model.description.inputs)
    examples = tuple(torch.zeros(spec.shape) for spec in model.description.inputs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                program,
                examples,
                dynamo=True,
                opset_version=OPSET,
                input_names=[spec.name for spec in model.description.inputs],
                output_names=[spec.name for spec in model.description.outputs],
                optimize=True,
                verbose=False,
            )
    except Exception as error:
        raise unsupported(error, converter="torch's ONNX exporter", program=program) from error
    if exported is None:
        raise QuantizationError("torch exported no ONNX model")
    graph = exported.model_proto
    found = {one.version for one in graph.opset_import if one.domain in {"", "ai.onnx"}}
    if found != {OPSET}:
        raise QuantizationError(f"torch exported ONNX opset {sorted(found)}, {OPSET} was asked for")
    strip_onnx(graph, model.name)
    data: bytes = graph.SerializeToString(deterministic=True)
    return data
