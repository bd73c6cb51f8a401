"""From what a caller has (an image, an array) to the tensors that a model takes.

The same code runs in the quantizer, on the device and in a user's own program: a model is judged
on exactly the numbers that it will see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.variant import ImageInput, InputRule

SIDE_LIMIT: Final = 16_384
_CHANNELS: Final = {"grey": 1, "rgb": 3}
# Halves go up on every processor, though one sums them to a little less than a half.
_ROUND_UP: Final = 0.5 + 2.0**-16

Memory: TypeAlias = Mapping[str, NDArray[np.float32]]


class Preparation:
    """The rules of one model, ready for many frames: tables and memory are made once.

    Not for use by two threads at once.

    Args:
        rules: One for each of the model's inputs.

    Raises:
        ConfigError: A rule makes no sense.
    """

    def __init__(self, rules: Iterable[InputRule]) -> None:
        self._steps: dict[str, _ImageStep | None] = {
            rule.tensor: _ImageStep(rule) if isinstance(rule, ImageInput) else None
            for rule in rules
        }
        self._memory = self.new_memory()

    def new_memory(self) -> Memory:
        """Return memory for the tensors of one frame, for ``tensors`` to write to."""
        return {
            name: np.empty(step.shape, np.float32)
            for name, step in self._steps.items()
            if step is not None
        }

    def tensors(
        self, inputs: Mapping[str, NDArray[Any]], memory: Memory | None = None
    ) -> dict[str, NDArray[np.float32]]:
        """Return the tensors that the rules make of ``inputs``, both by the tensor's name.

        They are valid until ``memory`` (None: this object's own) is written to again. An array
        that fits as it is is passed on and not copied.

        Raises:
            DataError: An input is missing or unknown, or does not fit its rule.
        """
        if inputs.keys() != self._steps.keys():
            raise DataError(
                f"the model takes the inputs {sorted(self._steps)}, not {sorted(inputs)}"
            )
        places = self._memory if memory is None else memory
        return {
            name: _prepare_array(inputs[name], name)
            if step is None
            else step.write(inputs[name], places[name])
            for name, step in self._steps.items()
        }


def prepare(
    inputs: Mapping[str, NDArray[Any]], rules: Iterable[InputRule]
) -> dict[str, NDArray[np.float32]]:
    """Return the tensors that ``rules`` make of ``inputs``, both by the tensor's name.

    Raises:
        DataError: An input is missing or unknown, or does not fit its rule.
    """
    return Preparation(rules).tensors(inputs)


def prepare_image(image: NDArray[np.uint8], rule: ImageInput) -> NDArray[np.float32]:
    """Return ``image`` as the four-dimensional tensor that ``rule`` describes.

    Args:
        image: uint8, (H, W) grey or (H, W, 3) in the order red, green, blue.
        rule: Color, size, scale and layout of the tensor.

    Returns:
        float32, (1, C, height, width) or (1, height, width, C). A pixel's value depends on its
        byte alone, so it is looked up; that is fast, and the same on every processor.

    Raises:
        DataError: The image has another dtype or shape, or is empty.
        ConfigError: The rule itself makes no sense.
    """
    step = _ImageStep(rule)
    return step.write(image, np.empty(step.shape, np.float32))


class _ImageStep:
    """One rule for an image, with the memory that its steps need in between."""

    def __init__(self, rule: ImageInput) -> None:
        _check_side(rule.height, rule.width)
        channels = _CHANNELS[rule.color]
        self._color = rule.color
        self._size = rule.height, rule.width
        self._table = _pixel_values(channels, rule.scale, rule.mean, rule.std)
        flat = self._size if channels == 1 else (*self._size, channels)
        first = rule.layout == "nchw"
        self.shape = (1, channels, *self._size) if first else (1, *self._size, channels)
        # One channel lies in memory as both layouts want it; three have to be moved.
        self._moved = np.empty((*self._size, channels), np.float32) if first else None
        if channels == 1:
            self._moved = None
        self._flat = flat
        self._pixels = np.empty(flat, np.uint8)
        self._means = np.empty(flat, np.float64)
        self._wide = np.empty(0, np.float64)

    def write(self, image: NDArray[np.uint8], tensor: NDArray[np.float32]) -> NDArray[np.float32]:
        """Write the tensor and return it."""
        pixels = self._resized(_colored(_checked_image(image), self._color))
        if self._moved is None:
            cv2.LUT(pixels, self._table, dst=tensor.reshape(self._flat))
        else:
            cv2.LUT(pixels, self._table, dst=self._moved)
            np.copyto(tensor[0], self._moved.transpose(2, 0, 1))
        return tensor

    def _resized(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        height, width = self._size
        if image.shape[:2] == self._size:
            return image
        # OpenCV averages areas only where neither side grows; else "area" means a kind of linear.
        if height <= image.shape[0] and width <= image.shape[1]:
            return self._shrunk(image)
        cv2.resize(image, (width, height), self._pixels, interpolation=cv2.INTER_LINEAR_EXACT)
        return self._pixels

    def _shrunk(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return means over areas, the same bytes on every processor.

        OpenCV's uint8 means differ by one step between x86 and ARM, and a golden set that was
        recorded on one would fail on the other. Its means in double differ by 1e-13, and are
        rounded here.
        """
        if self._wide.shape != image.shape:
            self._wide = np.empty(image.shape, np.float64)
        np.copyto(self._wide, image)
        cv2.resize(self._wide, self._size[::-1], self._means, interpolation=cv2.INTER_AREA)
        np.add(self._means, _ROUND_UP, out=self._means)
        np.copyto(self._pixels, self._means, casting="unsafe")
        return self._pixels


def _checked_image(image: NDArray[Any]) -> NDArray[np.uint8]:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(f"an image is a uint8 array with values from 0 to 255, not {kind}")
    if image.ndim != 2 and (image.ndim != 3 or image.shape[2] != 3):
        raise DataError(f"an image has shape (H, W) or (H, W, 3), not {image.shape}")
    if image.size == 0 or max(image.shape[:2]) > SIDE_LIMIT:
        raise DataError(f"an image has 1 to {SIDE_LIMIT} pixels a side, not shape {image.shape}")
    return image


def _colored(image: NDArray[np.uint8], color: str) -> NDArray[np.uint8]:
    if color == "grey" and image.ndim == 3:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)
    if color == "rgb" and image.ndim == 2:
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2RGB), np.uint8)
    return image


def _check_side(height: int, width: int) -> None:
    if not (1 <= height <= SIDE_LIMIT and 1 <= width <= SIDE_LIMIT):
        raise ConfigError(f"an image input of {height} x {width} pixels is not possible")


@lru_cache(maxsize=16)
def _pixel_values(
    channels: int, scale: float, mean: tuple[float, ...], std: tuple[float, ...]
) -> NDArray[np.float32]:
    """Return ``(byte * scale - mean) / std`` for each byte, (1, 256) or (1, 256, channels)."""
    if len(mean) not in {1, channels} or len(std) not in {1, channels}:
        raise ConfigError(
            f"mean and std need 1 or {channels} values, not {len(mean)} and {len(std)}"
        )
    if not all(std) or not np.isfinite([scale, *mean, *std]).all():
        raise ConfigError(f"scale {scale}, mean {mean} and std {std} make no finite pixel values")
    table = (np.arange(256.0)[:, None] * scale - np.array(mean)) / np.array(std)
    table = np.broadcast_to(table, (256, channels)).astype(np.float32)
    return table.reshape((1, 256) if channels == 1 else (1, 256, channels))


def _prepare_array(array: NDArray[Any], name: str) -> NDArray[np.float32]:
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        kind = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise DataError(f"input {name!r} is a numeric array, not {kind}")
    values = np.ascontiguousarray(array, np.float32)
    if values.size == 0 or not np.isfinite(values).all():
        raise DataError(f"input {name!r} is empty or holds NaN or infinite values")
    return values
