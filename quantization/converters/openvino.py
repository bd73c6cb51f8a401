"""Float models for OpenVINO."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from asdic.contract.errors import MissingPackageError
from asdic.quantization.backends.backend import FloatFiles
from asdic.quantization.frontends.tflite import tensor_names
from asdic.quantization.frontends.torch import program_of
from asdic.quantization.kinds import FloatModel, SourceKind
from asdic.quantization.refusal import unsupported

FILES: Final = ("float.xml", "float.bin")


def of_program(model: FloatModel, folder: Path) -> FloatFiles:
    """Write ``float.xml/.bin`` from an exported program."""
    openvino = _openvino()
    program = program_of(model.path, model.description.inputs)
    try:
        with _root_logger_as_it_was():
            graph = openvino.convert_model(program)
    except Exception as error:
        raise unsupported(error, converter="OpenVINO", program=program) from error
    return _written(model, graph, (graph.inputs, graph.outputs), folder)


def of_onnx(model: FloatModel, folder: Path) -> FloatFiles:
    """Write ``float.xml/.bin`` from an ONNX file."""
    openvino = _openvino()
    graph = _read(openvino, model)
    return _written(model, graph, (graph.inputs, graph.outputs), folder)


def of_tflite(model: FloatModel, folder: Path) -> FloatFiles:
    """Write ``float.xml/.bin`` from a TFLite file."""
    openvino = _openvino()
    graph = _read(openvino, model)
    names = tensor_names(model.path)
    inputs = [graph.input(name) for name in names[0]]
    outputs = [graph.output(name) for name in names[1]]
    return _written(model, graph, (inputs, outputs), folder)


def _read(openvino: Any, model: FloatModel) -> Any:
    try:
        with _root_logger_as_it_was():
            return openvino.convert_model(str(model.path))
    except Exception as error:
        raise unsupported(error, converter="OpenVINO", graph=_onnx_graph(model)) from error


@contextmanager
def _root_logger_as_it_was() -> Iterator[None]:
    """Undo what OpenVINO does to everybody's root logger; it does so itself only on success."""
    root = logging.getLogger()
    level, filters, handlers = root.level, [*root.filters], [*root.handlers]
    try:
        yield
    finally:
        root.setLevel(level)
        root.filters, root.handlers = filters, handlers


def _onnx_graph(model: FloatModel) -> Any:
    if model.kind is not SourceKind.ONNX:
        return None
    import onnx

    return onnx.load(model.path, load_external_data=False).graph


def _written(
    model: FloatModel, graph: Any, ports: tuple[Sequence[Any], Sequence[Any]], folder: Path
) -> FloatFiles:
    """Write the graph with the names and shapes of the description.

    ``ports`` are the graph's inputs and outputs in the description's order.
    """
    openvino = _openvino()
    inputs, outputs = ports
    graph.set_friendly_name(model.name)
    shapes = {}
    for port, spec in zip(inputs, model.description.inputs, strict=True):
        port.get_tensor().set_names({spec.name})
        shapes[spec.name] = openvino.PartialShape(spec.shape)
    for port, spec in zip(outputs, model.description.outputs, strict=True):
        port.get_tensor().set_names({spec.name})
    graph.reshape(shapes)
    openvino.save_model(graph, folder / FILES[0], compress_to_fp16=False)
    return FloatFiles.described(model.description, files=FILES)


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise MissingPackageError("openvino", "quantize") from error
    return openvino
