"""A microcontroller in memory: slots for images, and a bootloader that keeps MCUboot's rules.

No link is in here: ``simulator.py`` puts it behind ``FirmwareLink``, ``smp_server.py`` behind real
datagrams. A refusal is raised by the word that SMP has for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
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


@dataclass(frozen=True, kw_only=True)
class _Upload:
    """An upload that has begun; like Zephyr's, a restart forgets it."""

    number: int
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
        partitions: How many images of data it has beside its firmware, two slots each.
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
        partitions: int = 0,
    ) -> None:
        self.name = name
        self.slot_bytes = slot_bytes
        self.boots = boots
        self.identify = identify or identify_image
        self._clock = clock
        self._started_s = clock()
        self._misreports = misreports
        first = Identity(version=version, digest=hashlib.sha256(version.encode()).hexdigest())
        self._pairs = [_Pair(first), *(_Pair(None) for _ in range(partitions))]
        self._upload: _Upload | None = None

    @property
    def uptime_s(self) -> float:
        """The seconds since it started."""
        return self._clock() - self._started_s

    @property
    def version(self) -> str:
        """The version that runs."""
        running = self._pairs[0].running
        return running.version if running else ""

    def claim(self, version: str) -> None:
        """Let what runs call itself by another version."""
        running = self._pairs[0].running
        if running is not None:
            self._pairs[0].run(replace(running, version=version))

    @property
    def has_partitions(self) -> bool:
        """Whether it has other images than its firmware."""
        return len(self._pairs) > 1

    def slots(self) -> tuple[ImageSlot, ...]:
        """Return what the slots hold: numbers 0 and 1 are the firmware's."""
        return tuple(
            slot for number, pair in enumerate(self._pairs) for slot in pair.slots(2 * number)
        )

    def begin(self, size: int, key: bytes | None, *, number: int = 0) -> int:
        """Begin an upload of ``size`` bytes and return how many of them are there already.

        Args:
            size: In bytes.
            key: The SHA-256 of the upload, by which it is resumed; None begins anew.
            number: Which image it is; 0 is the firmware.
        """
        if not 0 <= number < len(self._pairs):
            raise FirmwareRefusalError("invalid-slot", f"{self.name} has no image {number}")
        if size > self.slot_bytes:
            raise FirmwareRefusalError(
                "no-space", f"the image has {size} bytes, the slot {self.slot_bytes}"
            )
        pair = self._pairs[number]
        if pair.is_needed:
            raise FirmwareRefusalError(
                "no-free-slot", "an image is being tested; confirm it or reset first"
            )
        held = self._upload
        if held is None or key is None or (held.number, held.key, held.size) != (number, key, size):
            self._upload = held = _Upload(number=number, key=key, size=size)
            pair.put(None)
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

    def erase(self, slot: int) -> None:
        """Empty a slot that does not run."""
        number, at = divmod(slot, 2)
        if not 0 <= number < len(self._pairs):
            raise FirmwareRefusalError("invalid-slot", f"{self.name} has no slot {slot}")
        pair = self._pairs[number]
        if pair.is_needed or pair.runs_from(at):
            raise FirmwareRefusalError("no-free-slot", "the image is needed")
        pair.put(None)
        self._upload = None

    def mark(self, digest: str) -> None:
        """Boot the image with ``digest`` once, at the next reset."""
        if self.boots is not Boots.TESTED:
            raise FirmwareRefusalError(
                "not-supported", f"{self.name} cannot boot an image on trial"
            )
        pair = next((one for one in self._pairs if one.holds(digest)), None)
        if pair is None:
            raise FirmwareRefusalError(
                "hash-not-found", f"no slot holds an image with digest {digest}"
            )
        pair.is_pending = True

    def confirm(self) -> None:
        """Keep what runs; the firmware does the same for its data."""
        for pair in self._pairs:
            pair.is_confirmed = True

    def restart(self) -> None:
        """Do what the bootloader does."""
        self._started_s = self._clock()
        self._upload = None
        for number, pair in enumerate(self._pairs):
            pair.boot(self.boots, takes_data=number > 0)

    def _finish(self, held: _Upload) -> None:
        self._upload = None
        found = self.identify(held.data)
        if found is not None and self._misreports is not None:
            found = replace(found, version=self._misreports)
        self._pairs[held.number].put(found)


class _Pair:
    """The two slots of one image."""

    def __init__(self, first: Identity | None) -> None:
        self._held: list[Identity | None] = [first, None]
        self._active = 0
        self.is_confirmed = True
        self.is_pending = False

    @property
    def running(self) -> Identity | None:
        return self._held[self._active]

    @property
    def is_needed(self) -> bool:
        """Whether the slot that does not run must stay as it is."""
        return self.is_pending or not self.is_confirmed

    def runs_from(self, at: int) -> bool:
        return at == self._active

    def holds(self, digest: str) -> bool:
        return self._beside is not None and self._beside.digest == digest

    def put(self, image: Identity | None) -> None:
        """Put an image into the slot that does not run."""
        self._held[1 - self._active] = image

    def run(self, image: Identity) -> None:
        """Put an image in the place of the one that runs."""
        self._held[self._active] = image

    def slots(self, first: int) -> Iterator[ImageSlot]:
        for at, held in enumerate(self._held):
            if held is None:
                yield ImageSlot(number=first + at, state=SlotState.EMPTY)
            else:
                yield ImageSlot(
                    number=first + at,
                    state=self._state(at),
                    version=held.version,
                    digest=held.digest,
                    bootable=held.bootable,
                )

    def boot(self, boots: Boots, *, takes_data: bool) -> None:
        """Do what the bootloader does with these two slots."""
        other = self._beside
        if boots is Boots.TESTED:
            self._test(other, takes_data=takes_data)
        elif other is None or not (other.bootable or takes_data):
            return
        elif boots is Boots.UPLOADED:
            self._held = [other, None]
        elif self.running is None or _is_higher(other, self.running):
            self._active = 1 - self._active

    def _test(self, other: Identity | None, *, takes_data: bool) -> None:
        """Swap what is pending in, or what is not confirmed out."""
        if self.is_pending and other is not None and (other.bootable or takes_data):
            self._held.reverse()
            self.is_confirmed = False
        elif not self.is_confirmed:
            self._held.reverse()
            self.is_confirmed = True
        self.is_pending = False

    @property
    def _beside(self) -> Identity | None:
        return self._held[1 - self._active]

    def _state(self, at: int) -> SlotState:
        if at == self._active:
            return SlotState.CONFIRMED if self.is_confirmed else SlotState.TESTING
        return SlotState.PENDING if self.is_pending else SlotState.INACTIVE


def _is_higher(one: Identity, other: Identity) -> bool:
    return firmware_version(one.version) > firmware_version(other.version)
