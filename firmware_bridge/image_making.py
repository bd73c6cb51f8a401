"""Making MCUboot images with imgtool: firmware, and models as partitions of data.

imgtool is called as its command is, in this process: its options are its public face. What it made
is read back with our own parser, and must say what was asked for.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Final

import click
import msgspec

from asdic.contract.errors import ConfigError, MissingPackageError
from asdic.contract.firmware import firmware_version
from asdic.contract.variant import BOARD_LIMIT, FIRMWARE_LIMIT_BYTES, FrameFormat
from asdic.firmware_bridge.image import (
    BOARD,
    FRAMES,
    HEADER_BYTES,
    IMAGE_START,
    Dependency,
    FirmwareImage,
    FirmwareImageError,
    packed_frames,
    parse_image,
)
from asdic.firmware_bridge.image_keys import check_private_key, check_signature

ALIGNMENTS: Final = (1, 2, 4, 8, 16, 32)
MODEL_ALIGNMENT_BYTES: Final = 16
"""What TensorFlow Lite needs in the flash; a slot begins at a sector, so the header decides."""
_TFLITE: Final = b"TFL3"


class ImageSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What an image is to say, and the slot that it is for.

    Attributes:
        version: ``1.4.2`` or ``1.4.2+7``.
        slot_bytes: The size of the slot; image and bootloader's trailer must fit.
        header_bytes: Where the payload begins.
        align: The flash's write unit in bytes.
        board: The board that it is for.
        security_counter: A bootloader that looks at it takes no lower one.
        dependencies: What it needs of other images.
        frames: The frames that the model in it was made for.
        bootable: False for data.
        load_address: Where the bootloader copies it to, on a board that runs from RAM.
        overwrite_only: The bootloader swaps nothing, and its trailer is smaller.
    """

    version: str
    slot_bytes: int
    header_bytes: int = HEADER_BYTES
    align: int = 8
    board: str | None = None
    security_counter: int | None = None
    dependencies: tuple[Dependency, ...] = ()
    frames: FrameFormat | None = None
    bootable: bool = True
    load_address: int | None = None
    overwrite_only: bool = False


def make_image(payload: bytes, spec: ImageSpec, *, key: Path | None) -> bytes:
    """Return ``payload`` as an MCUboot image.

    Args:
        payload: The program; it may begin with ``header_bytes`` zeros, as Zephyr leaves them.
        spec: What the image is to say.
        key: The file of the private key; None leaves it unsigned.

    Raises:
        ConfigError: A figure makes no sense, or others may read the key.
        FirmwareImageError: It does not fit the slot, or is an image already.
        MissingPackageError: ``asdic[firmware]`` is not installed.
    """
    _check(payload, spec)
    public = None if key is None else check_private_key(key)
    data = _signed_by_imgtool(payload, spec, key)
    made = parse_image(data)
    _check_made(made, spec)
    if public is not None:
        check_signature(data, public)
    return data


def make_model_image(model: bytes, spec: ImageSpec, *, key: Path | None) -> bytes:
    """Return a ``.tflite`` as an image that is data: the bootloader checks it and never boots it.

    Raises:
        ConfigError: It is no TFLite model, or would lie across the alignment that it needs.
        FirmwareImageError: It does not fit the slot.
    """
    if model[4:8] != _TFLITE:
        raise ConfigError("the model is no TFLite file (its bytes 4 to 8 are not TFL3)")
    if spec.header_bytes % MODEL_ALIGNMENT_BYTES:
        raise ConfigError(
            f"after a header of {spec.header_bytes} bytes the model is not aligned to "
            f"{MODEL_ALIGNMENT_BYTES}; give a multiple of it"
        )
    return make_image(model, msgspec.structs.replace(spec, bootable=False), key=key)


def _check(payload: bytes, spec: ImageSpec) -> None:
    firmware_version(spec.version)
    for dependency in spec.dependencies:
        firmware_version(dependency.version)
    if payload[:4] == IMAGE_START:
        raise FirmwareImageError(
            "that is an MCUboot image already; give what the compiler made (Zephyr's zephyr.bin)"
        )
    if not payload:
        raise FirmwareImageError("there is nothing to make an image of: the file is empty")
    if spec.align not in ALIGNMENTS:
        raise ConfigError(f"a flash writes {', '.join(map(str, ALIGNMENTS))} bytes at once")
    if not 0 < spec.slot_bytes <= FIRMWARE_LIMIT_BYTES or spec.slot_bytes % spec.align:
        raise ConfigError(
            f"a slot of {spec.slot_bytes} bytes cannot be: 1 to {FIRMWARE_LIMIT_BYTES}, and a "
            f"multiple of the {spec.align} bytes that the flash writes at once"
        )
    if not HEADER_BYTES <= spec.header_bytes <= 1 << 15:
        raise ConfigError(f"a header has {HEADER_BYTES} to {1 << 15} bytes")
    if spec.board is not None and not (
        0 < len(spec.board) <= BOARD_LIMIT and spec.board.isprintable()
    ):
        raise ConfigError(f"{spec.board!r} is not a board's name (1 to {BOARD_LIMIT} letters)")
    if len(payload) + spec.header_bytes > spec.slot_bytes:
        raise FirmwareImageError(
            f"{len(payload)} bytes do not fit a slot of {spec.slot_bytes}, with a header of "
            f"{spec.header_bytes} and the bootloader's trailer"
        )


def _signed_by_imgtool(payload: bytes, spec: ImageSpec, key: Path | None) -> bytes:
    try:
        from imgtool.main import sign
    except ModuleNotFoundError as error:
        raise MissingPackageError(error.name or "imgtool", "firmware") from error
    with tempfile.TemporaryDirectory(prefix="asdic-image-") as folder:
        source, target = Path(folder) / "payload.bin", Path(folder) / "image.bin"
        source.write_bytes(payload)
        words = [*_options(payload, spec, key), str(source), str(target)]
        try:
            with redirect_stdout(io.StringIO()):
                sign.main(args=words, prog_name="imgtool", standalone_mode=False)
        except click.ClickException as error:
            raise FirmwareImageError(f"imgtool refused: {error.format_message()}") from error
        return target.read_bytes()


def _options(payload: bytes, spec: ImageSpec, key: Path | None) -> Iterator[str]:
    yield from ("--version", spec.version, "--slot-size", str(spec.slot_bytes))
    yield from ("--header-size", str(spec.header_bytes), "--align", str(spec.align))
    if any(payload[: spec.header_bytes]):
        yield "--pad-header"
    if spec.overwrite_only:
        yield "--overwrite-only"
    if not spec.bootable:
        yield "--non-bootable"
    if spec.load_address is not None:
        yield from ("--load-addr", str(spec.load_address))
    if spec.security_counter is not None:
        yield from ("--security-counter", str(spec.security_counter))
    if spec.dependencies:
        needed = ", ".join(f"({one.image}, {one.version})" for one in spec.dependencies)
        yield from ("--dependencies", needed)
    if spec.board is not None:
        yield from ("--custom-tlv", hex(BOARD), f"0x{spec.board.encode().hex()}")
    if spec.frames is not None:
        yield from ("--custom-tlv", hex(FRAMES), f"0x{packed_frames(spec.frames).hex()}")
    if key is not None:
        yield from ("--key", str(key))


def _check_made(made: FirmwareImage, spec: ImageSpec) -> None:
    """Check that the image says what was asked for: imgtool's options are not ours."""
    facts = {
        name: (getattr(made, name), getattr(spec, name))
        for name in ("board", "frames", "security_counter", "header_bytes")
    }
    facts["version"] = (firmware_version(made.version), firmware_version(spec.version))
    facts["bootable"] = (made.is_bootable, spec.bootable)
    facts["dependencies"] = (
        [(one.image, firmware_version(one.version)) for one in made.dependencies],
        [(one.image, firmware_version(one.version)) for one in spec.dependencies],
    )
    wrong = sorted(name for name, (found, wanted) in facts.items() if found != wanted)
    if wrong:
        raise FirmwareImageError(f"imgtool made an image with another {', '.join(wrong)}")
