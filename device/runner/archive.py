"""Arrays from an .npz file that nobody vouches for yet.

``numpy.load`` believes what a member's header says about its size. Here nothing is unpacked
before the archive's directory shows that it is small enough, no header is believed beyond the
bytes that are there, and nothing is unpickled.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, ReleaseError

MEMBERS_LIMIT: Final = 8_192
MEMBER_LIMIT_BYTES: Final = 64 << 20
UNPACKED_LIMIT_BYTES: Final = 512 << 20

# The other methods of zip unpack more than is asked for.
_METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_HEADERS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_DAMAGE: Final = (
    ValueError,  # numpy: a header that is none
    EOFError,
    RuntimeError,  # zipfile: an encrypted member, an unknown method
    zipfile.BadZipFile,
    zlib.error,
)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays in the .npz file at ``path`` by their names, read-only.

    Raises:
        ConfigError: The file cannot be read.
        ReleaseError: It is damaged, holds anything but plain arrays, or would unpack to more
            than the limits of this module.
    """
    try:
        _check_packed_size(path)
        with zipfile.ZipFile(path) as archive:
            _check_directory(archive, path)
            return {
                info.filename.removesuffix(".npy"): _array(archive.read(info), info.filename)
                for info in archive.infolist()
            }
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error
    except _DAMAGE as error:
        raise ReleaseError(f"{path} is damaged: {error}") from error


def _check_packed_size(path: Path) -> None:
    size = path.stat().st_size
    if size > UNPACKED_LIMIT_BYTES:
        raise ReleaseError(f"{path} has {size} bytes, {UNPACKED_LIMIT_BYTES} are accepted")


def _check_directory(archive: zipfile.ZipFile, path: Path) -> None:
    members = archive.infolist()
    sizes = [info.file_size for info in members]
    if any(info.compress_type not in _METHODS for info in members):
        raise ReleaseError(f"{path} is packed by a method other than deflate")
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
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"{name} has .npy version {version}")
    shape, fortran_order, dtype = _HEADERS[version](stream)
    content = memoryview(data)[stream.tell() :]
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f"{name} does not hold the {dtype} of shape {shape} that it promises")
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")
