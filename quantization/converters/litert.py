"""Float models for LiteRT (TFLite).

Importing litert-torch takes 5 s on a quiet machine and up to 28 s on a busy one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from asdic.contract.errors import MissingPackageError, UnsupportedModelError
from asdic.contract.files import write_file
from asdic.contract.variant import ImageInput, InputRule, MaskOutput, OutputRule, TensorSpec
from asdic.quantization.backends.backend import FloatFiles
from asdic.quantization.converters.onnx import simplified
from asdic.quantization.frontends.tflite import named_signature, renamed
from asdic.quantization.frontends.torch import program_of
from asdic.quantization.kinds import FloatModel
from asdic.quantization.refusal import unsupported

_Rule = TypeVar("_Rule", InputRule, OutputRule)

FILE: Final = "float.tflite"
_SIMPLE: Final = "simplified.onnx"


def of_program(model: FloatModel, folder: Path) -> FloatFiles:
    """Write ``float.tflite`` from an exported program, with images channels-last."""
    program = program_of(model.path, model.description.inputs)
    write_file(folder / FILE, _converted(model, program.module(), program))
    return _channels_last(model)


def of_onnx(model: FloatModel, folder: Path) -> FloatFiles:
    """Write ``float.tflite`` from an ONNX file by way of torch, with images channels-last."""
    write_file(folder / _SIMPLE, simplified(model.path, model))
    try:
        from asdic.quantization.converters.network import read_network
    except ImportError as error:
        raise MissingPackageError(error.name or "torch", "quantize") from error
    write_file(folder / FILE, _converted(model, read_network(folder / _SIMPLE)))
    return _channels_last(model)


def of_tflite(model: FloatModel, folder: Path) -> FloatFiles:
    """Write ``float.tflite`` from a TFLite file: the same, with the description's names."""
    write_file(folder / FILE, named_signature(model.path, model.description))
    return FloatFiles.described(model.description, files=(FILE,))


def _channels_last(model: FloatModel) -> FloatFiles:
    """Describe files whose images lie channels-last."""
    flipped = _flipped(model)
    description = model.description
    return FloatFiles(
        name=model.name,
        files=(FILE,),
        inputs=tuple(_last_spec(spec, flipped) for spec in description.inputs),
        outputs=tuple(_last_spec(spec, flipped) for spec in description.outputs),
        preprocessing=tuple(_last_rule(rule) for rule in description.preprocessing),
        postprocessing=tuple(_last_rule(rule) for rule in description.postprocessing),
        channels_last=tuple(sorted(flipped)),
    )


def _converted(model: FloatModel, inner: Any, program: Any = None) -> bytes:
    """Return a torch module as a TFLite file; of an exported program, errors name the layer."""
    try:
        import litert_torch
        import torch
    except ImportError as error:
        raise MissingPackageError("litert-torch", "quantize") from error

    inputs = [spec.name for spec in model.description.inputs]
    outputs = [spec.name for spec in model.description.outputs]
    flipped = _flipped(model)

    class ChannelsLast(torch.nn.Module):
        """The model with channels-last inputs and outputs, so that TFLite needs no transpose.

        It names them by their places: torch takes only names that Python does.
        """

        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, **placed: Any) -> dict[str, Any]:
            arguments = [
                placed[_place(number)].permute(0, 3, 1, 2)
                if name in flipped
                else placed[_place(number)]
                for number, name in enumerate(inputs)
            ]
            answers = self.inner(*arguments)
            answers = answers if isinstance(answers, list | tuple) else (answers,)
            return {
                _place(number): answer.permute(0, 2, 3, 1) if name in flipped else answer
                for number, (name, answer) in enumerate(zip(outputs, answers, strict=True))
            }

    # The file's layers are called by this, and a report shows their names.
    ChannelsLast.__module__, ChannelsLast.__qualname__ = "asdic", "Model"
    examples = {
        _place(number): torch.zeros(_last_spec(spec, flipped).shape)
        for number, spec in enumerate(model.description.inputs)
    }
    try:
        edge = litert_torch.convert(ChannelsLast(), sample_kwargs=examples)
        content: bytes = edge.model_content()
    except UnsupportedModelError:
        raise
    except Exception as error:  # the converter raises whatever its many layers raise
        raise unsupported(error, converter="LiteRT", program=program) from error
    return renamed(
        content,
        {_place(number): name for number, name in enumerate(inputs)},
        {_place(number): name for number, name in enumerate(outputs)},
    )


def _place(number: int) -> str:
    return f"tensor_{number}"


def _flipped(model: FloatModel) -> frozenset[str]:
    """Return the names of the tensors that TFLite holds channels-last and the model does not."""
    rules = (*model.description.preprocessing, *model.description.postprocessing)
    return frozenset(
        rule.tensor
        for rule in rules
        if isinstance(rule, ImageInput | MaskOutput) and rule.layout == "nchw"
    )


def _last_spec(spec: TensorSpec, flipped: frozenset[str]) -> TensorSpec:
    if spec.name not in flipped:
        return spec
    batch, channels, height, width = spec.shape
    return msgspec.structs.replace(spec, shape=(batch, height, width, channels))


def _last_rule(rule: _Rule) -> _Rule:
    if isinstance(rule, ImageInput | MaskOutput):
        return msgspec.structs.replace(rule, layout="nhwc")
    return rule
