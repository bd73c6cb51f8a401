"""A simulated acquisition: the images of a folder, played at a frame rate into a ring.

It stands in for a probe and its firmware wherever there is none: in tests, in a demonstration, on a
desk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.files import read_bounded
from asdic.contract.variant import FrameFormat
from asdic.firmware_bridge.frame_writer import FrameWriter

IMAGE_LIMIT_BYTES: Final = 64 << 20
FOLDER_LIMIT_BYTES: Final = 1 << 30
SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})


def read_pictures(
    folder: Path, *, height: int | None = None, width: int | None = None, channels: str = "grey"
) -> tuple[FrameFormat, Sequence[NDArray[Any]]]:
    """Return the images of a folder, by name, as frames of one format.

    Args:
        folder: Holds 8-bit images.
        height: Of the frames; None takes the first image's.
        width: Of the frames; None takes the first image's.
        channels: ``grey`` or ``rgb``.

    Raises:
        ConfigError: There are no images, or more than fit into memory.
        DataError: One cannot be read.
    """
    flag = {"grey": cv2.IMREAD_GRAYSCALE, "rgb": cv2.IMREAD_COLOR}.get(channels)
    if flag is None:
        raise ConfigError(f"frames are played as grey or rgb, not {channels!r}")
    paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise ConfigError(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))})")
    first = _read(paths[0], flag)
    frames = FrameFormat(
        height=height or first.shape[0], width=width or first.shape[1], channels=channels
    )
    size = frames.height * frames.width * (3 if channels == "rgb" else 1)
    if size * len(paths) > FOLDER_LIMIT_BYTES:
        raise ConfigError(f"{len(paths)} frames of {size:,} bytes take more than 1 GiB of memory")
    pixels = [_sized(_read(path, flag), frames) for path in paths]
    return frames, pixels


def play(
    writer: FrameWriter,
    pictures: Sequence[NDArray[Any]],
    *,
    fps: float,
    count: int | None = None,
    stopped: Callable[[], bool] = lambda: False,
    rest: Callable[[float], None] = time.sleep,
) -> int:
    """Write the pictures in turn at ``fps`` frames a second, and return how many were written.

    A frame that the machine was too busy to write in time is not written later: it counts as lost,
    as a sensor's would.

    Args:
        writer: Of a ring whose format the pictures have.
        pictures: As of ``read_pictures``.
        fps: Frames a second.
        count: How many; None is no end.
        stopped: Is asked between two frames.
        rest: Sleeps for so many seconds.

    Raises:
        ConfigError: The rate makes no sense.
        DataError: A picture has another format.
    """
    if not 0 < fps <= 10_000:
        raise ConfigError(f"{fps:g} frames a second are not possible; use 0 to 10000")
    begun_s = time.monotonic()
    written = 0
    for number in _numbers(fps, begun_s, writer):
        if written == count or stopped():
            break
        rest(max(0.0, begun_s + number / fps - time.monotonic()))
        writer.write(pictures[number % len(pictures)])
        written += 1
    return written


def _numbers(fps: float, begun_s: float, writer: FrameWriter) -> Iterator[int]:
    """Yield the frames' numbers, without those whose time is over."""
    number = 0
    while True:
        yield number
        due = int((time.monotonic() - begun_s) * fps)
        if due > number + 1:
            writer.count_lost(due - number - 1)
        number = max(number + 1, due)


def _read(path: Path, flag: int) -> NDArray[Any]:
    try:
        data = np.frombuffer(read_bounded(path, IMAGE_LIMIT_BYTES), np.uint8)
        pixels = cv2.imdecode(data, flag) if data.size else None
    except (ConfigError, cv2.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if pixels is None:
        raise DataError(f"{path} is not an image that OpenCV can read")
    return np.asarray(pixels)


def _sized(pixels: NDArray[Any], frames: FrameFormat) -> NDArray[Any]:
    if pixels.shape[:2] != (frames.height, frames.width):
        size = (frames.width, frames.height)
        pixels = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
    # OpenCV gives blue, green, red.
    return np.ascontiguousarray(pixels[:, :, ::-1] if pixels.ndim == 3 else pixels)
