"""What the microcontroller has to do next so that a wanted image runs: rules, and no wires.

Its slots are the truth: a step is found from what they hold and not from what was done before, so
a stop anywhere, of the box or of the microcontroller, needs no memory of how far it had come. One
table serves both ways, to the new image and back to the old one.
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import Final

import msgspec

from asdic.contract.errors import LinkError
from asdic.firmware_bridge.link import FirmwareInfo, ImageSlot, SlotState

PROGRAM_SLOTS: Final = 2
REVERTING: Final = frozenset({"swap", "direct-xip"})
"""Boot modes in which an image that only lies there is not booted, and one on trial is reverted."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """A firmware image as the bootloader knows it: its version and SHA-256 (64 hex digits)."""

    version: str
    digest: str


class FirmwareChange(msgspec.Struct, frozen=True, kw_only=True):
    """What an update does to the microcontroller: what it ran before, and what it is to run.

    ``without_test``: it has said that it cannot boot an image on trial.
    """

    board: str
    before: Image
    after: Image
    without_test: bool = False


class Runs(Enum):
    """What runs, seen from the wanted image."""

    WANTED = "wanted"
    WANTED_ON_TRIAL = "wanted-on-trial"
    OTHER = "other"
    OTHER_ON_TRIAL = "other-on-trial"


class Beside(Enum):
    """What the other slot holds; ``pending`` is booted on trial by the next reset."""

    WANTED = "wanted"
    WANTED_PENDING = "wanted-pending"
    OTHER = "other"
    OTHER_PENDING = "other-pending"


class Move(str, Enum):
    """What is to be done next."""

    UPLOAD = "upload"
    MARK = "mark"
    RESET = "reset"
    CONFIRM = "confirm"
    SETTLED = "settled"


_R = Runs
_B = Beside

MOVES: Final = MappingProxyType(
    {
        (_R.WANTED, _B.WANTED): Move.SETTLED,
        (_R.WANTED, _B.OTHER): Move.SETTLED,
        # Nothing unmarks an image. It is tried once, and the reset after that reverts it.
        (_R.WANTED, _B.WANTED_PENDING): Move.RESET,
        (_R.WANTED, _B.OTHER_PENDING): Move.RESET,
        (_R.WANTED_ON_TRIAL, _B.WANTED): Move.CONFIRM,
        (_R.WANTED_ON_TRIAL, _B.OTHER): Move.CONFIRM,
        (_R.WANTED_ON_TRIAL, _B.WANTED_PENDING): Move.CONFIRM,
        (_R.WANTED_ON_TRIAL, _B.OTHER_PENDING): Move.CONFIRM,
        (_R.OTHER, _B.WANTED): Move.MARK,
        (_R.OTHER, _B.OTHER): Move.UPLOAD,
        (_R.OTHER, _B.WANTED_PENDING): Move.RESET,
        (_R.OTHER, _B.OTHER_PENDING): Move.RESET,
        # A reset reverts what is on trial.
        (_R.OTHER_ON_TRIAL, _B.WANTED): Move.RESET,
        (_R.OTHER_ON_TRIAL, _B.OTHER): Move.RESET,
        (_R.OTHER_ON_TRIAL, _B.WANTED_PENDING): Move.RESET,
        (_R.OTHER_ON_TRIAL, _B.OTHER_PENDING): Move.RESET,
    }
)


def next_move(
    info: FirmwareInfo, wanted: str, *, without_test: bool = False, clears: bool = False
) -> Move:
    """Return what is to be done so that the image ``wanted`` (its digest) runs for good.

    Args:
        info: What the microcontroller says.
        wanted: The image's digest.
        without_test: It cannot boot on trial; a reset boots what was uploaded.
        clears: Another image beside the wanted one is written over, where a reset might boot it.

    Raises:
        LinkError: What it says of its slots makes no sense.
    """
    move = MOVES[_runs(info, wanted), _beside(info, wanted)]
    if without_test and move is Move.MARK:
        return Move.RESET
    is_in_danger = clears and move is Move.SETTLED and _may_boot_another(info, wanted)
    return Move.UPLOAD if is_in_danger else move


def _may_boot_another(info: FirmwareInfo, wanted: str) -> bool:
    """Return whether a bootloader that has not said that it reverts holds another image."""
    held = {slot.digest for slot in _program_slots(info)} - {None, wanted}
    return bool(held) and info.boot_mode not in REVERTING


def running_slot(info: FirmwareInfo) -> ImageSlot:
    """Return the slot whose image runs: the one on trial, else the first that is confirmed.

    Raises:
        LinkError: There is none.
    """
    for state in (SlotState.TESTING, SlotState.CONFIRMED):
        for slot in _program_slots(info):
            if slot.state is state and slot.digest is not None:
                return slot
    raise LinkError(f"the microcontroller {info.board} does not say which image it runs")


def running_image(info: FirmwareInfo) -> Image:
    """Return the image that runs.

    Raises:
        LinkError: It does not say which.
    """
    slot = running_slot(info)
    return Image(version=slot.version or info.version, digest=slot.digest or "")


def _program_slots(info: FirmwareInfo) -> tuple[ImageSlot, ...]:
    """Return the two slots of the program; further ones are other processors' or data."""
    return tuple(slot for slot in info.slots if slot.number < PROGRAM_SLOTS and slot.bootable)


def _runs(info: FirmwareInfo, wanted: str) -> Runs:
    slot = running_slot(info)
    on_trial = slot.state is SlotState.TESTING
    if slot.digest == wanted:
        return Runs.WANTED_ON_TRIAL if on_trial else Runs.WANTED
    return Runs.OTHER_ON_TRIAL if on_trial else Runs.OTHER


def _beside(info: FirmwareInfo, wanted: str) -> Beside:
    running = running_slot(info)
    others = [slot for slot in _program_slots(info) if slot is not running]
    pending = next((slot for slot in others if slot.state is SlotState.PENDING), None)
    if pending is not None:
        return Beside.WANTED_PENDING if pending.digest == wanted else Beside.OTHER_PENDING
    return Beside.WANTED if any(slot.digest == wanted for slot in others) else Beside.OTHER
