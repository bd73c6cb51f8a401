"""Pictures for a runner: the images in a folder, or the inputs of the variant's golden set."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.files import read_bounded
from asdic.contract.variant import Variant
from asdic.device.runner.golden import read_golden

IMAGE_LIMIT_BYTES: Final = 64 << 20
SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})

Frame: TypeAlias = NDArray[Any] | Mapping[str, NDArray[Any]]


def read_image(path: Path) -> NDArray[np.uint8]:
    """Return an image as it is stored: uint8, (H, W) grey or (H, W, 3) RGB.

    Raises:
        DataError: It is not an 8-bit image that OpenCV can read.
    """
    try:
        data = np.frombuffer(read_bounded(path, IMAGE_LIMIT_BYTES), np.uint8)
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except (ConfigError, cv2.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if pixels is None or pixels.dtype != np.uint8:
        raise DataError(f"{path} is not an 8-bit image that OpenCV can read")
    if pixels.ndim == 2:
        return np.asarray(pixels, np.uint8)
    # OpenCV gives blue, green, red and perhaps alpha; two channels are grey and alpha.
    order: Any = 0 if pixels.shape[2] < 3 else slice(2, None, -1)
    return np.ascontiguousarray(pixels[:, :, order], np.uint8)


def image_paths(folder: Path) -> tuple[Path, ...]:
    """Return the images in ``folder``, by name.

    Raises:
        ConfigError: There are none.
    """
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ConfigError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    return tuple(paths)


def frames_for(variant: Variant, folder: Path, images: Sequence[Path]) -> Iterator[Frame]:
    """Yield frames without end: ``images``, or the golden inputs where there are none.

    Raises:
        ConfigError: There are neither.
        DataError: An image cannot be read.
    """
    if images:
        return map(read_image, itertools.cycle(images))  # goes on after an image that is damaged
    if variant.golden is None:
        raise ConfigError(f"{folder} has no golden set; name a folder of images with --frames")
    samples = read_golden(folder / variant.golden.file.name)
    return itertools.cycle(sample.inputs for sample in samples)
