"""The one answer that the package smp expects otherwise than Zephyr writes it.

Asked for its bootloader's mode, Zephyr answers ``{"mode": 1}``, perhaps with ``no-downgrade``; smp
waits for that inside of a ``response``, and for a name beside it.
https://docs.zephyrproject.org/latest/services/device_mgmt/smp_groups/smp_group_0.html
"""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict
from smp.header import CommandId, GroupId
from smp.message import ReadResponse
from smp.os_management import (
    BootloaderInformationReadRequest,
    OSManagementErrorV1,
    OSManagementErrorV2,
)


class BootModeAnswer(ReadResponse):
    """How the bootloader updates, by MCUboot's number."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    _GROUP_ID = GroupId.OS_MANAGEMENT
    _COMMAND_ID = CommandId.OSManagement.BOOTLOADER_INFO

    mode: int | None = None
    response: dict[str, Any] | None = None

    @property
    def number(self) -> int | None:
        """The mode, wherever it stands."""
        found = self.mode if self.mode is not None else (self.response or {}).get("mode")
        return found if isinstance(found, int) else None


class BootModeRead(BootloaderInformationReadRequest):
    """Asks for it."""

    _Response = BootModeAnswer
    _ErrorV1 = OSManagementErrorV1
    _ErrorV2 = OSManagementErrorV2


def boot_mode_request() -> BootModeRead:
    """Return the question how the bootloader updates."""
    return BootModeRead(query="mode")
