"""A glance at a frame ring: what it carries and how far it is, without being a reader of it.

Nothing is mapped and no frame is looked at, so the writer cannot notice, and numpy is not needed:
the agent asks this before it takes a model, and counts by it the frames of a new pair.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from asdic.contract.variant import FrameFormat
from asdic.firmware_bridge.ring import opened_ring, ring_path
from asdic.firmware_bridge.ring_layout import WORD_BYTES, WRITTEN


@dataclass(frozen=True, kw_only=True)
class Glance:
    """A ring at one moment.

    Attributes:
        frames: What its frames are.
        generation: How many rings there were under its name, this one included.
        written: How many frames were written to it.
    """

    frames: FrameFormat
    generation: int
    written: int


def glance_at(name: str) -> Glance:
    """Return what a ring is and how far it is.

    Raises:
        NoRingError: There is none, or not yet.
        DamagedRingError: It is damaged, or was written before this start of the machine.
        ConfigError: That cannot be a ring's name, or it may not be opened.
    """
    with opened_ring(ring_path(name)) as (descriptor, header):
        word = os.pread(descriptor, WORD_BYTES, WRITTEN * WORD_BYTES)
        (written,) = struct.unpack("=Q", word)
        return Glance(frames=header.frames, generation=header.generation, written=written)
