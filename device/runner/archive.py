"""Arrays from an .npz file that nobody vouches for yet.

``numpy.load`` believes what a member's header says about its size. Here nothing is unpacked
before the archive's directory shows that it is small enough, no header is believed beyond the
bytes that are there, and nothing is unpickled.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ReleaseError
from asdic.contract.files import read_bounded

PACKED_LIMIT_BYTES: Final = 256 << 20
MEMBERS_LIMIT: Final = 8_192
MEMBER_LIMIT_BYTES: Final = 64 << 20
UNPACKED_LIMIT_BYTES: Final = 512 << 20


class ArchiveLimits(NamedTuple):
    """What an archive may hold at most; the defaults are those of a golden set."""

    packed_bytes: int = PACKED_LIMIT_BYTES
    members: int = MEMBERS_LIMIT
    member_bytes: int = MEMBER_LIMIT_BYTES
    unpacked_bytes: int = UNPACKED_LIMIT_BYTES


_GOLDEN_LIMITS: Final = ArchiveLimits()

# The other methods of zip unpack more than is asked for.
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
# What numpy writes before plain numbers: magic, version 1.0, length, and a dictionary as text.
# Anything beyond that, numpy's reader would hand to Python's tokenizer.
# https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
_HEADER: Final = (
    rb"\x93NUMPY\x01\x00.."
    rb"\{'descr': '(%b)', 'fortran_order': (False|True), "
    rb"'shape': \(((?:[0-9]{1,9}, ?)*(?:[0-9]{1,9})?)\), \} *\n"
)
_NUMBERS: Final = rb"[<>|](?:b1|[iu][1248]|f[248])"
_NUMBER_HEADER: Final = re.compile(_HEADER % _NUMBERS, re.DOTALL)
_TEXT_HEADER: Final = re.compile(_HEADER % (_NUMBERS + rb"|[<>]U[0-9]{1,4}"), re.DOTALL)
_DAMAGE: Final = (
    ValueError,
    EOFError,
    RuntimeError,  # zipfile: an encrypted member, an unknown method
    zipfile.BadZipFile,
    zlib.error,
)


def read_arrays(
    path: Path, *, limits: ArchiveLimits = _GOLDEN_LIMITS, text: bool = False
) -> dict[str, NDArray[Any]]:
    """Return the arrays in the .npz file at ``path`` by their names, read-only.

    Args:
        path: The file.
        limits: What it may hold at most.
        text: Whether arrays of strings are taken as well.

    Raises:
        ConfigError: The file cannot be read, or is larger than the limit.
        ReleaseError: It is damaged, holds anything but plain arrays, or would unpack to more
            than the limits.
    """
    packed = io.BytesIO(read_bounded(path, limits.packed_bytes))
    header = _TEXT_HEADER if text else _NUMBER_HEADER
    try:
        with zipfile.ZipFile(packed) as archive:
            _check_directory(archive, path, limits)
            return {
                info.filename.removesuffix(".npy"): _array(
                    archive.read(info), info.filename, header
                )
                for info in archive.infolist()
            }
    except _DAMAGE as error:
        raise ReleaseError(f"{path} is damaged: {error}") from error


def _check_directory(archive: zipfile.ZipFile, path: Path, limits: ArchiveLimits) -> None:
    members = archive.infolist()
    sizes = [info.file_size for info in members]
    if any(info.compress_type not in _METHODS for info in members):
        raise ReleaseError(f"{path} is packed by a method other than deflate")
    if len({info.filename for info in members}) < len(members):
        raise ReleaseError(f"{path} names a member twice")
    if (
        len(members) > limits.members
        or max(sizes, default=0) > limits.member_bytes
        or sum(sizes) > limits.unpacked_bytes
    ):
        raise ReleaseError(
            f"{path} would unpack to {len(members)} members and {sum(sizes)} bytes; at most "
            f"{limits.members} members of {limits.member_bytes} bytes and "
            f"{limits.unpacked_bytes} bytes in all are accepted"
        )


def _array(data: bytes, name: str, pattern: re.Pattern[bytes]) -> NDArray[Any]:
    header = pattern.match(data)
    if header is None:
        raise ValueError(f"{name} is no array of numbers")
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(side) for side in header[3].split(b",") if side.strip())
    content = memoryview(data)[header.end() :]
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"{name} does not hold the {dtype} of shape {shape} that it promises")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if header[2] == b"True" else "C")
