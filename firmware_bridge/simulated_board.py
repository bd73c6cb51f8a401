"""A microcontroller in memory: two image slots, and a bootloader that keeps MCUboot's rules.

No link is in here: ``simulator.py`` puts it behind ``FirmwareLink``, ``smp_server.py`` behind real
datagrams. A refusal is raised by the word that SMP has for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from asdic.contract.firmware import firmware_version
from asdic.firmware_bridge.image import FirmwareImage, FirmwareImageError, parse_image
from asdic.firmware_bridge.link import FirmwareRefusalError, ImageSlot, SlotState

DIGEST_BYTES: Final = 32


class Boots(str, Enum):
    """Which image a reset boots."""

    TESTED = "swap"
    """The one marked for test, once; it is reverted unless it is confirmed."""
    UPLOADED = "overwrite"
    """The one uploaded last, for good. Nothing is tried."""
    HIGHEST = "highest-version"
    """The one with the higher version. Nothing is tried."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """How the bootloader knows an image: its version, its SHA-256 (hex), and whether it boots."""

    version: str
    digest: str
    bootable: bool = True


def identity_of(image: FirmwareImage) -> Identity:
    """Return how the bootloader knows ``image``."""
    return Identity(version=image.version, digest=image.digest, bootable=image.is_bootable)


def identify_image(data: bytes) -> Identity | None:
    """Return how the bootloader knows an image; None where it finds none."""
    try:
        return identity_of(parse_image(data))
    except FirmwareImageError:
        return None


@dataclass(frozen=True)
class _Upload:
    """An upload that has begun; like Zephyr's, a restart forgets it."""

    key: bytes | None
    size: int
    data: bytes = b""


class SimulatedBoard:
    """One board; slot 0 runs, confirmed.

    Args:
        name: What it calls itself.
        version: What it runs.
        slot_bytes: The size of each slot.
        boots: What its bootloader does at a reset.
        clock: Seconds, from anywhere.
        identify: Returns how the bootloader knows what was uploaded; as an MCUboot image.
        misreports: The version that it says an uploaded image has, whatever it has.
    """

    def __init__(
        self,
        *,
        name: str,
        version: str,
        slot_bytes: int,
        boots: Boots,
        clock: Callable[[], float],
        identify: Callable[[bytes], Identity | None] | None = None,
        misreports: str | None = None,
    ) -> None:
        self.name = name
        self.slot_bytes = slot_bytes
        self.boots = boots
        self.identify = identify or identify_image
        self._clock = clock
        self._started_s = clock()
        self._misreports = misreports
        first = Identity(version=version, digest=hashlib.sha256(version.encode()).hexdigest())
        self._slots: list[Identity | None] = [first, None]
        self._active = 0
        self._is_confirmed = True
        self._is_pending = False
        self._upload: _Upload | None = None

    @property
    def uptime_s(self) -> float:
        """The seconds since it started."""
        return self._clock() - self._started_s

    @property
    def version(self) -> str:
        """The version that runs."""
        running = self._slots[self._active]
        return running.version if running else ""

    def slots(self) -> tuple[ImageSlot, ...]:
        """Return what the slots hold."""
        return tuple(self._slot(number) for number in range(len(self._slots)))

    def begin(self, size: int, key: bytes | None) -> int:
        """Begin an upload of ``size`` bytes and return how many of them are there already.

        Args:
            size: In bytes.
            key: The SHA-256 of the upload, by which it is resumed; None begins anew.
        """
        if size > self.slot_bytes:
            raise FirmwareRefusalError(
                "no-space", f"the image has {size} bytes, the slot {self.slot_bytes}"
            )
        if not self._is_confirmed or self._is_pending:
            raise FirmwareRefusalError(
                "no-free-slot", "an image is being tested; confirm it or reset first"
            )
        held = self._upload
        if held is None or key is None or (held.key, held.size) != (key, size):
            self._upload = held = _Upload(key, size)
            self._slots[self._other] = None
        return len(held.data)

    def write(self, offset: int, data: bytes) -> int:
        """Take ``data`` if it is what comes next, and return where to go on."""
        held = self._upload
        if held is None:
            return 0
        if offset != len(held.data):
            return len(held.data)
        if offset + len(data) > held.size:
            raise FirmwareRefusalError("invalid-image-data-overrun", "more data than was announced")
        self._upload = held = replace(held, data=held.data + data)
        if len(held.data) == held.size:
            self._finish(held)
        return offset + len(data)

    def erase(self) -> None:
        """Empty the slot that does not run."""
        if self._is_pending or not self._is_confirmed:
            raise FirmwareRefusalError("no-free-slot", "the image is needed")
        self._slots[self._other] = None
        self._upload = None

    def mark(self, digest: str) -> None:
        """Boot the image with ``digest`` once, at the next reset."""
        if self.boots is not Boots.TESTED:
            raise FirmwareRefusalError(
                "not-supported", f"{self.name} cannot boot an image on trial"
            )
        held = self._slots[self._other]
        if held is None or held.digest != digest:
            raise FirmwareRefusalError(
                "hash-not-found", f"no slot holds an image with digest {digest}"
            )
        if not held.bootable:
            raise FirmwareRefusalError("invalid", f"{held.version} is data and does not boot")
        self._is_pending = True

    def confirm(self) -> None:
        """Keep the image that runs."""
        self._is_confirmed = True

    def restart(self) -> None:
        """Do what the bootloader does."""
        self._started_s = self._clock()
        self._upload = None
        match self.boots:
            case Boots.TESTED if self._is_pending:
                self._slots.reverse()
                self._is_pending, self._is_confirmed = False, False
            case Boots.TESTED if not self._is_confirmed:
                self._slots.reverse()
                self._is_confirmed = True
            case Boots.UPLOADED if self._boots_other():
                self._slots = [self._slots[self._other], None]
            case Boots.HIGHEST if self._boots_other() and self._is_higher():
                self._active = self._other

    @property
    def _other(self) -> int:
        return 1 - self._active

    def _boots_other(self) -> bool:
        held = self._slots[self._other]
        return held is not None and held.bootable

    def _is_higher(self) -> bool:
        held = self._slots[self._other]
        return held is not None and firmware_version(held.version) > firmware_version(self.version)

    def _finish(self, held: _Upload) -> None:
        self._upload = None
        found = self.identify(held.data)
        if found is not None and self._misreports is not None:
            found = replace(found, version=self._misreports)
        self._slots[self._other] = found

    def _slot(self, number: int) -> ImageSlot:
        held = self._slots[number]
        if held is None:
            return ImageSlot(number=number, state=SlotState.EMPTY)
        return ImageSlot(
            number=number,
            state=self._state(number),
            version=held.version,
            digest=held.digest,
            bootable=held.bootable,
        )

    def _state(self, number: int) -> SlotState:
        if number == self._active:
            return SlotState.CONFIRMED if self._is_confirmed else SlotState.TESTING
        return SlotState.PENDING if self._is_pending else SlotState.INACTIVE
