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
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ReleaseError
from asdic.contract.files import read_bounded

PACKED_LIMIT_BYTES: Final = 256 << 20
MEMBERS_LIMIT: Final = 8_192
MEMBER_LIMIT_BYTES: Final = 64 << 20
UNPACKED_LIMIT_BYTES: Final = 512 << 20

# The other methods of zip unpack more than is asked for.
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
# What numpy writes before plain numbers: magic, version 1.0, length, and a dictionary as text.
# Anything beyond that, numpy's reader would hand to Python's tokenizer.
# https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
_HEADER: Final = re.compile(
    rb"\x93NUMPY\x01\x00.."
    rb"\{'descr': '([<>|](?:b1|[iu][1248]|f[248]))', 'fortran_order': (False|True), "
    rb"'shape': \(((?:[0-9]{1,9}, ?)*(?:[0-9]{1,9})?)\), \} *\n",
    re.DOTALL,
)
_DAMAGE: Final = (
    ValueError,
    EOFError,
    RuntimeError,  # zipfile: an encrypted member, an unknown method
    zipfile.BadZipFile,
    zlib.error,
)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays in the .npz file at ``path`` by their names, read-only.

    Raises:
        ConfigError: The file cannot be read, or is larger than ``PACKED_LIMIT_BYTES``.
        ReleaseError: It is damaged, holds anything but plain arrays, or would unpack to more
            than the limits of this module.
    """
    packed = io.BytesIO(read_bounded(path, PACKED_LIMIT_BYTES))
    try:
        with zipfile.ZipFile(packed) as archive:
            _check_directory(archive, path)
            return {
                info.filename.removesuffix(".npy"): _array(archive.read(info), info.filename)
                for info in archive.infolist()
            }
    except _DAMAGE as error:
        raise ReleaseError(f"{path} is damaged: {error}") from error


def _check_directory(archive: zipfile.ZipFile, path: Path) -> None:
    members = archive.infolist()
    sizes = [info.file_size for info in members]
    if any(info.compress_type not in _METHODS for info in members):
        raise ReleaseError(f"{path} is packed by a method other than deflate")
    if len({info.filename for info in members}) < len(members):
        raise ReleaseError(f"{path} names a member twice")
    if (
        len(members) > MEMBERS_LIMIT
        or max(sizes, default=0) > MEMBER_LIMIT_BYTES
        or sum(sizes) > UNPACKED_LIMIT_BYTES
    ):
        raise ReleaseError(
            f"{path} would unpack to {len(members)} members and {sum(sizes)} bytes; at most "
            f"{MEMBERS_LIMIT} members of {MEMBER_LIMIT_BYTES} bytes and {UNPACKED_LIMIT_BYTES} "
            "bytes in all are accepted"
        )


def _array(data: bytes, name: str) -> NDArray[Any]:
    header = _HEADER.match(data)
    if header is None:
        raise ValueError(f"{name} is no array of numbers")
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(side) for side in header[3].split(b",") if side.strip())
    content = memoryview(data)[header.end() :]
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"{name} does not hold the {dtype} of shape {shape} that it promises")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if header[2] == b"True" else "C")
