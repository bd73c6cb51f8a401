"""Float TFLite files: one signature with the names that the model's author chose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from asdic.contract.errors import ConfigError, MissingPackageError, UnsupportedModelError
from asdic.contract.files import read_bounded, write_file
from asdic.contract.variant import TensorSpec
from asdic.quantization.frontends.found import Found
from asdic.quantization.frontends.shapes import Shapes, check_names, fixed_shape
from asdic.quantization.kinds import SourceKind

FILE: Final = "model.tflite"
SIGNATURE: Final = "serving_default"
MODEL_LIMIT_BYTES: Final = 2 << 30


def from_tflite(path: Path, folder: Path, shapes: Shapes) -> Found:
    """Read a float ``.tflite`` and write it into ``folder`` with fixed shapes and a signature.

    Raises:
        ConfigError: It is damaged, or no TFLite file.
        UnsupportedModelError: It is quantized already, an input is no float tensor, or it leaves
            open more than its batch.
    """
    interpreter = _interpreter(path)
    inputs, outputs = _details(interpreter)
    _check_float(path, interpreter, {**inputs, **outputs})
    names = list(inputs)
    check_names(shapes, names)
    notes = []
    for name, item in inputs.items():
        stated = [int(side) if side > 0 else None for side in _signature(item)]
        shape, note = fixed_shape(name, stated, shapes, only=len(names) == 1)
        notes.append(note)
        interpreter.resize_tensor_input(item["index"], shape)
    interpreter.allocate_tensors()
    write_file(folder / FILE, _with_signature(path, interpreter, inputs, outputs))
    found_inputs, found_outputs = _details(interpreter)
    return Found(
        kind=SourceKind.TFLITE,
        files=(FILE,),
        inputs=_specs(inputs, found_inputs),
        outputs=_specs(outputs, found_outputs),
        layout="nhwc",
        notes=tuple(note for note in notes if note),
    )


def _interpreter(path: Path) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise MissingPackageError("ai-edge-litert", "litert") from error
    try:
        return Interpreter(model_content=read_bounded(path, MODEL_LIMIT_BYTES))
    except (ValueError, RuntimeError) as error:
        raise ConfigError(f"{path} is not a TFLite model") from error


def _details(interpreter: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the inputs' and outputs' details by name: the signature's, or else the tensors'."""
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        return dict(runner.get_input_details()), dict(runner.get_output_details())
    return (
        {item["name"]: item for item in interpreter.get_input_details()},
        {item["name"]: item for item in interpreter.get_output_details()},
    )


def _signature(item: Mapping[str, Any]) -> Any:
    return item.get("shape_signature", item["shape"])


def _check_float(path: Path, interpreter: Any, tensors: Mapping[str, Any]) -> None:
    for name, item in tensors.items():
        if item["dtype"] != np.float32:
            raise UnsupportedModelError(
                f"{path}: {name!r} is {np.dtype(item['dtype']).name}; asdic quantizes float models "
                "that take and give float32"
            )
    scaled = [item for item in interpreter.get_tensor_details() if item["dtype"] == np.int8]
    if scaled:
        raise UnsupportedModelError(f"{path} is quantized already; give the float model")


def _specs(named: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, shape=tuple(int(side) for side in found[name]["shape"]))
        for name in named
    )


def _with_signature(
    path: Path, interpreter: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any]
) -> bytes:
    """Return the file with the interpreter's shapes, and its names as the only signature."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromPackedBuf(read_bounded(path, MODEL_LIMIT_BYTES), 0)
    graph = model.subgraphs[0]
    shapes = {item["index"]: item["shape"] for item in interpreter.get_tensor_details()}
    for index, tensor in enumerate(graph.tensors):
        if index in shapes and tensor.shape is not None and len(tensor.shape):
            tensor.shape = np.asarray(shapes[index], np.int32)
            tensor.shapeSignature = None
    signature = schema.SignatureDefT()
    signature.signatureKey = SIGNATURE
    signature.subgraphIndex = 0
    signature.inputs = [_entry(schema, name, item) for name, item in inputs.items()]
    signature.outputs = [_entry(schema, name, item) for name, item in outputs.items()]
    model.signatureDefs = [signature]
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _entry(schema: Any, name: str, item: Mapping[str, Any]) -> Any:
    entry = schema.TensorMapT()
    entry.name = name
    entry.tensorIndex = int(item["index"])
    return entry
