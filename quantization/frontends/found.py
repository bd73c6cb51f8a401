"""What a front end finds in a model, and what is assumed of a model that nobody described."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from asdic.contract.variant import (
    ArrayInput,
    ArrayOutput,
    ClassOutput,
    ImageInput,
    InputRule,
    MaskOutput,
    OutputRule,
    TensorSpec,
)
from asdic.quantization.kinds import SourceKind
from asdic.training.description import ModelDescription

_COLORS: Final = {1: "grey", 3: "rgb"}
_METRICS: Final = {"segmentation": "dice", "classification": "top1", "raw": "agreement"}


IMAGE_SIDE_AT_LEAST: Final = 16
"""What is smaller is hardly a picture: the 49 x 10 of keyword spotting are a spectrogram."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A float model as a front end read it.

    ``files`` holds the model's file, in the folder that the front end was given, first.
    ``inputs`` and ``outputs`` are in the model's own order; ``layout`` says where images in it
    keep their channels; ``notes`` tell what had to be decided.
    """

    kind: SourceKind
    files: tuple[str, ...]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layout: Literal["nchw", "nhwc"]
    notes: tuple[str, ...] = ()


def describe(name: str, found: Found) -> tuple[ModelDescription, tuple[str, ...]]:
    """Return a description of a model that came without one, and what it assumes, in words.

    A four-dimensional input with 1 or 3 channels is an image with values in [0, 1], an output of
    its size is a mask of logits, and an output of one number a class holds scores. All else is
    an array that is passed as it is.
    """
    inputs = [_input_rule(spec, found.layout) for spec in found.inputs]
    image = next((rule for rule in inputs if isinstance(rule, ImageInput)), None)
    outputs = [_output_rule(spec, image, found.layout) for spec in found.outputs]
    task = _task(outputs)
    description = ModelDescription(
        name=name,
        task=task,
        weights=found.files[0],
        metric=_METRICS[task],
        inputs=found.inputs,
        outputs=found.outputs,
        preprocessing=tuple(inputs),
        postprocessing=tuple(outputs),
    )
    words = [_input_words(rule, spec) for rule, spec in zip(inputs, found.inputs, strict=True)]
    words += [_output_words(rule, spec) for rule, spec in zip(outputs, found.outputs, strict=True)]
    return description, (*found.notes, *words)


def _input_rule(spec: TensorSpec, layout: Literal["nchw", "nhwc"]) -> InputRule:
    if len(spec.shape) != 4 or spec.shape[0] != 1:
        return ArrayInput(tensor=spec.name)
    channels, height, width = _sides(spec.shape, layout)
    if channels not in _COLORS or min(height, width) < IMAGE_SIDE_AT_LEAST:
        return ArrayInput(tensor=spec.name)
    return ImageInput(
        tensor=spec.name,
        height=height,
        width=width,
        color="grey" if channels == 1 else "rgb",
        layout=layout,
    )


def _output_rule(
    spec: TensorSpec, image: ImageInput | None, layout: Literal["nchw", "nhwc"]
) -> OutputRule:
    if image is not None and len(spec.shape) == 4:
        channels, height, width = _sides(spec.shape, layout)
        if (height, width) == (image.height, image.width):
            squash: Literal["sigmoid", "softmax"] = "sigmoid" if channels == 1 else "softmax"
            return MaskOutput(tensor=spec.name, activation=squash, layout=layout)
    if len(spec.shape) == 2 and spec.shape[0] == 1 and spec.shape[1] > 1:
        return ClassOutput(tensor=spec.name)
    return ArrayOutput(tensor=spec.name)


def _sides(shape: Sequence[int], layout: str) -> tuple[int, int, int]:
    """Return channels, height and width."""
    if layout == "nchw":
        return shape[1], shape[2], shape[3]
    return shape[3], shape[1], shape[2]


def _task(rules: Sequence[OutputRule]) -> Literal["segmentation", "classification", "raw"]:
    if any(isinstance(rule, MaskOutput) for rule in rules):
        return "segmentation"
    return "classification" if any(isinstance(rule, ClassOutput) for rule in rules) else "raw"


def _input_words(rule: InputRule, spec: TensorSpec) -> str:
    if isinstance(rule, ImageInput):
        return (
            f"the input {rule.tensor!r} is one {rule.color} image of {rule.height}x{rule.width} "
            "pixels with values in [0, 1]"
        )
    return f"the input {spec.name!r} is an array of shape {_shape(spec)}, passed as it is"


def _output_words(rule: OutputRule, spec: TensorSpec) -> str:
    match rule:
        case MaskOutput():
            channels = spec.shape[1] if rule.layout == "nchw" else spec.shape[3]
            return (
                f"the output {rule.tensor!r} is a mask: {channels} channel(s) of logits, "
                f"{rule.activation}"
            )
        case ClassOutput():
            return f"the output {rule.tensor!r} holds the scores of {spec.shape[1]} classes"
        case ArrayOutput():
            return f"the output {rule.tensor!r} is an array of shape {_shape(spec)}"


def _shape(spec: TensorSpec) -> str:
    return "x".join(str(side) for side in spec.shape)
