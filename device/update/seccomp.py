"""A filter of system calls: no sockets, for a process that has no one to talk to.

A network namespace takes the network away and leaves the machine's own sockets, which are files;
among them is the one on which the agent listens.
https://docs.kernel.org/userspace-api/seccomp_filter.html
"""

from __future__ import annotations

import ctypes
import platform
import struct
from types import MappingProxyType
from typing import Final

from asdic.device.process import PR_SET_NO_NEW_PRIVS, control_process

_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF_0000
_REFUSE: Final = 0x0005_0000 | 13  # with EACCES
# Classic BPF: load a word of seccomp_data, jump where it is equal or larger, return.
_LOAD: Final = 0x20
_IF_EQUAL: Final = 0x15
_IF_AT_LEAST: Final = 0x35
_RETURN: Final = 0x06
_CALL_AT: Final = 0
_MACHINE_AT: Final = 4

_IO_URING_SETUP: Final = 425  # the same everywhere; what it queues, no filter sees
_X32: Final = 0x4000_0000  # x86-64 knows each call by a second number from here on
_MACHINES: Final = MappingProxyType({"x86_64": (0xC000_003E, 41), "aarch64": (0xC000_00B7, 198)})
"""AUDIT_ARCH and the number of ``socket`` by ``platform.machine()``."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse_sockets() -> bool:
    """Let this thread, and all that it starts, open no socket; return whether the kernel does so.

    ``socketpair`` stays, which leads nowhere else. It cannot be taken back.
    """
    if platform.machine() not in _MACHINES:
        return False
    machine, socket = _MACHINES[platform.machine()]
    # Another architecture's calls have other numbers: none of them is let through.
    instructions = b"".join(
        (
            _instruction(_LOAD, _MACHINE_AT),
            _instruction(_IF_EQUAL, machine, yes=0, no=4),
            _instruction(_LOAD, _CALL_AT),
            _instruction(_IF_AT_LEAST, _X32, yes=2, no=0),
            _instruction(_IF_EQUAL, socket, yes=1, no=0),
            _instruction(_IF_EQUAL, _IO_URING_SETUP, yes=0, no=1),
            _instruction(_RETURN, _REFUSE),
            _instruction(_RETURN, _ALLOW),
        )
    )
    program = _Program(len(instructions) // 8, instructions)
    if not control_process(PR_SET_NO_NEW_PRIVS, 1):
        return False
    library = ctypes.CDLL(None, use_errno=True)
    return bool(library.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program)) == 0)


def _instruction(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("=HBBI", code, yes, no, value)
