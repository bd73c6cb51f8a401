"""From a model's tensors to what a caller wants: masks, scores, arrays.

A threshold on a probability is a threshold on the logit, so no exponential is computed: it is
faster, and the same bit for bit on every processor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from typing_extensions import assert_never

from asdic.contract.errors import ConfigError, ReleaseError
from asdic.contract.variant import ArrayOutput, ClassOutput, MaskOutput, OutputRule
from asdic.device.metrics import judged_rule


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a model says about one input.

    ``outputs`` holds each output's value by the tensor's name: a mask (uint8 class numbers, in
    the image's size), scores (float32, one a class) or an array. ``tensors`` holds the model's
    own answers (float32). The properties are for the usual case of one output.
    """

    outputs: Mapping[str, NDArray[Any]]
    tensors: Mapping[str, NDArray[np.float32]]
    rules: tuple[OutputRule, ...]

    @property
    def mask(self) -> NDArray[np.uint8]:
        """The first mask.

        Raises:
            ConfigError: The model has no mask output.
        """
        return self.outputs[self._first(MaskOutput, "mask").tensor]

    @property
    def scores(self) -> NDArray[np.float32]:
        """The scores of the first classification, one a class.

        Raises:
            ConfigError: The model has no class output.
        """
        return self.outputs[self._first(ClassOutput, "class").tensor]

    @property
    def label(self) -> str:
        """The name of the most likely class; its number where the variant names none."""
        labels = self._first(ClassOutput, "class").labels
        number = int(self.scores.argmax())
        return labels[number] if labels else str(number)

    @property
    def judged(self) -> NDArray[Any]:
        """What a metric compares with a reference: the first mask, else scores, else array.

        Raises:
            ConfigError: The model's description names no output.
        """
        return self.outputs[judged_rule(self.rules).tensor]

    def _first(self, kind: type[MaskOutput] | type[ClassOutput], what: str) -> Any:
        for rule in self.rules:
            if isinstance(rule, kind):
                return rule
        names = sorted(self.outputs)
        raise ConfigError(f"the model has no {what} output, only {names}; use .outputs")


def interpret(
    tensors: Mapping[str, NDArray[np.float32]],
    rules: Iterable[OutputRule],
    *,
    size: tuple[int, int] | None,
) -> dict[str, NDArray[Any]]:
    """Return the values that ``rules`` make of the model's ``tensors``, by the tensor's name.

    Args:
        tensors: The model's answers, float32.
        rules: What each means.
        size: Height and width of the original image, which masks take; None leaves them as
            they are.

    Raises:
        ReleaseError: A tensor does not fit its rule, or holds NaN where a decision is asked for.
    """
    return {rule.tensor: _value(tensors[rule.tensor], rule, size) for rule in rules}


def mask_of(
    logits: NDArray[np.float32], rule: MaskOutput, *, size: tuple[int, int] | None = None
) -> NDArray[np.uint8]:
    """Return the mask of class numbers, uint8, (H, W) of the model or of ``size``.

    Args:
        logits: (1, C, H, W) or (1, H, W, C), as the rule's layout says.
        rule: Activation, threshold and layout.
        size: Height and width that the mask is brought to (nearest neighbour).

    Raises:
        ReleaseError: Shape or channels do not fit the rule, or a logit is NaN.
    """
    mask = np.ascontiguousarray(_classes(_planes(logits, rule), rule))
    if size is None or mask.shape == size:
        return mask
    resized = cv2.resize(mask, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, np.uint8)


def _value(tensor: NDArray[np.float32], rule: OutputRule, size: tuple[int, int] | None) -> Any:
    match rule:
        case MaskOutput():
            return mask_of(tensor, rule, size=size)
        case ClassOutput():
            return _scores(tensor, rule)
        case ArrayOutput():
            return tensor
        case _:
            assert_never(rule)


def _planes(logits: NDArray[np.float32], rule: MaskOutput) -> NDArray[np.float32]:
    """Return the logits as (C, H, W) once they are known to be numbers."""
    if logits.ndim != 4 or logits.shape[0] != 1 or logits.size == 0:
        raise ReleaseError(
            f"output {rule.tensor!r} has shape {logits.shape}; a mask needs (1, C, H, W) or "
            f"(1, H, W, C)"
        )
    _refuse_nan(logits, rule.tensor)
    planes: NDArray[np.float32] = logits[0]
    return planes if rule.layout == "nchw" else planes.transpose(2, 0, 1)


def _classes(planes: NDArray[np.float32], rule: MaskOutput) -> NDArray[np.uint8]:
    channels = len(planes)
    if rule.activation == "sigmoid" and channels == 1:
        return np.asarray(planes[0] > logit(rule.threshold)).view(np.uint8)
    if rule.activation == "softmax" and channels == 2:
        return np.asarray(planes[1] - planes[0] > logit(rule.threshold)).view(np.uint8)
    if rule.activation == "softmax" and 2 < channels <= 256:
        return np.asarray(planes.argmax(axis=0), np.uint8)
    raise ReleaseError(
        f"output {rule.tensor!r} has {channels} channels in layout {rule.layout}, which does not "
        f"fit {rule.activation}"
    )


def logit(probability: float) -> np.float32:
    """Return ``log(p / (1 - p))``, the logit at which a probability passes ``p``.

    Raises:
        ReleaseError: The probability is not between 0 and 1.
    """
    if not 0.0 < probability < 1.0:
        raise ReleaseError(f"a threshold lies between 0 and 1, not at {probability}")
    return np.float32(math.log(probability / (1.0 - probability)))


def _scores(tensor: NDArray[np.float32], rule: ClassOutput) -> NDArray[np.float32]:
    scores = tensor.reshape(-1)
    if not scores.size or (rule.labels and len(rule.labels) != scores.size):
        raise ReleaseError(
            f"output {rule.tensor!r} has shape {tensor.shape} for {len(rule.labels)} labels"
        )
    _refuse_nan(scores, rule.tensor)
    return scores


def _refuse_nan(values: NDArray[np.float32], name: str) -> None:
    """A comparison with NaN is false: without this, a broken model would see an empty image."""
    if np.isnan(values.min()):
        raise ReleaseError(f"output {name!r} holds NaN: the model or its input is broken")
