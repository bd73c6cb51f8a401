"""A process that stops before every call that changes one folder, so that it can die there.

``strace --inject`` counts calls by name: it cannot tell the Nth change of one folder from a log
line or from the agent's look at its trial's memory, whose number differs from run to run, and the
names of temporary files are random. So this uses what strace uses, ptrace, and counts what the
rows are about. Only the main thread is followed, which makes every change that an install needs:
an agent's other threads serve a socket (they write only when a program says that it is busy, and
none does here), its children are processes of their own.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

PTRACE_SYSCALL: Final = 24
PTRACE_SEIZE: Final = 0x4206
PTRACE_INTERRUPT: Final = 0x4207
PTRACE_GET_SYSCALL_INFO: Final = 0x420E
OPTIONS: Final = 0x0000_0001 | 0x0010_0000
"""Stops at calls are marked as such; who is traced dies with who traces."""

EVENT_STOP: Final = 128
WAIT_ALL: Final = 0x4000_0000
SYSCALL_STOP: Final = signal.SIGTRAP | 0x80
ENTRY: Final = struct.Struct("=B3xIQQQ6Q")
"""``struct ptrace_syscall_info`` at a call's entry: kind, ABI, ip, sp, number, arguments."""

PATH_BYTES: Final = 4096
CHANGING_FLAGS: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
GATE: Final = 'read -r _ && exec "$@"'
"""The shell waits until it is traced, then becomes the command."""


@dataclass(frozen=True)
class Call:
    """A system call, and which of its arguments say what it changes.

    Args:
        name: As in its manual page.
        descriptor: The argument that is an open file, or the folder that ``path`` starts from.
        path: The argument that is a name.
        flags: The argument that says whether opening changes anything.
        is_address: The name is in a socket's address, two bytes in.
    """

    name: str
    descriptor: int | None = None
    path: int | None = None
    flags: int | None = None
    is_address: bool = False


X86_64: Final[Mapping[int, Call]] = MappingProxyType(
    {
        1: Call("write", 0),
        2: Call("open", path=0, flags=1),
        18: Call("pwrite64", 0),
        20: Call("writev", 0),
        40: Call("sendfile", 0),
        49: Call("bind", path=1, is_address=True),
        74: Call("fsync", 0),
        75: Call("fdatasync", 0),
        76: Call("truncate", path=0),
        77: Call("ftruncate", 0),
        82: Call("rename", path=1),
        83: Call("mkdir", path=0),
        84: Call("rmdir", path=0),
        85: Call("creat", path=0),
        86: Call("link", path=1),
        87: Call("unlink", path=0),
        88: Call("symlink", path=1),
        90: Call("chmod", path=0),
        91: Call("fchmod", 0),
        92: Call("chown", path=0),
        93: Call("fchown", 0),
        94: Call("lchown", path=0),
        257: Call("openat", 0, 1, flags=2),
        258: Call("mkdirat", 0, 1),
        260: Call("fchownat", 0, 1),
        263: Call("unlinkat", 0, 1),
        264: Call("renameat", 2, 3),
        265: Call("linkat", 2, 3),
        266: Call("symlinkat", 1, 2),
        268: Call("fchmodat", 0, 1),
        277: Call("sync_file_range", 0),
        285: Call("fallocate", 0),
        296: Call("pwritev", 0),
        306: Call("syncfs", 0),
        316: Call("renameat2", 2, 3),
        326: Call("copy_file_range", 2),
        452: Call("fchmodat2", 0, 1),
    }
)
"""All calls that change a file or a folder, or make a change durable."""


@dataclass(frozen=True)
class Change:
    """A call that is about to be made: its number among the changes, its name, what it changes."""

    number: int
    call: str
    path: str


class TracedProcess:
    """A process that is followed by the thread that started it (``traced``).

    Attributes:
        pid: Its number.
        status: Its exit code once it has ended, or minus the signal that ended it.
        is_late: Whether it was killed because it took too long.
    """

    def __init__(self, pid: int, folder: Path) -> None:
        self.pid = pid
        self.status: int | None = None
        self.is_late = False
        self._folder = str(folder.resolve())

    def changes(self) -> Iterator[Change]:
        """Yield each change of the folder before it is made, until the process ends."""
        number = 0
        while (stop := self._next_stop()) is not None:
            if stop == SYSCALL_STOP and (found := self._change()) is not None:
                number += 1
                yield Change(number, *found)
            self._go_on(stop)

    def kill(self) -> None:
        """End it with ``kill -9``; the call that it stands before is not made."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            while self._next_stop() is not None:
                pass

    def give_up(self) -> None:
        """Kill it because it takes too long; another thread may call this."""
        if self.status is None:
            self.is_late = True
            os.kill(self.pid, signal.SIGKILL)

    def _next_stop(self) -> int | None:
        """Wait for the next stop and return its signal: 0 if it is none, None at the end."""
        if self.status is not None:
            return None
        _, status = os.waitpid(self.pid, WAIT_ALL)
        if not os.WIFSTOPPED(status):
            self.status = os.waitstatus_to_exitcode(status)
            return None
        return 0 if status >> 16 == EVENT_STOP else os.WSTOPSIG(status)

    def _go_on(self, stop: int) -> None:
        """Let it run to the next call, with the signal that it stopped for."""
        with suppress(ProcessLookupError):  # It was killed, and the next wait says so.
            _ptrace(PTRACE_SYSCALL, self.pid, 0, 0 if stop == SYSCALL_STOP else stop)

    def _change(self) -> tuple[str, str] | None:
        """Return the name and the path of the call, if it changes the folder."""
        buffer = ctypes.create_string_buffer(128)
        _ptrace(PTRACE_GET_SYSCALL_INFO, self.pid, len(buffer), ctypes.addressof(buffer))
        kind, _abi, _ip, _sp, number, *arguments = ENTRY.unpack_from(buffer)
        call = X86_64.get(number) if kind == 1 else None
        if call is None or (call.flags and not arguments[call.flags] & CHANGING_FLAGS):
            return None
        path = self._path(call, arguments)
        is_inside = path == self._folder or path.startswith(f"{self._folder}/")
        return (call.name, os.path.relpath(path, self._folder)) if is_inside else None

    def _path(self, call: Call, arguments: Sequence[int]) -> str:
        """Return the full name of what a call changes; its last part is not followed."""
        name = "" if call.path is None else self._text(arguments[call.path] + 2 * call.is_address)
        if not name.startswith("/"):
            name = f"{self._opened(call, arguments)}/{name}".rstrip("/")
        name = name.replace("/proc/self/", f"/proc/{self.pid}/", 1)
        return os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))  # noqa: PTH118, PTH120, PTH119 - text, and quick

    def _opened(self, call: Call, arguments: Sequence[int]) -> str:
        descriptor = (
            -1 if call.descriptor is None else ctypes.c_int(arguments[call.descriptor]).value
        )
        link = f"fd/{descriptor}" if descriptor >= 0 else "cwd"
        try:
            return os.readlink(f"/proc/{self.pid}/{link}")  # noqa: PTH115
        except FileNotFoundError:  # The call will fail: that file is not open.
            return "/"

    def _text(self, address: int) -> str:
        """Return the text at an address: to its end, or to the end of the page after it."""
        size = PATH_BYTES - address % PATH_BYTES
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as memory:  # noqa: PTH123
            memory.seek(address)
            data = memory.read(size)
            if b"\0" not in data:
                data += memory.read(PATH_BYTES)
        return os.fsdecode(data.partition(b"\0")[0])


@contextmanager
def traced(
    command: Sequence[str], *, folder: Path, log: Path, patience_s: float = 60.0
) -> Iterator[TracedProcess]:
    """Start ``command``, stopped; whoever takes its ``changes`` lets it run.

    Its output goes to the end of ``log``. After ``patience_s`` it is killed.

    Raises:
        OSError: Processes may not be traced here.
        TimeoutError: It was killed because it took too long.
    """
    reading, writing = os.pipe()
    pid = os.posix_spawn(
        "/bin/sh",
        ["sh", "-c", GATE, "sh", *command],
        {**os.environ, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, reading, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
    )
    os.close(reading)
    process = TracedProcess(pid, folder)
    watch = threading.Timer(patience_s, process.give_up)
    watch.start()
    try:
        _ptrace(PTRACE_SEIZE, pid, 0, OPTIONS)
        _ptrace(PTRACE_INTERRUPT, pid, 0, 0)
        os.write(writing, b"\n")
        yield process
        if process.is_late:
            raise TimeoutError(f"{' '.join(command)} did not end within {patience_s:.0f} s")
    finally:
        watch.cancel()
        os.close(writing)
        process.kill()


@cache
def lacks_tracing() -> str:
    """Return what is missing to trace a process here, or nothing."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "the table of system calls is that of Linux on x86_64"
    with tempfile.TemporaryDirectory() as folder:
        try:
            with traced(["true"], folder=Path(folder), log=Path(folder) / "log") as process:
                ended = sum(1 for _ in process.changes()) == 0 and process.status == 0
        except OSError as error:
            return f"ptrace is not permitted here: {error.strerror}"
    return "" if ended else "ptrace does not work here"


_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
_LIBC.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, address: int, data: int) -> None:
    if _LIBC.ptrace(request, pid, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
