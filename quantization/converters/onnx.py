"""Float models as ONNX."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path
from typing import Final

from asdic.contract.errors import MissingPackageError, QuantizationError
from asdic.contract.files import write_file
from asdic.quantization.backends.backend import FloatFiles, strip_onnx, unsupported
from asdic.quantization.frontends.torch import read_program
from asdic.quantization.kinds import FloatModel

FILE: Final = "float.onnx"
OPSET: Final = 18


def of_program(model: FloatModel, folder: Path) -> FloatFiles:
    """Write ``float.onnx`` from an exported program."""
    write_file(folder / FILE, _exported(model))
    return FloatFiles.described(model.description, files=(FILE,))


def _exported(model: FloatModel) -> bytes:
    try:
        importlib.import_module("onnxscript")  # torch's exporter needs it and says so less clearly
        import torch
    except ImportError as error:
        raise MissingPackageError(error.name or "onnxscript", "quantize") from error
    program = read_program(model.path)
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
        raise unsupported(error, converter="torch's ONNX exporter") from error
    if exported is None:
        raise QuantizationError("torch exported no ONNX model")
    graph = exported.model_proto
    found = {one.version for one in graph.opset_import if one.domain in {"", "ai.onnx"}}
    if found != {OPSET}:
        raise QuantizationError(f"torch exported ONNX opset {sorted(found)}, {OPSET} was asked for")
    strip_onnx(graph, model.name)
    data: bytes = graph.SerializeToString(deterministic=True)
    return data
