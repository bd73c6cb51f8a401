"""Landlock: the files that a process may still open, by a rule that any process can put on itself.

It needs no privilege and cannot be taken off again. Linux has it from 5.13 on, where it was built
in; each newer version of its interface ("ABI") knows more, and an older kernel ignores nothing
silently: what it does not know must not be asked for.
https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final

from asdic.device.process import PR_SET_NO_NEW_PRIVS, control_process

# The same numbers on every architecture.
_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_ASK_VERSION: Final = 1
_PATH_BENEATH: Final = 1

EXECUTE: Final = 1 << 0
WRITE: Final = 1 << 1
READ: Final = 1 << 2
LIST: Final = 1 << 3
_REMOVE_AND_MAKE: Final = sum(1 << bit for bit in range(4, 13))
_TRUNCATE: Final = 1 << 14
_IOCTL: Final = 1 << 15

LOOK: Final = EXECUTE | READ | LIST
"""Read files, list folders, map libraries."""
USE: Final = WRITE | READ | _TRUNCATE | _IOCTL
"""Read and write what is there already, as a device file."""
OWN: Final = LOOK | WRITE | _REMOVE_AND_MAKE | _TRUNCATE
"""Everything but running device files' own commands."""

_FILES_BY_ABI: Final = MappingProxyType(
    {1: LOOK | WRITE | _REMOVE_AND_MAKE, 3: _TRUNCATE, 5: _IOCTL}
)
_TCP: Final = 0b11  # bind and connect, from ABI 4 on
_SCOPES: Final = 0b11  # abstract sockets and signals, from ABI 6 on
_FILE_RIGHTS: Final = EXECUTE | WRITE | READ | _TRUNCATE | _IOCTL


def restrict(rights: Mapping[Path, int]) -> tuple[str, ...]:
    """Take from this thread, and all that it starts, every file but those in ``rights``.

    TCP and signals to other processes go with them where the kernel can do that. Whatever was
    open stays open. Paths that do not exist are left out.

    Args:
        rights: What may be done at each path and below it: ``LOOK``, ``USE`` or ``OWN``.

    Returns:
        What was taken away: "paths", and perhaps "signals"; nothing where the kernel cannot.
    """
    version = _call(_CREATE_RULESET, None, 0, _ASK_VERSION)
    if version < 1:
        return ()
    handled = sum(bits for since, bits in _FILES_BY_ABI.items() if since <= version)
    ruleset = _new_ruleset(version, handled)
    if ruleset < 0:
        return ()
    try:
        for path, wanted in rights.items():
            _allow(ruleset, path, wanted & handled)
        control_process(PR_SET_NO_NEW_PRIVS, 1)
        if _call(_RESTRICT_SELF, ruleset, 0) != 0:
            return ()
    finally:
        os.close(ruleset)
    return ("paths", "signals") if version >= 6 else ("paths",)


def libraries(roots: Iterable[Path], *, beside: Path) -> dict[Path, int]:
    """Return the right to look at ``roots``, but at none in which the folder ``beside`` lies.

    What a folder's neighbours hold is not to be read with it.
    """
    return {root: LOOK for root in roots if not beside.is_relative_to(root.resolve())}


def _new_ruleset(version: int, handled: int) -> int:
    words = (handled, _TCP, _SCOPES)[: 1 if version < 4 else 2 if version < 6 else 3]
    attributes = struct.pack(f"={len(words)}Q", *words)
    return _call(_CREATE_RULESET, attributes, len(attributes), 0)


def _allow(ruleset: int, path: Path, rights: int) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            wanted = rights if path.is_dir() else rights & _FILE_RIGHTS
            _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", wanted, descriptor), 0)
        finally:
            os.close(descriptor)


def _call(number: int, *words: int | bytes | None) -> int:
    """Call the kernel; a wrong call or an old kernel gives -1."""
    arguments = [ctypes.c_long(word) if isinstance(word, int) else word for word in words]
    call = ctypes.CDLL(None, use_errno=True).syscall
    call.restype = ctypes.c_long
    return int(call(ctypes.c_long(number), *arguments))
