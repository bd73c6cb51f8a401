"""Whether an image is for this microcontroller: judged before a byte of it is sent."""

from __future__ import annotations

from asdic.contract.firmware import firmware_version
from asdic.firmware_bridge.image import FirmwareImage, FirmwareImageError
from asdic.firmware_bridge.link import FirmwareInfo


def check_fits(
    image: FirmwareImage,
    info: FirmwareInfo,
    *,
    number: int = 0,
    board: str | None = None,
    any_board: bool = False,
) -> None:
    """Check that an image is for the microcontroller that says ``info`` of itself.

    Args:
        image: The image.
        info: The microcontroller.
        number: Which of its images this is to become; 0 is the firmware.
        board: What board the image is for, as the operator says, where it does not say itself.
        any_board: Do not compare boards.

    Raises:
        FirmwareImageError: It is for another board, too large for the slot, data where a program
            belongs, or needs firmware that does not run there; the message says both sides.
    """
    if number == 0 and not image.is_bootable:
        raise FirmwareImageError(
            "the image is data, and image 0 is the firmware; say --number of its partition (1)"
        )
    if not any_board:
        _check_board(image.board, info.board, board)
    if info.slot_bytes is not None and image.size_bytes > info.slot_bytes:
        raise FirmwareImageError(
            f"the image has {image.size_bytes} bytes, a slot of {info.board} {info.slot_bytes}"
        )
    for needed in image.dependencies:
        if needed.image == 0 and not _has(info.version, needed.version):
            raise FirmwareImageError(
                f"the image needs firmware {needed.version} or newer, and {info.board} runs "
                f"{info.version or 'one that does not say its version'}"
            )


def _check_board(theirs: str | None, found: str, said: str | None) -> None:
    if theirs is not None and said not in {None, theirs}:
        raise FirmwareImageError(f"the image is for the board {theirs!r}, not {said!r}")
    wanted = theirs or said
    if wanted is None:
        raise FirmwareImageError(
            f"the image does not say for which board it is, and this one is {found!r}; say "
            "--board NAME, or make the image with `asdic firmware image --board`"
        )
    if not found:
        raise FirmwareImageError(
            f"the image is for the board {wanted!r}, and the microcontroller does not say what it "
            "is; if you know better, say --any-board"
        )
    if wanted != found:
        raise FirmwareImageError(
            f"the image is for the board {wanted!r}, and this is {found!r}; nothing was sent"
        )


def _has(running: str, needed: str) -> bool:
    if not running:
        return False
    return (*firmware_version(running), 0)[:4] >= (*firmware_version(needed), 0)[:4]
