"""How a sample fits the model: its inputs as the runner takes them, its label as a reference.

A label that does not fit must be refused: it would be wrong for FP32 and INT8 alike, and the
verdict would be about nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from asdic.contract.errors import DataError
from asdic.contract.variant import (
    ArrayOutput,
    ClassOutput,
    ImageInput,
    InputRule,
    MaskOutput,
    OutputRule,
    TensorSpec,
)
from asdic.device.metrics import judged_rule
from asdic.training.data import Sample
from asdic.training.description import ModelDescription
from asdic.training.duplicates import is_picture
from asdic.training.pixels import binary_mask
from asdic.training.samples import ONLY_INPUT, AnySample, Reference, Task

_CLASSES_SHOWN: Final = 8


def judged_task(description: ModelDescription) -> Task:
    """Return what a reference has to be for the output that is judged."""
    match judged_rule(description.postprocessing):
        case MaskOutput():
            return "segmentation"
        case ClassOutput():
            return "classification"
        case ArrayOutput():
            return "raw"


def check_folder_fits(description: ModelDescription, where: str) -> None:
    """Check that the model takes what a folder of images holds.

    Raises:
        DataError: It takes several inputs, or arrays.
    """
    match description.preprocessing:
        case (ImageInput(),):
            return
        case _:
            raise DataError(
                f"{where} holds images, and {description.name} takes "
                f"{', '.join(_words(one, description) for one in description.preprocessing)}; "
                "give an .npz or package.module:loader"
            )


def inputs_of(sample: AnySample, description: ModelDescription) -> dict[str, NDArray[Any]]:
    """Return a sample's inputs as the runner takes them, by the tensor's name.

    An array of as many numbers as the tensor is brought to its shape.

    Raises:
        DataError: The sample cannot be read, or does not fit; it is named.
    """
    given = sample.read_inputs()
    rules = description.preprocessing
    if len(rules) == 1 and given.keys() == {ONLY_INPUT}:
        given = {rules[0].tensor: given[ONLY_INPUT]}
    if given.keys() != {rule.tensor for rule in rules}:
        raise DataError(
            f"sample {sample.name} has the inputs {', '.join(sorted(given)) or 'none'}; the model "
            f"takes {', '.join(rule.tensor for rule in rules)}"
        )
    specs = {spec.name: spec for spec in description.inputs}
    return {
        rule.tensor: _fitted(given[rule.tensor], rule, specs[rule.tensor], sample.name)
        for rule in rules
    }


def remarks_on(sample: AnySample, description: ModelDescription) -> tuple[str, ...]:
    """Return what is to be said of how samples like this one become inputs."""
    if isinstance(sample, Sample):
        return ()
    given = sample.read_inputs()
    return tuple(_remarks(given, description))


def reference_of(sample: AnySample, description: ModelDescription) -> NDArray[Any] | None:
    """Return what the judged output should be: a mask, a class number, or an array.

    Raises:
        DataError: The label cannot be read, or is none that the model can give; the sample is
            named.
    """
    reference = sample.read_reference(judged_task(description))
    if reference is None:
        return None
    rule = judged_rule(description.postprocessing)
    spec = next(one for one in description.outputs if one.name == rule.tensor)
    return _reference(reference, rule, spec, sample.name)


def _fitted(array: NDArray[Any], rule: InputRule, spec: TensorSpec, name: str) -> NDArray[Any]:
    if isinstance(rule, ImageInput):
        image = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
        if not is_picture(image):
            raise DataError(
                f"sample {name} has a {array.dtype} array of shape {array.shape} for the image "
                f"{rule.tensor!r}, which takes uint8 (H, W) or (H, W, 3); a tensor that is "
                "prepared already needs an array rule in model.toml"
            )
        return image
    if array.size != math.prod(spec.shape):
        raise DataError(
            f"sample {name} has shape {array.shape}; the input {spec.name!r} takes {spec.shape}"
        )
    return array.reshape(spec.shape)


def _remarks(given: Mapping[str, NDArray[Any]], description: ModelDescription) -> Iterator[str]:
    for rule, spec in zip(description.preprocessing, description.inputs, strict=True):
        array = given.get(rule.tensor, given.get(ONLY_INPUT))
        if array is None or isinstance(rule, ImageInput):
            continue
        if array.shape not in {spec.shape, spec.shape[1:]}:
            yield f"samples of shape {array.shape} are reshaped to {spec.shape} for {spec.name!r}"
        if array.dtype.kind in "iu":
            yield (
                f"samples hold {array.dtype} numbers, which {spec.name!r} takes as they are; if "
                "they are quantized, let a loader return real values"
            )


def _reference(reference: Reference, rule: OutputRule, spec: TensorSpec, name: str) -> NDArray[Any]:
    match rule:
        case MaskOutput():
            return _mask(reference, _channels(rule, spec), name)
        case ClassOutput():
            return _class(reference, rule.labels, math.prod(spec.shape), name)
        case ArrayOutput():
            return _array(reference, spec, name)
        case _:
            assert_never(rule)


def _mask(reference: Reference, classes: int, name: str) -> NDArray[Any]:
    if not isinstance(reference, np.ndarray) or reference.dtype.kind not in "biu":
        raise DataError(f"sample {name} has no mask of class numbers but {_what(reference)}")
    low, high = int(reference.min(initial=0)), int(reference.max(initial=0))
    if low < 0 or high > np.iinfo(np.uint8).max:
        raise DataError(f"the mask of {name} holds {low} to {high}; a mask holds 0 to 255")
    mask = reference.astype(np.uint8)
    if classes == 2:
        return binary_mask(mask, name)
    if high >= classes:
        raise DataError(
            f"the mask of {name} holds class {high}; the model's classes are 0 to {classes - 1}"
        )
    return mask


def _class(reference: Reference, labels: tuple[str, ...], classes: int, name: str) -> NDArray[Any]:
    classes = max(classes, 2)  # one score tells two classes apart
    if isinstance(reference, np.ndarray):
        return _several(reference, classes, name)
    text = str(reference)
    if isinstance(reference, str) and text in labels:
        return np.array(labels.index(text))
    if text.isdecimal() and not (isinstance(reference, str) and labels) and int(text) < classes:
        return np.array(int(text))
    known = ", ".join(labels[:_CLASSES_SHOWN]) if labels else f"the classes 0 to {classes - 1}"
    raise DataError(
        f"{name} has the label {reference!r}; the model knows {known}"
        + ("" if labels or isinstance(reference, int) else " (names are written in model.toml)")
    )


def _several(reference: NDArray[Any], classes: int, name: str) -> NDArray[Any]:
    if reference.shape != (classes,) or not np.isin(reference, (0, 1)).all():
        raise DataError(
            f"sample {name} has a label of shape {reference.shape}; the model has {classes} "
            f"classes: a label is one number, or {classes} of 0 and 1"
        )
    return reference.astype(np.uint8)


def _array(reference: Reference, spec: TensorSpec, name: str) -> NDArray[Any]:
    if isinstance(reference, str):
        raise DataError(f"sample {name} has {_what(reference)}; {spec.name!r} is an array")
    values = np.asarray(reference, np.float32)
    if values.size != math.prod(spec.shape) or not np.isfinite(values).all():
        raise DataError(
            f"sample {name} has a reference of shape {values.shape}; the output {spec.name!r} is "
            f"{spec.shape}, finite"
        )
    return values.reshape(spec.shape)


def _channels(rule: MaskOutput, spec: TensorSpec) -> int:
    """Return the number of classes; one channel tells two apart."""
    if len(spec.shape) != 4:
        return 2
    return max(spec.shape[1 if rule.layout == "nchw" else 3], 2)


def _what(reference: Reference) -> str:
    if isinstance(reference, np.ndarray):
        return f"a {reference.dtype} array of shape {reference.shape}"
    return f"the label {reference!r}"


def _words(rule: InputRule, description: ModelDescription) -> str:
    shape = next(spec.shape for spec in description.inputs if spec.name == rule.tensor)
    kind = "image" if isinstance(rule, ImageInput) else "array"
    return f"the {kind} {rule.tensor} {shape}"
