"""A microcontroller in memory that behaves as MCUboot does, faults included.

It implements ``FirmwareLink``, so whole procedures run against it without hardware; faults are
given as data, in the order in which they strike. ``smp_server.py`` has the same board behind real
datagrams.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final

from asdic.contract.errors import LinkError
from asdic.firmware_bridge.image import IMAGE_START, FirmwareImageError, parse_image
from asdic.firmware_bridge.link import (
    FirmwareInfo,
    FirmwareRefusalError,
    check_uploaded,
    is_same_version,
)
from asdic.firmware_bridge.simulated_board import Boots, Identity, SimulatedBoard, identity_of

UPLOAD_CHUNK_BYTES: Final = 512


class Fault(str, Enum):
    """What goes wrong at the next call (or, for an upload, at its next chunk)."""

    LOST_ANSWER = "lost-answer"
    """It is done, and the answer gets lost."""
    BUSY = "busy"
    NO_SPACE = "no-space"
    RESET = "reset"
    """It restarts instead of answering."""
    GARBAGE = "garbage"
    """It is done, and the answer makes no sense."""
    NONE = "none"
    """Nothing: this call goes well."""


class SimulatedFirmware:
    """One board with two slots of ``slot_bytes``; the first one runs, confirmed.

    Args:
        board: What it calls itself.
        version: What it runs.
        slot_bytes: The size of a slot.
        can_test_boot: Whether it tests an image; else a reset boots what was uploaded, for good.
        clock: Seconds, from anywhere.
        faults: What goes wrong, in order.
        boots: What a reset boots; it decides over ``can_test_boot``.
        misreports: The version that it says an uploaded image has, whatever it has.
        partitions: How many images of data it has beside its firmware.
    """

    def __init__(
        self,
        *,
        board: str = "simulated",
        version: str = "1.0.0",
        slot_bytes: int = 256 << 10,
        can_test_boot: bool = True,
        clock: Callable[[], float],
        faults: Iterable[Fault] = (),
        boots: Boots | None = None,
        misreports: str | None = None,
        partitions: int = 0,
    ) -> None:
        self.board = SimulatedBoard(
            name=board,
            version=version,
            slot_bytes=slot_bytes,
            boots=boots or (Boots.TESTED if can_test_boot else Boots.UPLOADED),
            clock=clock,
            identify=lambda data: Identity(version="", digest=hashlib.sha256(data).hexdigest()),
            misreports=misreports,
            partitions=partitions,
        )
        self._faults = list(faults)

    def info(self) -> FirmwareInfo:
        """Return what runs and what the slots hold."""
        self._strike()
        return FirmwareInfo(
            board=self.board.name,
            version=self.board.version,
            slots=self.board.slots(),
            slot_bytes=self.board.slot_bytes,
            can_test_boot=self.board.boots is Boots.TESTED,
            boot_mode=self.board.boots.value,
            capabilities=("image", "uptime"),
        )

    def upload(
        self,
        image: bytes,
        *,
        version: str,
        progress: Callable[[int, int], None] | None = None,
        resume: bool = True,
        number: int = 0,
    ) -> str:
        """Write ``image`` to the second slot, going on where an earlier try of it stopped.

        Any bytes will do. Those that are no MCUboot image have ``version``, and are known by their
        own SHA-256.
        """
        key = hashlib.sha256(image).digest()
        known = _identity(image, version)
        self.board.identify = lambda _data: known
        if resume and any(slot.digest == known.digest for slot in self.board.slots()):
            done = len(image)  # it was there already
        else:
            done = self.board.begin(len(image), key if resume else None, number=number)
        if progress is not None and done:
            progress(done, len(image))
        while done < len(image):
            self._strike()
            done = self.board.write(done, image[done : done + UPLOAD_CHUNK_BYTES])
            if progress is not None:
                progress(done, len(image))
        check_uploaded(
            self.board.slots(), digest=known.digest, version=version, board=self.board.name
        )
        return known.digest

    def mark_for_test(self, digest: str) -> None:
        """Boot the image with ``digest`` once, at the next reset."""
        self._do(lambda: self.board.mark(digest))

    def confirm(self) -> None:
        """Keep the image that runs now."""
        self._do(self.board.confirm)

    def reset(self) -> None:
        """Restart: a pending image is tried, an unconfirmed one is reverted."""
        self._do(self.board.restart)

    def heartbeat(self) -> float:
        """Return the seconds since the board started."""
        self._strike()
        return self.board.uptime_s

    def _do(self, action: Callable[[], None]) -> None:
        """Do it; where only the answer is lost, it is done all the same."""
        fault = self._faults[0] if self._faults else Fault.NONE
        if fault in {Fault.LOST_ANSWER, Fault.GARBAGE}:
            action()
        self._strike()
        action()

    def _strike(self) -> None:
        if not self._faults:
            return
        name = self.board.name
        match self._faults.pop(0):
            case Fault.NONE:
                return
            case Fault.BUSY:
                raise FirmwareRefusalError("busy", f"{name} is busy; try again")
            case Fault.NO_SPACE:
                raise FirmwareRefusalError("no-space", f"{name} has no space left")
            case Fault.GARBAGE:
                raise LinkError(f"the answer of {name} makes no sense")
            case Fault.RESET:
                self.board.restart()
        raise LinkError(f"no answer from {name}")


def _identity(image: bytes, version: str) -> Identity:
    if image[: len(IMAGE_START)] != IMAGE_START:
        return Identity(version=version, digest=hashlib.sha256(image).hexdigest())
    found = parse_image(image)
    if not is_same_version(found.version, version):
        raise FirmwareImageError(f"the image is version {found.version}, not {version}")
    return identity_of(found)
