"""What SMP's numbers mean in our words: refusals, groups of commands, boot modes, slot states."""

from __future__ import annotations

from enum import IntEnum
from types import MappingProxyType
from typing import Any, Final

from smp.error import MGMT_ERR
from smp.header import GroupId
from smp.image_management import IMG_MGMT_ERR, ImageState
from smp.os_management import MCUbootMode

from asdic.firmware_bridge.link import ImageSlot, SlotState

VERSION_LIMIT: Final = 32

REFUSALS: Final = MappingProxyType(
    {
        MGMT_ERR.EUNKNOWN: "unknown",
        MGMT_ERR.ENOMEM: "no-memory",
        MGMT_ERR.EINVAL: "invalid",
        MGMT_ERR.ETIMEOUT: "timeout",
        MGMT_ERR.ENOENT: "no-entry",
        MGMT_ERR.EBADSTATE: "bad-state",
        MGMT_ERR.EMSGSIZE: "too-large",
        MGMT_ERR.ENOTSUP: "not-supported",
        MGMT_ERR.ECORRUPT: "corrupt",
        MGMT_ERR.EBUSY: "busy",
        MGMT_ERR.EACCESSDENIED: "access-denied",
        MGMT_ERR.UNSUPPORTED_TOO_OLD: "too-old",
        MGMT_ERR.UNSUPPORTED_TOO_NEW: "too-new",
        IMG_MGMT_ERR.INVALID_IMAGE_TOO_LARGE: "no-space",
    }
)
"""The numbers of one group are not those of another; what is not here keeps SMP's own name."""

BOOT_MODES: Final = MappingProxyType[int, str](
    {
        MCUbootMode.APPLICATION: "single-slot",
        MCUbootMode.SWAP_USING_SCRATCH: "swap",
        MCUbootMode.OVERWRITE_ONLY: "overwrite",
        MCUbootMode.SWAP_WITHOUT_SCRATCH: "swap",
        MCUbootMode.DIRECT_XIP_WITHOUT_REVERT: "highest-version",
        MCUbootMode.DIRECT_XIP_WITH_REVERT: "direct-xip",
        MCUbootMode.RAM_LOADER: "highest-version",
    }
)
REVERTING: Final = frozenset({"swap", "direct-xip"})
"""The boot modes that give up an image which was tested and not confirmed."""


def refusal_code(answer: Any) -> str:
    """Return the word for an error answer of either version of SMP."""
    code: IntEnum = answer.rc if hasattr(answer, "rc") else answer.err.rc
    # IntEnums of two groups with one number are equal, so a look-up has to mind the type.
    words = {type(one): word for one, word in REFUSALS.items() if one == code}
    return words.get(type(code), code.name.lower().replace("_", "-"))


def group_name(group: int) -> str:
    """Return the name of a group of commands: ``image``, ``os``, ``user-64``."""
    try:
        return GroupId(group).name.removesuffix("_MANAGEMENT").lower().replace("_", "-")
    except ValueError:
        return f"user-{int(group)}"


def slot_of(state: ImageState) -> ImageSlot:
    """Return what an image state says, as one of ours."""
    return ImageSlot(
        number=2 * (state.image or 0) + state.slot,
        state=_slot_state(state),
        version=_version(state.version),
        digest=state.hash.hex() if state.hash else None,
        bootable=state.bootable is not False,
    )


def printable(text: str, limit: int) -> str:
    """Return what may be shown of a text that a microcontroller sent."""
    return "".join(one for one in text[: 2 * limit] if one.isprintable()).strip()[:limit]


def _version(text: str) -> str:
    """Return a version as MCUboot's tools write it; Zephyr prints a build number after a point."""
    shown = printable(text, VERSION_LIMIT)
    start, point, build = shown.rpartition(".")
    return f"{start}+{build}" if point and start.count(".") == 2 else shown


def _slot_state(state: ImageState) -> SlotState:
    if state.active:
        return SlotState.CONFIRMED if state.confirmed else SlotState.TESTING
    # What is confirmed and not running is what a reset goes back to.
    return SlotState.PENDING if state.pending else SlotState.INACTIVE
