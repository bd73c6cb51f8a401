"""Frames out of a shared-memory ring: whole ones, in order, without copying, and never old ones.

::

    with RingReader.open("probe") as reader:
        while True:
            frame = reader.wait(0.1)
            if frame is None:
                show_no_signal(reader.silent_s)
                continue
            mean = frame.pixels.mean()          # in the ring itself
            if frame.is_intact():               # the writer did not come round meanwhile
                show(mean)

A reader never holds up the writer: it maps the ring read-only, takes no lock that the writer knows,
and is overtaken if it is slow. What it did not get, it counts. ``docs/frames.md`` has the whole
story; ``ring_layout.py`` the bytes.
"""

from __future__ import annotations

import ctypes
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, LinkError
from asdic.contract.variant import FrameFormat
from asdic.firmware_bridge.rhythm import NAP_NS, Rhythm
from asdic.firmware_bridge.ring import MappedRing, open_ring, ring_path
from asdic.firmware_bridge.ring_layout import (
    CAPTURED,
    COMMITTED,
    LOST,
    LOST_BEFORE,
    SEQUENCE,
    SUCCESSOR,
    WRITTEN,
    DamagedRingError,
    format_text,
)

STALL_S: Final = 2.0
# A microcontroller's clock may be a little ahead; one that is far ahead is another clock.
AHEAD_S: Final = 1.0
_TRIES: Final = 100
_LOOK_S: Final = 0.1
_PR_SET_TIMERSLACK: Final = 29


class FormatChangedError(LinkError):
    """Another ring has taken this one's place: the writer changed its format. Open it again."""


class FrameOverwrittenError(LinkError):
    """The writer came round and wrote another frame over this one."""


class RingFrame(msgspec.Struct, frozen=True, eq=False, kw_only=True):
    """One frame, where the writer wrote it.

    Attributes:
        number: Counted by the writer, from 0.
        captured_s: When it was captured (``time.monotonic``), as the writer says.
        written_ns: When it was whole (``time.monotonic_ns``).
        lost: How many frames this reader did not get, directly before this one.
        writer_lost: How many frames had never reached the ring by then, as the writer says.
        pixels: (H, W) or (H, W, 3), read-only, and overwritten when the writer comes round.
        ring: Where it lies; kept mapped for as long as the frame is held.
        word: The index of its slot's sequence.
    """

    number: int
    captured_s: float
    written_ns: int
    lost: int
    writer_lost: int
    pixels: NDArray[Any]
    ring: MappedRing
    word: int

    def is_intact(self) -> bool:
        """Whether the pixels are still this frame's, and were until now."""
        self.ring.words.fence()
        return self.ring.words.load(self.word) == 2 * self.number + 2

    def copy(self) -> NDArray[Any]:
        """Return the pixels in memory of their own, which never change.

        Raises:
            FrameOverwrittenError: The writer was faster.
        """
        pixels = self.pixels.copy()
        if not self.is_intact():
            raise FrameOverwrittenError(
                f"frame {self.number} was overwritten; read faster, or make the ring longer"
            )
        return pixels


class RingReader:
    """Reads one ring; any number may do so at once. One reader is for one thread.

    Args:
        ring: The mapped ring.
        stall_s: A frame that was captured longer ago is not given.
        in_order: Give every frame that is still there; else the newest one.

    Attributes:
        lost: Frames that were written since this reader was opened and that it did not get: they
            were overwritten, passed over for a newer one, or too old.
    """

    def __init__(
        self, ring: MappedRing, *, stall_s: float = STALL_S, in_order: bool = False
    ) -> None:
        if not stall_s > 0:
            raise ConfigError(f"no signal takes a positive number of seconds, not {stall_s}")
        self._mapped: MappedRing | None = ring
        self._stall_ns = int(stall_s * 1e9)
        self._in_order = in_order
        self._first = ring.words.load(WRITTEN)
        self._next = max(0, self._first - 1)
        self._lost_before_next = 0
        self._heard_s = time.monotonic()
        self._look_at_s = 0.0
        self._rhythm = Rhythm()
        self._punctual_thread = 0
        self.lost = 0

    @classmethod
    def open(
        cls, name: str | Path, *, stall_s: float = STALL_S, in_order: bool = False
    ) -> RingReader:
        """Open a ring by its name or path.

        Raises:
            NoRingError: There is none, or not yet.
            DamagedRingError: It is damaged, or was written before this start of the machine.
            ConfigError: It may not be opened, or a figure makes no sense.
        """
        return cls(open_ring(ring_path(name)), stall_s=stall_s, in_order=in_order)

    def __enter__(self) -> RingReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def frames(self) -> FrameFormat:
        """What its frames are."""
        return self._ring.header.frames

    @property
    def generation(self) -> int:
        """How many rings there were under this name, this one included."""
        return self._ring.header.generation

    @property
    def slots(self) -> int:
        """How many frames it holds, of which one may be being written."""
        return self._ring.header.slots

    @property
    def written(self) -> int:
        """How many frames were written to it."""
        return self._ring.words.load(WRITTEN)

    @property
    def writer_lost(self) -> int:
        """How many frames never reached it, as the writer says."""
        return self._ring.words.load(LOST)

    @property
    def silent_s(self) -> float:
        """For how long there was no frame that is fresh."""
        return time.monotonic() - self._heard_s

    def read(self) -> RingFrame | None:
        """Return the next frame, or None where there is none that is fresh. It waits for nothing.

        Raises:
            FormatChangedError: Another ring has taken this one's place.
            DamagedRingError: What the writer left there contradicts itself.
        """
        words = self._ring.words
        for overtaken in range(_TRIES):
            written = words.load(WRITTEN)
            if written == self._next:
                self._check_place()
                return None
            if written < self._next:
                raise self._damaged(f"it counts {written} frames after {self._next}")
            number = self._chosen(written, overtaken)
            words.fence()
            frame = self._frame(number)
            if frame is not None:
                self._pass_over(number)
                if (fresh := self._taken(frame)) is not None:
                    return fresh
            elif words.load(WRITTEN) == written:
                raise self._damaged(f"frame {number} is not in its slot")
        return None  # a writer that comes round faster than a frame can be looked at

    def wait(self, timeout_s: float) -> RingFrame | None:
        """Return the next frame, or None where none that is fresh comes within the time.

        It sleeps until shortly before the next frame is due (``rhythm.py``). For that, the kernel
        is asked to wake the calling thread on time, which it remembers for that thread.

        Raises:
            FormatChangedError: Another ring has taken this one's place.
            DamagedRingError: What the writer left there contradicts itself.
        """
        self._be_punctual()
        deadline_ns = time.monotonic_ns() + int(timeout_s * 1e9)
        while (frame := self.read()) is None:
            now_ns = time.monotonic_ns()
            if now_ns >= deadline_ns:
                return None
            rest_ns = self._rhythm.rest_ns(now_ns)
            if rest_ns == NAP_NS:
                self._rehearse()
            rest_ns = min(rest_ns, deadline_ns - now_ns)
            time.sleep(rest_ns / 1e9)
            self._rhythm.slept(rest_ns, time.monotonic_ns() - now_ns)
        return frame

    def close(self) -> None:
        """Let go of the ring; frames that are still held stay readable."""
        self._mapped = None

    @property
    def _ring(self) -> MappedRing:
        if self._mapped is None:
            raise ConfigError("the reader of the frame ring is closed")
        return self._mapped

    def _chosen(self, written: int, overtaken: int) -> int:
        """Return the number of the frame to read; the more often overtaken, the newer."""
        if not self._in_order:
            return written - 1
        # The slot of the oldest one may be being overwritten just now.
        oldest = written - self.slots + 1 + overtaken
        return min(max(self._next, oldest), written - 1)

    def _frame(self, number: int) -> RingFrame | None:
        """Return a frame, or None where it is no longer in its slot."""
        words = self._ring.words
        slot = number % self.slots
        word = self._ring.slot_word(slot)
        if words.load(word + SEQUENCE) != 2 * number + 2:
            return None
        words.fence()
        frame = RingFrame(
            number=number,
            captured_s=words.load(word + CAPTURED) / 1e9,
            written_ns=words.load(word + COMMITTED),
            lost=number - self._next + self._lost_before_next,
            writer_lost=words.load(word + LOST_BEFORE),
            pixels=self._ring.pixels[slot],
            ring=self._ring,
            word=word + SEQUENCE,
        )
        return frame if frame.is_intact() else None

    def _rehearse(self) -> None:
        """Look at the last frame once more, while the next one is due.

        After tens of milliseconds of sleep the processor's caches hold other things, and the first
        reading takes three times as long (measured: 51 against 16 us); so the first one is this.
        """
        if self._next > 0:
            self._frame(self._next - 1)

    def _pass_over(self, number: int) -> None:
        self.lost += number - self._next
        self._next = number + 1

    def _taken(self, frame: RingFrame) -> RingFrame | None:
        """Return a frame if it is fresh; learn when the next one is due."""
        self._rhythm.heard(frame.number, frame.written_ns)
        now_s = time.monotonic()
        if frame.captured_s > now_s + AHEAD_S:
            raise self._damaged(
                f"frame {frame.number} was captured {frame.captured_s - now_s:.0f} s from now; the "
                "writer has to use CLOCK_MONOTONIC"
            )
        if (now_s - frame.captured_s) * 1e9 > self._stall_ns:
            is_counted = frame.number >= self._first
            self.lost += is_counted
            self._lost_before_next = frame.lost + is_counted
            return None
        self._lost_before_next = 0
        self._heard_s = now_s
        return frame

    def _check_place(self) -> None:
        """See whether another ring has taken this one's place; the disk is asked in silence."""
        now_s = time.monotonic()
        is_replaced = self._ring.words.load(SUCCESSOR) != 0
        if not is_replaced and now_s - self._heard_s > _LOOK_S and now_s > self._look_at_s:
            # A writer that was killed at that very moment could not say so.
            self._look_at_s = now_s + _LOOK_S
            is_replaced = not self._ring.is_in_place
        if is_replaced:
            raise FormatChangedError(
                f"another frame ring has taken the place of {self._ring.path} (it had "
                f"{format_text(self.frames)}); open it again"
            )

    def _be_punctual(self) -> None:
        """Let the kernel wake this thread within a microsecond of the time, not within fifty."""
        if self._punctual_thread != threading.get_ident():
            self._punctual_thread = threading.get_ident()
            ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)

    def _damaged(self, why: str) -> DamagedRingError:
        return DamagedRingError(f"the frame ring {self._ring.path} is damaged: {why}")
