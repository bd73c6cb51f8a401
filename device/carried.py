"""Files that somebody carried here, on a USB stick say: plain files, or they are not read.

A link would lead out of the folder, a pipe would never end, and opening a device does something.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

from asdic.contract.errors import LinkError

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_KINDS: Final = MappingProxyType(
    {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe"}
)


def read_plain(path: Path, offset: int, limit_bytes: int) -> bytes:
    """Return at most ``limit_bytes`` of a plain file, from ``offset`` on.

    Raises:
        LinkError: It cannot be read, or is no plain file.
    """
    with _opened(path) as descriptor:
        return os.pread(descriptor, limit_bytes, offset)


def plain_size(path: Path) -> int:
    """Return how many bytes a plain file has.

    Raises:
        LinkError: It cannot be read, or is no plain file.
    """
    with _opened(path) as descriptor:
        return os.fstat(descriptor).st_size


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a file that is looked at before and after, and never waited for."""
    try:
        _check_plain(path, path.lstat())
        descriptor = os.open(path, _FLAGS)
        try:
            _check_plain(path, os.fstat(descriptor))
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise LinkError(f"cannot read {path}: {error.strerror}") from error


def _check_plain(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "no file")
        raise LinkError(f"{path} is {kind}; a release folder holds plain files alone")
