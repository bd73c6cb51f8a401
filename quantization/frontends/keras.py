"""Keras files and SavedModels, through TensorFlow's own converter to a float TFLite file.

From there on they are TFLite models. Importing TensorFlow takes seconds: this runs in a worker.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from asdic.contract.errors import ConfigError, MissingPackageError, UnsupportedModelError
from asdic.contract.files import write_file
from asdic.quantization.frontends.found import Found
from asdic.quantization.frontends.shapes import Dimension, Shapes, check_names, fixed_shape
from asdic.quantization.frontends.sizes import check_size
from asdic.quantization.frontends.tflite import from_tflite
from asdic.quantization.refusal import first_line

SAVED_MODEL: Final = "saved_model.pb"
_SIGNATURE: Final = "serving_default"
_CONVERTED: Final = "converted.tflite"
_EXPORTED: Final = "saved-model"
_CODE: Final = frozenset(
    {
        *("PyFunc", "PyFuncStateless", "EagerPyFunc", "WriteFile", "ReadFile", "MatchingFiles"),
        *("WholeFileReader", "WholeFileReaderV2", "FixedLengthRecordReader", "TextLineReader"),
        *("TextLineDataset", "TFRecordDataset", "FixedLengthRecordDataset", "PrintV2"),
        *("WriteSummary", "CreateSummaryFileWriter", "DebugIdentity", "DebugIdentityV2"),
        *("XlaLaunch", "LoadDataset", "SaveDataset", "DatasetToTFRecord", "Save", "SaveSlices"),
    }
)
"""TensorFlow's operators that reach for files, or for Python. A graph's own initializer runs when
it is loaded; saving and restoring the variables (``SaveV2``, ``RestoreV2``) is in every graph."""


def from_keras(path: Path, folder: Path, shapes: Shapes) -> Found:
    """Read a ``.keras`` file.

    Raises:
        ConfigError: It is damaged, or holds code (a Lambda layer), which is not run.
        UnsupportedModelError: An input leaves open more than its batch, or TFLite lacks an
            operator.
        MissingPackageError: TensorFlow is not installed.
    """
    _tensorflow()
    import keras  # comes with TensorFlow

    if not zipfile.is_zipfile(path):
        raise ConfigError(f"{path} is not a .keras file; save the model with model.save")
    check_size(path)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever its many layers raise
        raise ConfigError(f"{path} cannot be read: {first_line(error)}") from error
    exported = folder / _EXPORTED
    try:
        model.export(str(exported), verbose=False)
    except Exception as error:
        raise UnsupportedModelError(
            f"Keras cannot export {path} as a SavedModel: {first_line(error)}"
        ) from error
    return from_saved_model(exported, folder, shapes)


def from_saved_model(path: Path, folder: Path, shapes: Shapes) -> Found:
    """Read the folder of a SavedModel: its signature ``serving_default``.

    Raises:
        ConfigError: It is damaged, or has no such signature.
        UnsupportedModelError: As for ``from_keras``.
        MissingPackageError: TensorFlow is not installed.
    """
    tensorflow = _tensorflow()
    check_size(path)
    _check_innocent(path)
    try:
        model = tensorflow.saved_model.load(str(path))
    except Exception as error:
        raise ConfigError(f"{path} is not a SavedModel: {first_line(error)}") from error
    if _SIGNATURE not in model.signatures:
        known = ", ".join(sorted(model.signatures)) or "none"
        raise ConfigError(f"{path} has the signatures {known}; asdic reads {_SIGNATURE!r}")
    signature = model.signatures[_SIGNATURE]
    inputs = signature.structured_input_signature[1]
    specs, notes = _specs(
        tensorflow, list(inputs), [spec.shape.as_list() for spec in inputs.values()], shapes
    )

    def call(*tensors: Any) -> dict[str, Any]:
        return dict(signature(**dict(zip(inputs, tensors, strict=True))))

    function = tensorflow.function(call, input_signature=specs)
    return _written(_tflite(tensorflow, path, function, model), folder, notes)


def _check_innocent(path: Path) -> None:
    """Refuse a graph with operators that reach for files or Python, before it is loaded."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel()
    try:
        saved.ParseFromString((path / SAVED_MODEL).read_bytes())
    except Exception as error:  # protobuf's own
        raise ConfigError(f"{path} is not a SavedModel: {first_line(error)}") from error
    for graph in saved.meta_graphs:
        functions = [node for one in graph.graph_def.library.function for node in one.node_def]
        for node in (*graph.graph_def.node, *functions):
            if node.op in _CODE:
                raise ConfigError(
                    f"{path} uses {node.op} (the node {node.name!r}); a model that does is not "
                    "opened"
                )


def _specs(
    tensorflow: Any, names: Sequence[str], stated: Sequence[Sequence[Dimension]], shapes: Shapes
) -> tuple[list[Any], tuple[str, ...]]:
    check_names(shapes, names)
    specs, notes = [], []
    for name, sides in zip(names, stated, strict=True):
        shape, note = fixed_shape(name, sides, shapes, only=len(names) == 1)
        specs.append(tensorflow.TensorSpec(shape, tensorflow.float32, name=name))
        notes.append(note)
    return specs, tuple(note for note in notes if note)


def _tflite(tensorflow: Any, path: Path, function: Any, model: Any) -> bytes:
    try:
        converter = tensorflow.lite.TFLiteConverter.from_concrete_functions(
            [function.get_concrete_function()], model
        )
        return bytes(converter.convert())
    except Exception as error:
        raise UnsupportedModelError(
            f"TensorFlow's converter cannot convert {path}: {first_line(error)}"
        ) from error


def _written(content: bytes, folder: Path, notes: tuple[str, ...]) -> Found:
    write_file(folder / _CONVERTED, content)
    found = from_tflite(folder / _CONVERTED, folder, {})
    return msgspec.structs.replace(found, notes=(*notes, *found.notes))


def _tensorflow() -> Any:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow
    except ImportError as error:
        raise MissingPackageError("tensorflow", "keras") from error
    return tensorflow
