"""Whether a release fits what delivers its frames, asked before anything of it is fetched.

Rules alone: what the release needs, beside what the microcontroller and the frame ring say. Each
refusal has a code of its own and a sentence with both sides, which the report carries to the fleet.
"""

from __future__ import annotations

from collections.abc import Callable

from asdic.contract.errors import ConfigError, LinkError
from asdic.contract.firmware import is_in_firmware_range
from asdic.contract.variant import FirmwarePart, FrameFormat, Variant
from asdic.device.config import FirmwareConfig
from asdic.device.update.firmware import (
    REVERTING,
    Move,
    next_move,
    running_image,
    running_slot,
)
from asdic.device.update.refusal import RefusedInstallError, RefusedReleaseError
from asdic.firmware_bridge.link import FirmwareInfo, SlotState, is_same_version
from asdic.firmware_bridge.ring_layout import format_text


def asks_microcontroller(variant: Variant) -> bool:
    """Return whether the microcontroller has to be asked."""
    needs = variant.requires
    return variant.firmware is not None or needs.firmware is not None or needs.board is not None


def asks_ring(variant: Variant, info: FirmwareInfo | None) -> bool:
    """Return whether the ring's format counts now: other firmware may bring other frames."""
    part = variant.firmware
    is_there = part is None or (info is not None and running_image(info).digest == part.digest)
    return variant.requires.frames is not None and is_there


def check_microcontroller(
    variant: Variant,
    info: FirmwareInfo,
    config: FirmwareConfig,
    *,
    is_on_disk: Callable[[str], bool],
) -> None:
    """Check that the microcontroller is the one that a release needs, or can become it.

    ``is_on_disk``: whether an image (its digest) lies in the store, so that it can be written back.

    Raises:
        RefusedReleaseError: The release is for something else.
        RefusedInstallError: This microcontroller cannot take it.
    """
    part, needs = variant.firmware, variant.requires
    board = part.board if part is not None else needs.board
    if board is not None:
        check_board(board, info)
    if part is not None:
        _check_image(part, info, config, is_on_disk=is_on_disk)
    elif needs.firmware is not None:
        _check_range(needs.firmware, info)


def check_board(board: str, info: FirmwareInfo) -> None:
    """Check that the microcontroller is the board that was meant.

    Raises:
        RefusedReleaseError: It is another.
        RefusedInstallError: It does not say which it is.
    """
    if not info.board:
        raise RefusedInstallError(
            "board-unknown",
            f"the release is for the board {board!r}, and the microcontroller does not say what "
            "it is; build its firmware with CONFIG_MCUMGR_GRP_OS_INFO=y",
        )
    if info.board != board:
        raise RefusedReleaseError(
            "wrong-board",
            f"the release is for the board {board!r}, the microcontroller is {info.board!r}",
        )


def _check_range(needed: str, info: FirmwareInfo) -> None:
    try:
        fits = is_in_firmware_range(info.version, needed)
    except ConfigError as error:
        raise RefusedInstallError(
            "firmware-unknown",
            f"the release needs firmware {needed}, and the microcontroller calls its own "
            f"{info.version!r}, which is no version",
        ) from error
    if not fits:
        raise RefusedReleaseError(
            "wrong-firmware",
            f"the release needs firmware {needed}, the microcontroller runs {info.version}",
        )


def check_frames(needs: FrameFormat, found: FrameFormat) -> None:
    """Check that the ring carries what the model needs.

    Raises:
        RefusedReleaseError: It does not.
    """
    if found != needs:
        raise RefusedReleaseError(
            "wrong-frames",
            f"the model needs frames of {format_text(needs)}, the ring carries "
            f"{format_text(found)}",
        )


def check_version(part: FirmwarePart, info: FirmwareInfo) -> None:
    """Check that the microcontroller reports the version that it was given.

    Raises:
        RefusedReleaseError: It reports another one.
    """
    found = running_image(info).version
    if not is_same_version(found, part.version):
        raise RefusedReleaseError(
            "wrong-firmware",
            f"the microcontroller was given firmware {part.version} and reports {found}",
        )


def check_runs_already(part: FirmwarePart, info: FirmwareInfo) -> None:
    """Check that the firmware of the release whose model runs is the one that runs.

    Raises:
        RefusedInstallError: Somebody has changed it.
    """
    running = running_image(info)
    if running.digest != part.digest:
        raise RefusedInstallError(
            "firmware-differs",
            f"this box runs the release's model, and the microcontroller firmware "
            f"{running.version} instead of its {part.version}; write that with `asdic firmware "
            "upload`, or push a release with a new version",
        )


def _check_image(
    part: FirmwarePart,
    info: FirmwareInfo,
    config: FirmwareConfig,
    *,
    is_on_disk: Callable[[str], bool],
) -> None:
    if info.slot_bytes is not None and part.file.size_bytes > info.slot_bytes:
        raise RefusedInstallError(
            "firmware-too-large",
            f"the firmware has {part.file.size_bytes} bytes, a slot of {info.board} has "
            f"{info.slot_bytes}",
        )
    _check_slots(info)
    check_settled(info)
    if running_image(info).digest == part.digest:
        check_version(part, info)
    else:
        check_way_back(info, config, is_on_disk=is_on_disk, can_test_boot=info.can_test_boot)


def _check_slots(info: FirmwareInfo) -> None:
    try:
        running_slot(info)
    except LinkError as error:
        raise RefusedInstallError(
            "firmware-unknown",
            f"the release brings firmware, and {error}; build that for MCUboot, with "
            "CONFIG_MCUMGR_GRP_IMG=y",
        ) from error


def check_settled(info: FirmwareInfo) -> None:
    """Check that the next reset would change nothing: else nobody knows what to go back to.

    Raises:
        RefusedInstallError: An image is on trial, or waits for its trial.
    """
    running = running_slot(info)
    is_pending = any(slot.state is SlotState.PENDING for slot in info.slots)
    if is_pending or next_move(info, running.digest or "") is not Move.SETTLED:
        raise RefusedInstallError(
            "firmware-on-trial",
            f"the microcontroller {info.board} has an image on trial that no update of this box "
            "began; confirm or revert it with `asdic firmware confirm` or `asdic firmware reset`",
        )


def check_way_back(
    info: FirmwareInfo,
    config: FirmwareConfig,
    *,
    is_on_disk: Callable[[str], bool],
    can_test_boot: bool,
) -> None:
    """Check that there is a way back to what runs, and that it may be gone.

    ``can_test_boot``: whether it can boot on trial, as far as that is known by now.

    Raises:
        RefusedInstallError: There is none, or it may not.
    """
    if not can_test_boot:
        _check_policy(info, config)
    if info.boot_mode not in REVERTING and not is_on_disk(running_image(info).digest):
        raise RefusedInstallError(
            "no-way-back",
            f"the bootloader of {info.board} has not said that it reverts what is on trial, and "
            f"the firmware {info.version} that runs is not on this box to be written back; install "
            "a release that brings that firmware first, or build with "
            "CONFIG_MCUMGR_GRP_OS_BOOTLOADER_INFO=y for a bootloader that swaps",
        )


def _check_policy(info: FirmwareInfo, config: FirmwareConfig) -> None:
    if config.without_test_boot == "refuse":
        raise RefusedInstallError(
            "no-test-boot",
            f"the microcontroller {info.board} cannot boot an image on trial; this box takes "
            'firmware for it with `without_test_boot = "re-upload"` under [firmware] in agent.toml',
        )
    if info.boot_mode == "highest-version":
        raise RefusedInstallError(
            "no-way-back",
            f"the microcontroller {info.board} boots the highest version that it holds, so that "
            "nothing leads back to an older one; change its bootloader's mode, or write firmware "
            "to it by hand",
        )
