"""ONNX files: shapes made fixed, weights inside, ready for every converter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from asdic.contract.errors import ConfigError, MissingPackageError, UnsupportedModelError
from asdic.contract.variant import TensorSpec
from asdic.quantization.frontends.found import Found
from asdic.quantization.frontends.onnx_weights import float_weights
from asdic.quantization.frontends.shapes import Dimension, Shapes, check_names, fixed_shape
from asdic.quantization.frontends.sizes import MODEL_LIMIT_BYTES, check_size
from asdic.quantization.kinds import SourceKind
from asdic.quantization.refusal import first_line, unsupported

FILE: Final = "model.onnx"
OPSET_AT_LEAST: Final = 13
"""Quantization per channel needs it (onnx.ai, DequantizeLinear)."""

_OPSET: Final = 18


def from_onnx(path: Path, folder: Path, shapes: Shapes) -> Found:
    """Read an ONNX file and write it into ``folder`` with fixed shapes and its weights inside.

    Raises:
        ConfigError: It is damaged, too large, or points to files out of its folder.
        UnsupportedModelError: An input is no float tensor, or leaves open more than its batch.
    """
    onnx = _onnx()
    model = _loaded(onnx, path)
    if _opset(model) < OPSET_AT_LEAST:
        model = _converted(onnx, model, path)
    stored = float_weights(onnx, model, path)
    notes = _fix_inputs(onnx, model, shapes, path) + stored
    inputs = tuple(_spec(value) for value in _inputs(model))
    _fix_outputs(onnx, model, inputs, path)
    onnx.save(model, folder / FILE)
    return Found(
        kind=SourceKind.ONNX,
        files=(FILE,),
        inputs=inputs,
        outputs=tuple(_spec(value) for value in model.graph.output),
        layout="nchw",
        notes=notes,
    )


def _loaded(onnx: Any, path: Path) -> Any:
    check_size(path)
    try:
        model = onnx.load(path, load_external_data=False)
        _check_external(onnx, model, path)
        onnx.load_external_data_for_model(model, str(path.parent))
        onnx.checker.check_model(model)
    except (ConfigError, UnsupportedModelError):
        raise
    except Exception as error:  # protobuf's and ONNX's own, whatever the bytes are
        if "No Op registered" in str(error):
            raise unsupported(error, converter="ONNX", graph=model.graph) from error
        raise ConfigError(f"{path} is not an ONNX model: {first_line(error)}") from error
    return model


def _check_external(onnx: Any, model: Any, path: Path) -> None:
    """Refuse weights in files that do not lie beside the model."""
    total = path.stat().st_size
    files = set()
    for tensor in onnx.external_data_helper._get_all_tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = next((one.value for one in tensor.external_data if one.key == "location"), "")
        place = PurePosixPath(location)
        if not location or place.is_absolute() or ".." in place.parts:
            raise ConfigError(
                f"{path}: the weight {tensor.name!r} is in {location!r}, out of the model's folder"
            )
        if not (path.parent / place).is_file():
            raise ConfigError(f"{path}: the file {location!r} with {tensor.name!r} is missing")
        files.add(path.parent / place)
    total += sum(file.stat().st_size for file in files)
    if total > MODEL_LIMIT_BYTES:
        raise ConfigError(f"{path} is larger than the {MODEL_LIMIT_BYTES} bytes allowed for it")


def _opset(model: Any) -> int:
    return max(int(one.version) for one in model.opset_import if one.domain in {"", "ai.onnx"})


def _converted(onnx: Any, model: Any, path: Path) -> Any:
    try:
        return onnx.version_converter.convert_version(model, _OPSET)
    except Exception as error:
        raise UnsupportedModelError(
            f"{path} has opset {_opset(model)} and cannot be brought to {_OPSET}: "
            f"{first_line(error)}; export it with opset {_OPSET}"
        ) from error


def _inputs(model: Any) -> list[Any]:
    """Return the inputs that a caller gives: before IR version 4 weights were inputs as well."""
    weights = {one.name for one in model.graph.initializer}
    return [one for one in model.graph.input if one.name not in weights]


def _fix_inputs(onnx: Any, model: Any, shapes: Shapes, path: Path) -> tuple[str, ...]:
    given = _inputs(model)
    del model.graph.input[:]
    model.graph.input.extend(given)
    inputs = list(model.graph.input)
    names = [one.name for one in inputs]
    check_names(shapes, names)
    notes = []
    for value in inputs:
        tensor = value.type.tensor_type
        if tensor.elem_type != onnx.TensorProto.FLOAT:
            kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
            raise UnsupportedModelError(
                f"{path}: the input {value.name!r} is {kind}; asdic quantizes models that take "
                "float32"
            )
        shape, note = fixed_shape(value.name, _sides(tensor.shape), shapes, only=len(names) == 1)
        notes.append(note)
        del tensor.shape.dim[:]
        for side in shape:
            tensor.shape.dim.add().dim_value = side
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")
    return tuple(note for note in notes if note)


def _sides(shape: Any) -> Sequence[Dimension]:
    return [_side(one) for one in shape.dim]


def _side(dimension: Any) -> Dimension:
    if dimension.HasField("dim_value") and dimension.dim_value > 0:
        return int(dimension.dim_value)
    return dimension.dim_param or None


def _spec(value: Any) -> TensorSpec:
    sides = tuple(int(one.dim_value) for one in value.type.tensor_type.shape.dim)
    return TensorSpec(name=value.name, shape=sides)


def _fix_outputs(onnx: Any, model: Any, inputs: Sequence[TensorSpec], path: Path) -> None:
    """Give the outputs the shapes that they have, by asking the model once.

    Exporters leave them open where shapes are computed inside of the model.
    """
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        answers = session.run(
            None, {spec.name: np.zeros(spec.shape, np.float32) for spec in inputs}
        )
    except Exception as error:  # ONNX Runtime has a dozen of its own
        raise unsupported(error, converter="ONNX Runtime", graph=model.graph) from error
    for value, answer in zip(model.graph.output, answers, strict=True):
        if getattr(answer, "dtype", None) != np.float32:
            kind = getattr(answer, "dtype", type(answer).__name__)
            raise UnsupportedModelError(
                f"{path}: the output {value.name!r} is {kind}; asdic quantizes models that give "
                "float32: leave out what turns scores into numbers of classes"
            )
        value.CopyFrom(
            onnx.helper.make_tensor_value_info(value.name, onnx.TensorProto.FLOAT, answer.shape)
        )


def _onnx() -> Any:
    try:
        import onnx
        import onnx.version_converter
    except ImportError as error:
        raise MissingPackageError("onnx", "quantize") from error
    return onnx
