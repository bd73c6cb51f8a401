"""The writer's end of a frame ring in Python: for simulated sources and for tests.

Firmware and acquisition processes use ``c/asdic_frames.h``, which does the same.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import DataError
from asdic.contract.variant import FrameFormat
from asdic.firmware_bridge.ring import (
    MappedRing,
    NoRingError,
    make_ring,
    open_ring,
    ring_lock,
    ring_path,
)
from asdic.firmware_bridge.ring_layout import (
    CAPTURED,
    COMMITTED,
    LOST,
    LOST_BEFORE,
    MAGIC,
    SEQUENCE,
    WRITTEN,
    DamagedRingError,
    format_text,
    frame_shape,
)

SLOTS: Final = 8


def ensure_ring(name: str | Path, frames: FrameFormat, *, slots: int = SLOTS) -> MappedRing:
    """Return the ring of this name and format, made anew where there is none.

    A writer does this under its lock, and so must everyone else (``ring_lock``).

    Raises:
        ConfigError: There cannot be such a ring, or a file that is no ring bears its name.
    """
    path = ring_path(name)
    try:
        found = open_ring(path, writable=True)
    except NoRingError:
        return make_ring(path, frames, slots=slots)
    except DamagedRingError:
        if not _bears_magic(path):
            raise
        return make_ring(path, frames, slots=slots)
    if (found.header.frames, found.header.slots) == (frames, slots):
        return found
    return make_ring(path, frames, slots=slots, succeeds=found)


class FrameWriter:
    """Writes one ring, as the only one; a context manager.

    It goes on in the ring that a writer before it left, and a ring of another format takes that
    one's place.

    Args:
        name: The ring's name or path.
        frames: What its frames are.
        slots: How many frames it holds.

    Raises:
        LinkError: Another process writes it.
        ConfigError: There cannot be such a ring, or not here.
    """

    def __init__(self, name: str | Path, frames: FrameFormat, *, slots: int = SLOTS) -> None:
        with ExitStack() as held:
            held.enter_context(ring_lock(ring_path(name)))
            self._ring: MappedRing | None = ensure_ring(name, frames, slots=slots)
            self._held = held.pop_all()
        self._is_begun = False
        self._number = _recovered(self._ring)

    def __enter__(self) -> FrameWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def number(self) -> int:
        """The number of the frame that is written next."""
        return self._number

    def begin(self) -> NDArray[Any]:
        """Return the memory for the next frame; its oldest one is gone from now on.

        A frame that was begun and not committed counts as lost.
        """
        ring = self._mapped
        if self._is_begun:
            self.count_lost(1)
        self._is_begun = True
        slot = self._number % ring.header.slots
        ring.words.store(ring.slot_word(slot) + SEQUENCE, 2 * self._number + 1)
        ring.words.fence()
        return ring.pixels[slot]

    def commit(self, captured_s: float | None = None) -> int:
        """Give the frame to the readers and return its number.

        Args:
            captured_s: When it was captured (``time.monotonic``); None is now.
        """
        ring = self._mapped
        if not self._is_begun:
            raise DataError("a frame has to be begun before it is committed")
        number, words = self._number, ring.words
        word = ring.slot_word(number % ring.header.slots)
        now_ns = time.monotonic_ns()
        words.store(word + CAPTURED, now_ns if captured_s is None else int(captured_s * 1e9))
        words.store(word + COMMITTED, now_ns)
        words.store(word + LOST_BEFORE, words.load(LOST))
        words.fence()
        words.store(word + SEQUENCE, 2 * number + 2)
        words.fence()
        words.store(WRITTEN, number + 1)
        self._number, self._is_begun = number + 1, False
        return number

    def write(self, pixels: NDArray[Any], captured_s: float | None = None) -> int:
        """Write a frame and return its number.

        Raises:
            DataError: It has another shape or dtype than the ring's frames.
        """
        frames = self._mapped.header.frames
        if (pixels.shape, pixels.dtype) != (frame_shape(frames), np.dtype(frames.dtype)):
            raise DataError(
                f"the ring carries {format_text(frames)}, "
                f"the frame is {pixels.shape} {pixels.dtype}"
            )
        self.begin()[...] = pixels
        return self.commit(captured_s)

    def count_lost(self, frames: int) -> None:
        """Say that frames were lost before they reached the ring."""
        words = self._mapped.words
        words.store(LOST, words.load(LOST) + frames)

    def close(self) -> None:
        """Leave the ring as it is; another writer may go on in it."""
        self._ring = None
        self._held.close()

    @property
    def _mapped(self) -> MappedRing:
        if self._ring is None:
            raise DataError("the frame writer is closed")
        return self._ring


def _recovered(ring: MappedRing) -> int:
    """Finish what a killed writer left and return the number of the next frame."""
    words = ring.words
    number = words.load(WRITTEN)
    sequence = words.load(ring.slot_word(number % ring.header.slots) + SEQUENCE)
    if sequence == 2 * number + 2:  # whole, but not announced
        number += 1
        words.store(WRITTEN, number)
    elif sequence == 2 * number + 1:
        words.store(LOST, words.load(LOST) + 1)
    return number


def _bears_magic(path: Path) -> bool:
    """Whether a file was a ring once: nothing else is replaced."""
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC
