"""Float models for OpenVINO."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from asdic.contract.errors import MissingPackageError
from asdic.quantization.backends.backend import FloatFiles, unsupported
from asdic.quantization.frontends.torch import read_program
from asdic.quantization.kinds import FloatModel

FILES: Final = ("float.xml", "float.bin")


def of_program(model: FloatModel, folder: Path) -> FloatFiles:
    """Write ``float.xml/.bin`` from an exported program."""
    try:
        import openvino
    except ImportError as error:
        raise MissingPackageError("openvino", "quantize") from error
    graph = _converted(openvino, model)
    openvino.save_model(graph, folder / FILES[0], compress_to_fp16=False)
    return FloatFiles.described(model.description, files=FILES)


def _converted(openvino: Any, model: FloatModel) -> Any:
    program = read_program(model.path)
    try:
        graph = openvino.convert_model(program)
    except Exception as error:
        raise unsupported(error, converter="OpenVINO") from error
    graph.set_friendly_name(model.name)
    shapes = {}
    for port, spec in zip(graph.inputs, model.description.inputs, strict=True):
        port.get_tensor().set_names({spec.name})
        shapes[spec.name] = openvino.PartialShape(spec.shape)
    for port, spec in zip(graph.outputs, model.description.outputs, strict=True):
        port.get_tensor().set_names({spec.name})
    graph.reshape(shapes)
    return graph
