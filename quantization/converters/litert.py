"""Float models for LiteRT (TFLite).

Importing litert-torch takes 5 s on a quiet machine and up to 28 s on a busy one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from asdic.contract.errors import MissingPackageError
from asdic.contract.files import write_file
from asdic.contract.variant import ImageInput, InputRule, MaskOutput, OutputRule, TensorSpec
from asdic.quantization.backends.backend import FloatFiles, unsupported
from asdic.quantization.frontends.tflite import named_signature
from asdic.quantization.frontends.torch import read_program
from asdic.quantization.kinds import FloatModel

_Rule = TypeVar("_Rule", InputRule, OutputRule)

FILE: Final = "float.tflite"


def of_program(model: FloatModel, folder: Path) -> FloatFiles:
    """Write ``float.tflite`` from an exported program, with images channels-last."""
    write_file(folder / FILE, _converted(model))
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


def of_tflite(model: FloatModel, folder: Path) -> FloatFiles:
    """Write ``float.tflite`` from a TFLite file: the same, with the description's names."""
    write_file(folder / FILE, named_signature(model.path, model.description))
    return FloatFiles.described(model.description, files=(FILE,))


def _converted(model: FloatModel) -> bytes:
    program = read_program(model.path)
    inner = program.module()
    try:
        import litert_torch
        import torch
    except ImportError as error:
        raise MissingPackageError("litert-torch", "quantize") from error

    flipped = _flipped(model)
    inputs = [spec.name for spec in model.description.inputs]
    outputs = [spec.name for spec in model.description.outputs]

    class ChannelsLast(torch.nn.Module):
        """The model with named, channels-last inputs and outputs, so TFLite needs no transpose."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, **named: Any) -> dict[str, Any]:
            arguments = [
                named[name].permute(0, 3, 1, 2) if name in flipped else named[name]
                for name in inputs
            ]
            answers = self.inner(*arguments)
            answers = answers if isinstance(answers, list | tuple) else (answers,)
            return {
                name: answer.permute(0, 2, 3, 1) if name in flipped else answer
                for name, answer in zip(outputs, answers, strict=True)
            }

    examples = {
        spec.name: torch.zeros(_last_spec(spec, flipped).shape) for spec in model.description.inputs
    }
    try:
        edge = litert_torch.convert(ChannelsLast(), sample_kwargs=examples)
        content: bytes = edge.model_content()
    except Exception as error:  # the converter raises whatever its many layers raise
        raise unsupported(error, converter="LiteRT", program=program) from error
    return content


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
