"""Float TFLite files: one signature with the names that the model's author chose."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, MissingPackageError, UnsupportedModelError
from asdic.contract.files import read_bounded, write_file
from asdic.contract.variant import TensorSpec
from asdic.quantization.frontends.found import Found
from asdic.quantization.frontends.shapes import Shapes, check_names, fixed_shape
from asdic.quantization.frontends.sizes import MODEL_LIMIT_BYTES
from asdic.quantization.kinds import SourceKind
from asdic.training.description import ModelDescription

FILE: Final = "model.tflite"
SIGNATURE: Final = "serving_default"


def from_tflite(path: Path, folder: Path, shapes: Shapes) -> Found:
    """Read a float ``.tflite`` and write it into ``folder`` with fixed shapes and a signature.

    Raises:
        ConfigError: It is damaged, or no TFLite file.
        UnsupportedModelError: It is quantized already, an input is no float tensor, or it leaves
            open more than its batch.
    """
    interpreter = _interpreter(path)
    inputs, outputs = _details(interpreter)
    _check_float(path, {**inputs, **outputs})
    names = list(inputs)
    check_names(shapes, names)
    notes = []
    for name, item in inputs.items():
        stated = [int(side) if side > 0 else None for side in _signature(item)]
        shape, note = fixed_shape(name, stated, shapes, only=len(names) == 1)
        notes.append(note)
        interpreter.resize_tensor_input(item["index"], shape)
    interpreter.allocate_tensors()
    content, stored = _with_signature(path, interpreter, inputs, outputs)
    write_file(folder / FILE, content)
    if stored:
        notes.append(
            f"{stored} weight(s) were stored as integers or in half precision; they are taken as "
            "the numbers that these stand for"
        )
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


def _check_float(path: Path, tensors: Mapping[str, Any]) -> None:
    for name, item in tensors.items():
        if item["dtype"] != np.float32:
            raise UnsupportedModelError(
                f"{path}: {name!r} is {np.dtype(item['dtype']).name}; asdic quantizes float models "
                "that take and give float32"
            )


def _specs(named: Mapping[str, Any], found: Mapping[str, Any]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, shape=tuple(int(side) for side in found[name]["shape"]))
        for name in named
    )


def _with_signature(
    path: Path, interpreter: Any, inputs: Mapping[str, Any], outputs: Mapping[str, Any]
) -> tuple[bytes, int]:
    """Return the file with the interpreter's shapes, and its names as the only signature.

    Weights that are stored as integers become float; the second value counts them.
    """
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromPackedBuf(read_bounded(path, MODEL_LIMIT_BYTES), 0)
    if len(model.subgraphs) != 1:
        raise UnsupportedModelError(
            f"{path} has {len(model.subgraphs)} subgraphs (control flow); asdic quantizes one"
        )
    graph = model.subgraphs[0]
    shapes = {item["index"]: item["shape"] for item in interpreter.get_tensor_details()}
    for index, tensor in enumerate(graph.tensors):
        if index in shapes and tensor.shape is not None and len(tensor.shape):
            tensor.shape = np.asarray(shapes[index], np.int32)
            tensor.shapeSignature = None
    stored = _floats(schema, model, path)
    signature = schema.SignatureDefT()
    signature.signatureKey = SIGNATURE
    signature.subgraphIndex = 0
    signature.inputs = [_entry(schema, name, item) for name, item in inputs.items()]
    signature.outputs = [_entry(schema, name, item) for name, item in outputs.items()]
    model.signatureDefs = [signature]
    return _packed(model), stored


def _floats(schema: Any, model: Any, path: Path) -> int:
    """Turn INT8 and half-precision weights into the float ones meant, and return how many.

    A file with such weights and float activations computes in float on most devices, or rounds
    its activations anew for every input; either way the weights are what was meant.
    """
    graph, stored = model.subgraphs[0], 0
    for tensor in graph.tensors:
        if tensor.type not in {schema.TensorType.INT8, schema.TensorType.FLOAT16}:
            continue
        buffer = model.buffers[tensor.buffer]
        if buffer.data is None:
            raise UnsupportedModelError(f"{path} is quantized already; give the float model")
        values = _real(np.asarray(buffer.data, np.uint8), tensor, schema, path)
        tensor.buffer = len(model.buffers)  # another tensor may share the old one
        model.buffers.append(schema.BufferT())
        model.buffers[-1].data = np.frombuffer(values.tobytes(), np.uint8)
        tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None
        stored += 1
    _drop_dequantize(schema, model)
    return stored


def _drop_dequantize(schema: Any, model: Any) -> None:
    """Leave out what made weights float, now that they are."""
    graph = model.subgraphs[0]
    codes = [max(one.builtinCode, one.deprecatedBuiltinCode) for one in model.operatorCodes]
    kept = []
    for operator in graph.operators:
        if codes[operator.opcodeIndex] == schema.BuiltinOperator.DEQUANTIZE:
            source = graph.tensors[operator.inputs[0]].buffer
            if model.buffers[source].data is not None:
                graph.tensors[operator.outputs[0]].buffer = source
                continue
        kept.append(operator)
    graph.operators = kept


def _real(data: NDArray[np.uint8], tensor: Any, schema: Any, path: Path) -> NDArray[np.float32]:
    if tensor.type == schema.TensorType.FLOAT16:
        return data.view(np.float16).astype(np.float32)
    rule = tensor.quantization
    if rule is None or rule.scale is None:
        raise UnsupportedModelError(f"{path} is quantized already; give the float model")
    sides = [1] * len(tensor.shape)
    if len(rule.scale) > 1:
        sides[rule.quantizedDimension] = len(rule.scale)
    scale = np.asarray(rule.scale, np.float32).reshape(sides)
    zero = np.asarray(rule.zeroPoint, np.float32).reshape(sides)
    stored = data.view(np.int8).reshape(tensor.shape)
    return np.asarray((stored - zero) * scale, np.float32)


def named_signature(path: Path, description: ModelDescription) -> bytes:
    """Return the file that ``from_tflite`` wrote, with the names of ``description``, in order."""
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromPackedBuf(read_bounded(path, MODEL_LIMIT_BYTES), 0)
    signature = model.signatureDefs[0]
    for entry, spec in zip(signature.inputs, description.inputs, strict=True):
        entry.name = spec.name
    for entry, spec in zip(signature.outputs, description.outputs, strict=True):
        entry.name = spec.name
    return _packed(model)


def renamed(content: bytes, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> bytes:
    """Return a TFLite file with other names for its signature's inputs and outputs."""
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromPackedBuf(content, 0)
    signature = model.signatureDefs[0]
    for entries, names in ((signature.inputs, inputs), (signature.outputs, outputs)):
        for entry in entries:
            entry.name = names[entry.name.decode()]
    return _packed(model)


def tensor_names(path: Path) -> tuple[list[str], list[str]]:
    """Return the names of the input and output tensors themselves, in the signature's order."""
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromPackedBuf(read_bounded(path, MODEL_LIMIT_BYTES), 0)
    tensors, signature = model.subgraphs[0].tensors, model.signatureDefs[0]
    return (
        [tensors[entry.tensorIndex].name.decode() for entry in signature.inputs],
        [tensors[entry.tensorIndex].name.decode() for entry in signature.outputs],
    )


def _packed(model: Any) -> bytes:
    import flatbuffers

    for code in model.operatorCodes:  # files of before 2020 have the old field alone
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _entry(schema: Any, name: str, item: Mapping[str, Any]) -> Any:
    entry = schema.TensorMapT()
    entry.name = name
    entry.tensorIndex = int(item["index"])
    return entry
