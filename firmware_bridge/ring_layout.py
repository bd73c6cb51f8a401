"""The bytes of a frame ring: what lies where, and what a header may say.

Pure: no file is opened here, and numpy is not needed. ``c/asdic_frames.h`` states the same layout
for C, and a test holds the two together. All numbers are in the machine's own byte order; a ring
never leaves a machine.

    0       immutable header (96 bytes): what the ring is
    128     frames written so far, frames the writer lost, the generation that took over (u64 each)
    4096    slot 0: sequence, time of capture, time of writing, frames lost until then (u64 each),
            and at its byte 64 the pixels; then slot 1, ...

Frame ``n`` (from 0) lies in slot ``n % slots``. The slot's sequence is ``2 n + 1`` while the frame
is being written and ``2 n + 2`` when it is whole (a seqlock: H.-J. Boehm, "Can seqlocks get along
with programming language memory models?", MSPC 2012).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from asdic.contract.errors import ConfigError, LinkError
from asdic.contract.variant import FrameFormat

MAGIC: Final = b"ASDICRNG"
LAYOUT: Final = 1
ORDER: Final = 0x01020304
HEADER_BYTES: Final = 4096
SLOT_HEADER_BYTES: Final = 64
ALIGNMENT_BYTES: Final = 64
SLOTS_LIMIT: Final = 1_024
SIDE_LIMIT: Final = 16_384
RING_LIMIT_BYTES: Final = 1 << 30

# Indices of 64-bit words: in the ring, and within a slot.
WRITTEN, LOST, SUCCESSOR = 16, 17, 18
SEQUENCE, CAPTURED, COMMITTED, LOST_BEFORE = 0, 1, 2, 3
WORD_BYTES: Final = 8

DTYPES: Final = MappingProxyType({"uint8": 1, "uint16": 2, "int16": 3, "float32": 4})
CHANNELS: Final = MappingProxyType({"grey": 1, "rgb": 3})
_ITEM_BYTES: Final = MappingProxyType({"uint8": 1, "uint16": 2, "int16": 2, "float32": 4})
_DTYPE_NAMES: Final = MappingProxyType({code: name for name, code in DTYPES.items()})
_CHANNEL_NAMES: Final = MappingProxyType({code: name for name, code in CHANNELS.items()})

_FORMAT: Final = struct.Struct("=IIIId")
_HEADER: Final = struct.Struct("=8sIIIIQQ24sQQQQ")
_FNV_OFFSET: Final = 0xCBF29CE484222325
_FNV_PRIME: Final = 0x100000001B3


class DamagedRingError(LinkError):
    """The bytes are no frame ring that this version reads, or contradict themselves."""


def format_text(frames: FrameFormat) -> str:
    """Return a format in one breath: ``512 x 512 uint8 grey``."""
    scaled = "" if frames.scale == 1 else f", scale {frames.scale:g}"
    return f"{frames.height} x {frames.width} {frames.dtype} {frames.channels}{scaled}"


def format_id(frames: FrameFormat) -> int:
    """Return a 64-bit number that stands for the format, the same in C (FNV-1a)."""
    return fnv1a(_packed_format(frames))


def frame_shape(frames: FrameFormat) -> tuple[int, ...]:
    """Return the shape of one frame's array: (H, W), or (H, W, channels)."""
    channels = CHANNELS[frames.channels]
    return (frames.height, frames.width, *([channels] if channels > 1 else []))


def frame_bytes(frames: FrameFormat) -> int:
    """Return the size of one frame's pixels."""
    return math.prod(frame_shape(frames)) * _ITEM_BYTES[frames.dtype]


def check_format(frames: FrameFormat) -> None:
    """Check that a ring can carry such frames.

    Raises:
        ConfigError: It cannot; the message names the field.
    """
    for side in ("height", "width"):
        if not 1 <= getattr(frames, side) <= SIDE_LIMIT:
            raise ConfigError(
                f"a frame's {side} is 1 to {SIDE_LIMIT} pixels, not {getattr(frames, side)}"
            )
    if frames.dtype not in DTYPES:
        raise ConfigError(f"a frame's dtype is one of {', '.join(DTYPES)}, not {frames.dtype!r}")
    if frames.channels not in CHANNELS:
        raise ConfigError(
            f"a frame's channels are one of {', '.join(CHANNELS)}, not {frames.channels!r}"
        )
    if not (math.isfinite(frames.scale) and frames.scale > 0):
        raise ConfigError(f"a frame's scale is a positive number, not {frames.scale}")


@dataclass(frozen=True)
class RingHeader:
    """What never changes in a ring.

    ``generation`` grows by one when another ring takes this one's place; ``boot`` tells this start
    of the machine from others, because its clock starts anew with each.
    """

    frames: FrameFormat
    slots: int
    generation: int
    boot: int

    @property
    def slot_bytes(self) -> int:
        """The distance from one slot to the next."""
        size = SLOT_HEADER_BYTES + frame_bytes(self.frames)
        return -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES

    @property
    def ring_bytes(self) -> int:
        """The size of the whole ring."""
        return HEADER_BYTES + self.slots * self.slot_bytes

    def check(self) -> None:
        """Check that such a ring may be made.

        Raises:
            ConfigError: It may not; the message says why.
        """
        check_format(self.frames)
        if not 2 <= self.slots <= SLOTS_LIMIT:
            raise ConfigError(f"a ring has 2 to {SLOTS_LIMIT} slots, not {self.slots}")
        if self.ring_bytes > RING_LIMIT_BYTES:
            raise ConfigError(
                f"{self.slots} slots of {format_text(self.frames)} take {self.ring_bytes >> 20} "
                f"MiB; a ring has {RING_LIMIT_BYTES >> 20} at most"
            )

    def packed(self) -> bytes:
        """Return the header's bytes; the last eight are a sum of the others."""
        fields = (self.slots, self.slot_bytes, frame_bytes(self.frames))
        formed = _packed_format(self.frames)
        data = _HEADER.pack(
            *(MAGIC, LAYOUT, ORDER, HEADER_BYTES, *fields, formed),
            *(fnv1a(formed), self.generation, self.boot, 0),
        )
        return data[:-WORD_BYTES] + struct.pack("=Q", fnv1a(data[:-WORD_BYTES]))


def parse_header(data: bytes, *, ring_bytes: int, what: str) -> RingHeader:
    """Return what a ring's first bytes say, in a file of ``ring_bytes``.

    Raises:
        DamagedRingError: They are no ring, one of another layout, or damaged; whatever is
            returned describes exactly ``ring_bytes``.
    """
    if len(data) < _HEADER.size or not data.startswith(MAGIC):
        raise DamagedRingError(f"{what} is not a frame ring")
    values = _HEADER.unpack_from(data)
    _, layout, order, _, slots, _, _, formed, _, generation, boot, _ = values
    if order != ORDER:
        raise DamagedRingError(f"{what} was written by a machine of another byte order")
    if layout != LAYOUT:
        raise DamagedRingError(f"{what} has layout {layout}, this asdic reads {LAYOUT}")
    height, width, dtype, channels, scale = _FORMAT.unpack(formed)
    frames = FrameFormat(
        height=height,
        width=width,
        dtype=_DTYPE_NAMES.get(dtype, f"number {dtype}"),
        scale=scale,
        channels=_CHANNEL_NAMES.get(channels, f"number {channels}"),
    )
    header = RingHeader(frames, slots, generation, boot)
    try:
        header.check()
    except ConfigError as error:
        raise DamagedRingError(f"{what} is damaged: {error}") from error
    if header.packed() != data[: _HEADER.size]:
        raise DamagedRingError(f"{what} is damaged: its header does not agree with its sum")
    if header.ring_bytes != ring_bytes:
        raise DamagedRingError(
            f"{what} has {ring_bytes} bytes, its header tells of {header.ring_bytes}"
        )
    return header


def fnv1a(data: bytes) -> int:
    """Return the 64-bit sum of Fowler, Noll and Vo: against damage, not against forgery."""
    total = _FNV_OFFSET
    for byte in data:
        total = (total ^ byte) * _FNV_PRIME & 0xFFFFFFFFFFFFFFFF
    return total


def _packed_format(frames: FrameFormat) -> bytes:
    return _FORMAT.pack(
        frames.height,
        frames.width,
        DTYPES[frames.dtype],
        CHANNELS[frames.channels],
        frames.scale,
    )
