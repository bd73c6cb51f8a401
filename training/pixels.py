"""8-bit images from files that nobody vouches for: bounded, decoded once, never guessed at."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.files import read_bounded

IMAGE_LIMIT_BYTES: Final = 64 << 20
PIXEL_LIMIT: Final = 32 << 20
_WHITE: Final = 127

Pixels: TypeAlias = NDArray[np.uint8]


def read_pixels(path: Path) -> Pixels:
    """Return an image, uint8, (H, W) if it is grey or (H, W, 3) in RGB order.

    Raises:
        DataError: The file is missing, too large, or not an 8-bit image.
    """
    try:
        data = np.frombuffer(read_bounded(path, IMAGE_LIMIT_BYTES), np.uint8)
    except ConfigError as error:
        raise DataError(str(error)) from error
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error as error:
        raise DataError(f"{path.name} cannot be decoded: {error.err}") from error
    if pixels is None:
        raise DataError(f"{path.name} is not an image that OpenCV can read")
    if pixels.dtype != np.uint8:
        raise DataError(f"{path.name} has {pixels.dtype} pixels, expected 8-bit ones")
    if pixels.shape[0] * pixels.shape[1] > PIXEL_LIMIT:
        raise DataError(f"{path.name} has {pixels.shape[:2]} pixels, {PIXEL_LIMIT} are accepted")
    return _as_grey_or_rgb(pixels.astype(np.uint8, copy=False))


def read_mask_pixels(path: Path) -> Pixels:
    """Return a mask as the file holds it, uint8 (H, W); of several channels the brightest.

    Raises:
        DataError: As ``read_pixels``.
    """
    pixels = read_pixels(path)
    return pixels if pixels.ndim == 2 else np.asarray(pixels.max(axis=2))


def binary_mask(mask: Pixels, name: str) -> Pixels:
    """Return a mask of 0 and 1 from one of 0 and 1 or of black and white.

    Args:
        mask: uint8 (H, W).
        name: Of the sample, for the error.

    Raises:
        DataError: It holds neither: with a threshold at white, class numbers would silently
            become an empty mask.
    """
    brightest = int(mask.max(initial=0))
    if 1 < brightest <= _WHITE:
        raise DataError(
            f"the mask of {name} holds numbers up to {brightest}; a mask of two classes holds 0 "
            "and 1, or 0 and 255"
        )
    return (mask > (_WHITE if brightest > 1 else 0)).astype(np.uint8)


@contextmanager
def quiet_opencv() -> Iterator[None]:
    """Keep OpenCV's own lines off stderr: what is wrong with a file is said once, by us."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _as_grey_or_rgb(pixels: Pixels) -> Pixels:
    if pixels.ndim == 2:
        return pixels
    match pixels.shape[2]:
        case 1:
            return pixels[:, :, 0]
        case 2:  # grey and alpha
            return np.ascontiguousarray(pixels[:, :, 0])
        case _:  # BGR, perhaps with alpha
            return np.ascontiguousarray(pixels[:, :, 2::-1])
