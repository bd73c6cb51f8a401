"""A microcontroller in memory that behaves as MCUboot does, faults included.

It implements ``FirmwareLink``, so whole procedures run against it without hardware; faults are
given as data, in the order in which they strike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final

from asdic.contract.errors import LinkError
from asdic.firmware_bridge.link import FirmwareInfo, FirmwareRefusalError, ImageSlot, SlotState

UPLOAD_CHUNK_BYTES: Final = 512


class Fault(str, Enum):
    """What goes wrong at the next call (or, for an upload, at its next chunk)."""

    LOST_ANSWER = "lost-answer"
    BUSY = "busy"
    RESET = "reset"


class SimulatedFirmware:
    """One board with two slots of ``slot_bytes``; the first one runs, confirmed."""

    def __init__(
        self,
        *,
        board: str = "simulated",
        version: str = "1.0.0",
        slot_bytes: int = 256 << 10,
        can_test_boot: bool = True,
        clock: Callable[[], float],
        faults: Iterable[Fault] = (),
    ) -> None:
        self._board = board
        self._slot_bytes = slot_bytes
        self._can_test_boot = can_test_boot
        self._clock = clock
        self._started = clock()
        self._faults = list(faults)
        digest = hashlib.sha256(version.encode()).hexdigest()
        self._running = ImageSlot(
            number=0, state=SlotState.CONFIRMED, version=version, digest=digest
        )
        self._second = ImageSlot(number=1, state=SlotState.EMPTY)
        self._uploading: tuple[str, int] | None = None

    def info(self) -> FirmwareInfo:
        """Return what runs and what the slots hold."""
        self._strike()
        return FirmwareInfo(
            board=self._board,
            version=self._running.version or "",
            slots=(self._running, self._second),
            slot_bytes=self._slot_bytes,
            can_test_boot=self._can_test_boot,
        )

    def upload(
        self, image: bytes, *, version: str, progress: Callable[[int, int], None] | None = None
    ) -> str:
        """Write ``image`` to the second slot, going on where an earlier try of it stopped."""
        if len(image) > self._slot_bytes:
            raise FirmwareRefusalError(
                "no-space", f"the image has {len(image)} bytes, the slot {self._slot_bytes}"
            )
        if self._running.state is SlotState.TESTING:
            raise FirmwareRefusalError(
                "busy", "an image is being tested; confirm it or reset first"
            )
        digest = hashlib.sha256(image).hexdigest()
        done = self._uploading[1] if self._uploading and self._uploading[0] == digest else 0
        self._second = ImageSlot(number=1, state=SlotState.EMPTY)
        while done < len(image):
            self._uploading = (digest, done)
            self._strike()
            done = min(done + UPLOAD_CHUNK_BYTES, len(image))
            if progress is not None:
                progress(done, len(image))
        self._uploading = None
        self._second = ImageSlot(number=1, state=SlotState.INACTIVE, version=version, digest=digest)
        return digest

    def mark_for_test(self, digest: str) -> None:
        """Boot the image with ``digest`` once, at the next reset."""
        self._strike()
        if not self._can_test_boot:
            raise FirmwareRefusalError(
                "not-supported", f"{self._board} cannot boot an image on trial"
            )
        if self._second.digest != digest:
            raise FirmwareRefusalError("no-entry", f"no slot holds an image with digest {digest}")
        self._second = _in_state(self._second, SlotState.PENDING)

    def confirm(self) -> None:
        """Keep the image that runs now."""
        self._strike()
        self._running = _in_state(self._running, SlotState.CONFIRMED)

    def reset(self) -> None:
        """Restart: a pending image is tried, an unconfirmed one is reverted."""
        self._strike()
        self._restart()

    def heartbeat(self) -> float:
        """Return the seconds since the board started."""
        self._strike()
        return self._clock() - self._started

    def _restart(self) -> None:
        self._started = self._clock()
        if self._second.state is SlotState.PENDING:
            self._swap(SlotState.TESTING)
        elif self._running.state is SlotState.TESTING:
            self._swap(SlotState.CONFIRMED)

    def _swap(self, state: SlotState) -> None:
        running = ImageSlot(
            number=0, state=state, version=self._second.version, digest=self._second.digest
        )
        self._second = ImageSlot(
            number=1,
            state=SlotState.INACTIVE,
            version=self._running.version,
            digest=self._running.digest,
        )
        self._running = running

    def _strike(self) -> None:
        if not self._faults:
            return
        match self._faults.pop(0):
            case Fault.BUSY:
                raise FirmwareRefusalError("busy", f"{self._board} is busy; try again")
            case Fault.RESET:
                self._restart()
        raise LinkError(f"no answer from {self._board}")


def _in_state(slot: ImageSlot, state: SlotState) -> ImageSlot:
    return ImageSlot(number=slot.number, state=state, version=slot.version, digest=slot.digest)
