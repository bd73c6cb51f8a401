"""Whether a converted float model still answers as its source does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import QuantizationError
from asdic.contract.target import ModelFormat, Runtime
from asdic.device.metrics import sqnr_db
from asdic.device.runner.engine import open_engine
from asdic.quantization.backends.backend import FloatFiles, Tensors
from asdic.quantization.broken import broken_layer
from asdic.quantization.frontends.torch import program_of
from asdic.quantization.kinds import RUNTIMES, FloatModel, SourceKind

_OWN_RUNTIMES: Final = MappingProxyType(
    {SourceKind.ONNX: Runtime.ONNXRUNTIME, SourceKind.TFLITE: Runtime.LITERT}
)
CONVERSION_DB: Final = 60.0
"""Float converters measured 95 to 122 dB on U-Nets with and without instance normalization."""


def check_conversion(
    model: FloatModel,
    model_format: ModelFormat,
    files: FloatFiles,
    folder: Path,
    tensors: Tensors,
) -> None:
    """Check that the float files in ``folder`` answer as the model that they were made from.

    Args:
        model: The source.
        model_format: What the files are.
        files: The files' description.
        folder: Where they are.
        tensors: One set of inputs, in the layout of the model's description.

    Raises:
        QuantizationError: The answers are further apart than rounding explains, or the source
            answers NaN or infinity; the layer is named.
    """
    expected = _answers(model, tensors)
    laid_out = files.laid_out([tensors])[0]
    paths = [folder / name for name in files.files]
    if not all(np.isfinite(answer).all() for answer in expected):
        broken = broken_layer(model_format, paths, [("a calibration sample", laid_out)])
        raise broken or QuantizationError("the float model answers NaN or infinity")
    with closing(open_engine(RUNTIMES[model_format], paths)) as engine:
        answers = engine.run(laid_out)
    for spec, reference in zip(model.description.outputs, expected, strict=True):
        answer = answers[spec.name]
        if spec.name in files.channels_last:
            answer = answer.transpose(0, 3, 1, 2)
        distance_db = sqnr_db(reference, answer)
        if not distance_db >= CONVERSION_DB:
            raise QuantizationError(
                f"conversion changed the float model: output {spec.name!r} is {distance_db:.1f} dB "
                f"from the source's, at least {CONVERSION_DB:.0f} dB are expected"
            )


def _answers(model: FloatModel, tensors: Tensors) -> Sequence[NDArray[np.float32]]:
    """Return what the source itself answers, in the order of its outputs."""
    if model.kind is SourceKind.PROGRAM:
        return _torchs_answers(model, tensors)
    with closing(open_engine(_OWN_RUNTIMES[model.kind], [model.path])) as engine:
        names = [spec.name for spec in engine.inputs]
        ordered = [tensors[spec.name] for spec in model.description.inputs]
        answers = engine.run(dict(zip(names, ordered, strict=True)))
        return [answers[spec.name] for spec in engine.outputs]


def _torchs_answers(model: FloatModel, tensors: Tensors) -> Sequence[NDArray[np.float32]]:
    import torch

    arguments = [torch.from_numpy(tensors[spec.name]) for spec in model.description.inputs]
    with torch.no_grad():
        answers: Any = program_of(model.path, model.description.inputs).module()(*arguments)
    answers = answers if isinstance(answers, list | tuple) else (answers,)
    return [answer.numpy() for answer in answers]
