"""The newest frame of a shared-memory ring, for a stream or for the runner service.

It outlives the writer: while there is no ring, or a damaged one, there are no frames, and
``trouble`` says why; another ring in the old one's place is opened. A frame is copied out of the
ring once, because a stream may hold it for longer than the writer takes to come round.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final

from asdic.contract.errors import AsdicError, DataError
from asdic.contract.variant import FrameFormat
from asdic.device.runner.stream import STALL_S, TimedFrame
from asdic.firmware_bridge.frames import FormatChangedError, FrameOverwrittenError, RingReader
from asdic.firmware_bridge.ring import open_ring, ring_path
from asdic.firmware_bridge.ring_layout import DamagedRingError, format_text

PREFIX: Final = "ring:"
_LOOK_S: Final = 0.05
_TURN_S: Final = 0.1


class RingSource:
    """A ``FrameSource`` that reads a ring; for one thread.

    Args:
        name: The ring's name, or the path of its file.
        required: What its frames have to be; None takes any.
        stall_s: A frame that was captured longer ago is not given.

    Attributes:
        required: As above; it may be set anew at any time.
        trouble: Why there are no frames, where that is known.

    Raises:
        ConfigError: That cannot be a ring's name.
    """

    def __init__(
        self, name: str, *, required: FrameFormat | None = None, stall_s: float = STALL_S
    ) -> None:
        self.path = ring_path(name)
        self.required = required
        self.trouble = ""
        self._stall_s = stall_s
        self._reader: RingReader | None = None
        self._lost_before = 0
        self._heard_s = time.monotonic()
        self._is_closed = False

    def __enter__(self) -> RingSource:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[TimedFrame]:
        """Give frames until ``close``.

        Raises:
            DataError: The ring's frames are not what is required.
        """
        while not self._is_closed:
            if (frame := self.next(_TURN_S)) is not None:
                yield frame

    @property
    def lost(self) -> int:
        """How many frames were written and not given, through all rings of this name."""
        return self._lost_before + (self._reader.lost if self._reader is not None else 0)

    @property
    def silent_s(self) -> float:
        """For how long there was no frame."""
        return time.monotonic() - self._heard_s

    def check(self, required: FrameFormat | None) -> None:
        """Check that the ring's frames are what a model needs; a ring that is not there may be.

        It may be called in any thread.

        Raises:
            DataError: They are not.
        """
        try:
            frames = open_ring(self.path).header.frames
        except AsdicError:
            return
        self._check(frames, required)

    def next(self, timeout_s: float) -> TimedFrame | None:
        """Return the newest frame that was not given yet, or None where none comes in time.

        Raises:
            DataError: The ring's frames are not what is required.
        """
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0 and not self._is_closed:
            reader = self._reader or self._opened()
            if reader is None:
                time.sleep(min(_LOOK_S, left_s))
            else:
                self._check(reader.frames, self.required)
                if (frame := self._read(reader, left_s)) is not None:
                    return frame
        return None

    def close(self) -> None:
        """End the iteration, within a tenth of a second, and let go of the ring."""
        self._is_closed = True

    def _check(self, frames: FrameFormat, required: FrameFormat | None) -> None:
        if required is not None and frames != required:
            raise DataError(
                f"the frame ring {self.path} carries {format_text(frames)}, "
                f"the model needs {format_text(required)}"
            )

    def _read(self, reader: RingReader, timeout_s: float) -> TimedFrame | None:
        """Return a frame in memory of its own, or None; a ring that is no good is let go of."""
        try:
            frame = reader.wait(timeout_s)
            pixels = frame.copy() if frame is not None else None
        except FrameOverwrittenError:
            self._lost_before += 1
            return None
        except (FormatChangedError, DamagedRingError) as error:
            self._let_go(reader, str(error))
            return None
        if frame is None or pixels is None:
            return None
        self.trouble = ""
        self._heard_s = time.monotonic()
        return TimedFrame(pixels, frame.captured_s)

    def _opened(self) -> RingReader | None:
        try:
            self._reader = RingReader.open(self.path, stall_s=self._stall_s)
        except AsdicError as error:  # whatever it is, the writer or the operator may mend it
            self.trouble = str(error)
            return None
        self.trouble = f"the frame ring {self.path} has no fresh frame"
        return self._reader

    def _let_go(self, reader: RingReader, why: str) -> None:
        self._lost_before += reader.lost
        self._reader = None
        self.trouble = why
        reader.close()


def ring_named(frames: str) -> RingSource | None:
    """Return the source that ``ring:NAME`` names; None is for a folder's name.

    Raises:
        ConfigError: That cannot be a ring's name.
    """
    return RingSource(frames.removeprefix(PREFIX)) if frames.startswith(PREFIX) else None
