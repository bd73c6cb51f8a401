"""A small frame ring: its frames, what writes them, and a writer that is faulty."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from asdic.contract.variant import FrameFormat
from asdic.firmware_bridge.frame_writer import FrameWriter
from asdic.firmware_bridge.ring import open_ring

FRAMES = FrameFormat(height=6, width=8)
SLOTS = 4


def picture(value: int, frames: FrameFormat = FRAMES) -> np.ndarray:
    """Return a frame of one value."""
    return np.full((frames.height, frames.width), value, frames.dtype)


def write(writer: FrameWriter, *values: int) -> None:
    """Write a frame for each value."""
    for value in values:
        writer.write(picture(value))


def spoiled(path: Path, word: int, value: int) -> None:
    """Store a word as a faulty writer would."""
    open_ring(path, writable=True).words.store(word, value)
