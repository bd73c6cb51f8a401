"""Reading an MCUboot image: what it is, for which board, and whether its bytes are whole.

    header        32 bytes, padded to ``header_bytes``: version, sizes, flags
    payload       the program, or the model
    protected     TLVs that the digest covers: security counter, dependencies, and asdic's own
    unprotected   TLVs that it does not: the digest itself, the key's digest, the signature

Pure: bytes in, a value out or an error; no size is believed before it is checked.
https://docs.mcuboot.com/design.html#image-format
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from types import MappingProxyType
from typing import Final

import msgspec

from asdic.contract.errors import ConfigError, ReleaseError
from asdic.contract.variant import BOARD_LIMIT, FIRMWARE_LIMIT_BYTES, FrameFormat
from asdic.firmware_bridge.ring_layout import CHANNELS, DTYPES, check_format

MAGIC: Final = 0x96F3B83D
IMAGE_START: Final = MAGIC.to_bytes(4, "little")
HEADER_BYTES: Final = 32
NON_BOOTABLE: Final = 0x10
ENCRYPTED: Final = 0x4 | 0x8
TLVS_LIMIT: Final = 64

# MCUboot's TLVs; and ours, in the range that it leaves to vendors (0x..A0 to 0x..FF).
KEY_DIGEST, PUBLIC_KEY, DIGEST = 0x01, 0x02, 0x10
RSA_2048_SIGNATURE, ECDSA_SIGNATURE, RSA_3072_SIGNATURE, ED25519_SIGNATURE = 0x20, 0x22, 0x23, 0x24
DEPENDENCY, SECURITY_COUNTER = 0x40, 0x50
BOARD, FRAMES = 0x41A0, 0x41A1

SIGNATURES: Final = MappingProxyType(
    {
        RSA_2048_SIGNATURE: "rsa-2048",
        ECDSA_SIGNATURE: "ecdsa",
        RSA_3072_SIGNATURE: "rsa-3072",
        ED25519_SIGNATURE: "ed25519",
    }
)

_HEADER: Final = struct.Struct("<IIHHIIBBHII")
_AREA: Final = struct.Struct("<HH")
_DEPENDENCY: Final = struct.Struct("<B3xBBHI")
_COUNTER: Final = struct.Struct("<I")
_FRAMES: Final = struct.Struct("<IIIId")
_PLAIN, _PROTECTED = 0x6907, 0x6908


class FirmwareImageError(ReleaseError):
    """The bytes are no MCUboot image, or not the one that was meant."""


class Dependency(msgspec.Struct, frozen=True, kw_only=True):
    """The oldest version that image number ``image`` must have for this one to work."""

    image: int
    version: str


class FirmwareImage(msgspec.Struct, frozen=True, kw_only=True):
    """What an image says of itself; its digest is right.

    Attributes:
        version: ``1.4.2``, or ``1.4.2+7`` with a build number.
        digest: SHA-256 (hex) of header, payload and protected TLVs, by which the bootloader knows
            it.
        size_bytes: Of the whole file.
        header_bytes: Where the payload begins.
        payload_bytes: How long it is.
        flags: MCUboot's.
        security_counter: It never falls, where the bootloader looks at it.
        dependencies: What it needs of other images.
        board: The board that it is for; None where it does not say.
        frames: The frames that the model in it was made for.
        signature: How it is signed, one of ``SIGNATURES``; None where it is not.
    """

    version: str
    digest: str
    size_bytes: int
    header_bytes: int
    payload_bytes: int
    flags: int
    security_counter: int | None = None
    dependencies: tuple[Dependency, ...] = ()
    board: str | None = None
    frames: FrameFormat | None = None
    signature: str | None = None

    @property
    def is_bootable(self) -> bool:
        """Whether it is a program, and not data such as a model."""
        return not self.flags & NON_BOOTABLE


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """An image taken apart: where the signed bytes end, and its TLVs in order."""

    signed: bytes
    plain: tuple[tuple[int, bytes], ...]
    protected: tuple[tuple[int, bytes], ...]


def parse_image(data: bytes, *, what: str = "the image") -> FirmwareImage:
    """Return what an image says of itself, after checking its sizes and its digest.

    Raises:
        FirmwareImageError: It is no MCUboot image, cut off, too large, or damaged.
    """
    header = _header(data, what)
    parts = image_parts(data, what=what)
    digest = hashlib.sha256(parts.signed).digest()
    stated = _one(parts.plain, DIGEST, what, size=32)
    if stated is None:
        raise FirmwareImageError(f"{what} has no SHA-256, by which asdic and the board know it")
    if stated != digest:
        raise FirmwareImageError(
            f"{what} is damaged: its SHA-256 is {digest.hex()[:12]}, and it says another"
        )
    counter = _one(parts.protected, SECURITY_COUNTER, what, size=_COUNTER.size)
    return FirmwareImage(
        version=_version(*header[6:10]),
        digest=digest.hex(),
        size_bytes=len(data),
        header_bytes=header[2],
        payload_bytes=header[4],
        flags=header[5],
        security_counter=None if counter is None else _COUNTER.unpack(counter)[0],
        dependencies=tuple(_dependencies(parts, what)),
        board=_board(_one(parts.protected, BOARD, what), what),
        frames=_frames(_one(parts.protected, FRAMES, what, size=_FRAMES.size), what),
        signature=_signature(parts),
    )


def image_parts(data: bytes, *, what: str = "the image") -> Parts:
    """Return the TLVs of an image and the bytes that its digest and signature cover.

    Raises:
        FirmwareImageError: It is no MCUboot image, cut off, or too large.
    """
    header = _header(data, what)
    protected_bytes, end = header[3], header[2] + header[4]
    protected: tuple[tuple[int, bytes], ...] = ()
    if protected_bytes:
        protected = tuple(_area(data, end, _PROTECTED, what))
        if _AREA.unpack_from(data, end)[1] != protected_bytes:
            raise FirmwareImageError(f"{what} states two lengths for its protected TLVs")
        end += protected_bytes
    plain = tuple(_area(data, end, _PLAIN, what))
    return Parts(signed=data[:end], plain=plain, protected=protected)


def payload_of(data: bytes, image: FirmwareImage) -> bytes:
    """Return the program or model in an image."""
    return data[image.header_bytes : image.header_bytes + image.payload_bytes]


def packed_frames(frames: FrameFormat) -> bytes:
    """Return a frame format as its TLV: the C struct ``asdic_format``, little-endian."""
    check_format(frames)
    return _FRAMES.pack(
        *(frames.height, frames.width, DTYPES[frames.dtype], CHANNELS[frames.channels]),
        frames.scale,
    )


def _header(data: bytes, what: str) -> tuple[int, ...]:
    if len(data) > FIRMWARE_LIMIT_BYTES:
        raise FirmwareImageError(
            f"{what} has {len(data)} bytes; asdic takes {FIRMWARE_LIMIT_BYTES} at most"
        )
    if len(data) < HEADER_BYTES or _HEADER.unpack_from(data)[0] != MAGIC:
        raise FirmwareImageError(
            f"{what} is no MCUboot image (it begins with {data[:4].hex() or 'nothing'}); "
            "make one with `asdic firmware image`"
        )
    fields = _HEADER.unpack_from(data)
    header_bytes, flags = fields[2], fields[5]
    if header_bytes < HEADER_BYTES:
        raise FirmwareImageError(f"{what} states a header of {header_bytes} bytes")
    if header_bytes + fields[3] + fields[4] > len(data):
        raise FirmwareImageError(
            f"{what} is cut off: it states {header_bytes + fields[3] + fields[4]} bytes and more, "
            f"and has {len(data)}"
        )
    if flags & ENCRYPTED:
        raise FirmwareImageError(f"{what} is encrypted, which asdic does not read")
    return fields


def _area(data: bytes, at: int, magic: int, what: str) -> Iterator[tuple[int, bytes]]:
    """Yield the TLVs of the area that begins at ``at``."""
    if at + _AREA.size > len(data):
        raise FirmwareImageError(f"{what} is cut off: its TLVs are missing")
    found, size = _AREA.unpack_from(data, at)
    if found != magic or size < _AREA.size:
        raise FirmwareImageError(f"{what} is damaged: no TLVs after {at} bytes")
    end = at + size
    if end > len(data):
        raise FirmwareImageError(f"{what} is cut off in its TLVs")
    at += _AREA.size
    for _ in range(TLVS_LIMIT):
        if at == end:
            return
        if at + _AREA.size > end:
            break
        kind, length = _AREA.unpack_from(data, at)
        at += _AREA.size
        if at + length > end:
            break
        yield kind, data[at : at + length]
        at += length
    raise FirmwareImageError(f"{what} is damaged: its TLVs do not fill their {size} bytes")


def _one(
    tlvs: tuple[tuple[int, bytes], ...], kind: int, what: str, *, size: int | None = None
) -> bytes | None:
    found = [value for one, value in tlvs if one == kind]
    if len(found) > 1:
        raise FirmwareImageError(f"{what} has {len(found)} TLVs of type {kind:#06x}")
    if found and size is not None and len(found[0]) != size:
        raise FirmwareImageError(
            f"{what} has {len(found[0])} bytes in its TLV {kind:#06x}; {size} are right"
        )
    return found[0] if found else None


def _dependencies(parts: Parts, what: str) -> Iterator[Dependency]:
    for kind, value in parts.protected:
        if kind != DEPENDENCY:
            continue
        if len(value) != _DEPENDENCY.size:
            raise FirmwareImageError(f"{what} has a dependency of {len(value)} bytes")
        image, *version = _DEPENDENCY.unpack(value)
        yield Dependency(image=image, version=_version(*version))


def _board(value: bytes | None, what: str) -> str | None:
    if value is None:
        return None
    text = value.decode("utf-8", errors="replace")
    if not (0 < len(text) <= BOARD_LIMIT and text.isprintable() and "\ufffd" not in text):
        raise FirmwareImageError(f"{what} names a board that is no name: {value[:BOARD_LIMIT]!r}")
    return text


def _frames(value: bytes | None, what: str) -> FrameFormat | None:
    if value is None:
        return None
    height, width, dtype, channels, scale = _FRAMES.unpack(value)
    names = [
        next((name for name, code in table.items() if code == found), f"number {found}")
        for table, found in ((DTYPES, dtype), (CHANNELS, channels))
    ]
    frames = FrameFormat(height=height, width=width, dtype=names[0], channels=names[1], scale=scale)
    try:
        check_format(frames)
    except ConfigError as error:
        raise FirmwareImageError(f"{what} holds a frame format that cannot be: {error}") from error
    return frames


def _signature(parts: Parts) -> str | None:
    return next((SIGNATURES[kind] for kind, _ in parts.plain if kind in SIGNATURES), None)


def _version(major: int, minor: int, revision: int, build: int) -> str:
    return f"{major}.{minor}.{revision}" + (f"+{build}" if build else "")
