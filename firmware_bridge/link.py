"""What asdic asks of the microcontroller beside the Linux box, whatever carries it.

The words are MCUboot's: an image is uploaded to the second slot, marked for test, booted once by
a reset, and confirmed; an image that is not confirmed is reverted by the next reset.
https://docs.mcuboot.com/design.html#image-swapping
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Protocol

import msgspec

from asdic.contract.errors import AsdicError, ConfigError
from asdic.contract.firmware import firmware_version


class SlotState(str, Enum):
    """What the bootloader will do with an image slot."""

    EMPTY = "empty"
    INACTIVE = "inactive"
    PENDING = "pending"
    TESTING = "testing"
    CONFIRMED = "confirmed"


class ImageSlot(msgspec.Struct, frozen=True, kw_only=True):
    """One image slot: its number, the version (``1.2.0``) and SHA-256 (hex) of what it holds.

    Slots 0 and 1 are the firmware's, 2 and 3 those of image number 1, and so on. ``bootable`` is
    False for an image that is data, such as a model.
    """

    number: int
    state: SlotState
    version: str | None = None
    digest: str | None = None
    bootable: bool = True


class FirmwareInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What runs on the microcontroller and what its bootloader can do.

    Attributes:
        board: What it calls itself (``nucleo_h743zi/stm32h743xx``); empty where it does not say.
        version: The version that runs; empty where it does not say.
        slots: What its image slots hold.
        slot_bytes: The size of a slot; None where it does not say.
        can_test_boot: False where its bootloader has said that it reverts nothing. One that has
            not said may still refuse to mark an image.
        boot_mode: How its bootloader updates (``swap``, ``overwrite``, ``direct-xip``, ...);
            None where it does not say.
        capabilities: What it answers to: the groups of SMP's commands, and ``uptime``.
    """

    board: str
    version: str
    slots: tuple[ImageSlot, ...]
    slot_bytes: int | None = None
    can_test_boot: bool
    boot_mode: str | None = None
    capabilities: tuple[str, ...] = ()


class FirmwareRefusalError(AsdicError):
    """The microcontroller answered, and its answer was no. ``code`` is SMP's word for why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class WrongFirmwareError(AsdicError):
    """The microcontroller says that it holds another image than it was given."""


class FirmwareLink(Protocol):
    """A link to one microcontroller.

    Every call raises ``LinkError`` where no answer came or it made no sense, and
    ``FirmwareRefusalError`` where the answer was no.
    """

    def info(self) -> FirmwareInfo:
        """Return what runs and what the slots hold."""
        ...

    def upload(
        self,
        image: bytes,
        *,
        version: str,
        progress: Callable[[int, int], None] | None = None,
        resume: bool = True,
        number: int = 0,
    ) -> str:
        """Write ``image`` to the slot that is not running, and look that it is there.

        ``progress`` gets bytes done and bytes in all; what it raises ends the upload. ``resume``:
        go on where an earlier try of the same image stopped. ``number``: which image of the
        microcontroller it is; 0 is the firmware. Returns the image's SHA-256 in hex,
        by which its bootloader knows it.

        Raises:
            WrongFirmwareError: The slot then holds another image or version.
        """
        ...

    def mark_for_test(self, digest: str) -> None:
        """Boot the image with ``digest`` once, at the next reset.

        Raises:
            FirmwareRefusalError: With the code ``not-supported``, where the bootloader cannot.
        """
        ...

    def confirm(self) -> None:
        """Keep the image that runs now."""
        ...

    def reset(self) -> None:
        """Restart the microcontroller."""
        ...

    def heartbeat(self) -> float:
        """Return the seconds since the microcontroller started, or a lower bound of them."""
        ...


def is_same_version(one: str, other: str) -> bool:
    """Return whether two versions are one: no build number is build number 0."""
    try:
        return (*firmware_version(one), 0)[:4] == (*firmware_version(other), 0)[:4]
    except ConfigError:
        return one == other


def check_uploaded(slots: Iterable[ImageSlot], *, digest: str, version: str, board: str) -> None:
    """Check that a slot holds what was uploaded.

    Raises:
        WrongFirmwareError: None does, or under another version; the message says both.
    """
    others = [slot for slot in slots if slot.state is not SlotState.EMPTY]
    found = next((slot for slot in others if slot.digest == digest), None)
    who = f"the microcontroller {board}".rstrip()
    if found is None:
        held = ", ".join(f"{slot.version} ({(slot.digest or '?')[:12]})" for slot in others)
        raise WrongFirmwareError(
            f"{who} was given {version} ({digest[:12]}) and holds {held or 'nothing'}; upload again"
        )
    if not is_same_version(found.version or "", version):
        raise WrongFirmwareError(
            f"{who} was given version {version} and says that it is {found.version}; "
            "do not test or confirm it"
        )
