"""What asdic asks of the microcontroller beside the Linux box, whatever carries it.

The words are MCUboot's: an image is uploaded to the second slot, marked for test, booted once by
a reset, and confirmed; an image that is not confirmed is reverted by the next reset.
https://docs.mcuboot.com/design.html#image-swapping
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol

import msgspec


class SlotState(str, Enum):
    """What the bootloader will do with an image slot."""

    EMPTY = "empty"
    INACTIVE = "inactive"
    PENDING = "pending"
    TESTING = "testing"
    CONFIRMED = "confirmed"


class ImageSlot(msgspec.Struct, frozen=True, kw_only=True):
    """One image slot: its number, the version (``1.2.0``) and SHA-256 (hex) of what it holds."""

    number: int
    state: SlotState
    version: str | None = None
    digest: str | None = None


class FirmwareInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What runs on the microcontroller and what its bootloader can do."""

    board: str
    version: str
    slots: tuple[ImageSlot, ...]
    slot_bytes: int
    can_test_boot: bool


class FirmwareRefusalError(Exception):
    """The microcontroller answered, and its answer was no. ``code`` is SMP's word for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class FirmwareLink(Protocol):
    """A link to one microcontroller.

    Every call raises ``LinkError`` where no answer came, and ``FirmwareRefusalError`` where the
    answer was no.
    """

    def info(self) -> FirmwareInfo:
        """Return what runs and what the slots hold."""
        ...

    def upload(
        self, image: bytes, *, version: str, progress: Callable[[int, int], None] | None = None
    ) -> str:
        """Write ``image`` to the second slot, going on where an earlier try of it stopped.

        ``progress`` gets bytes done and bytes in all. Returns the image's SHA-256 in hex.
        """
        ...

    def mark_for_test(self, digest: str) -> None:
        """Boot the image with ``digest`` once, at the next reset."""
        ...

    def confirm(self) -> None:
        """Keep the image that runs now."""
        ...

    def reset(self) -> None:
        """Restart the microcontroller."""
        ...

    def heartbeat(self) -> float:
        """Return the seconds since the microcontroller started."""
        ...
