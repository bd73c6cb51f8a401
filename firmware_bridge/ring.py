"""A frame ring as a file in shared memory: found, made, mapped, and read and written in order.

The file is made whole under another name and then renamed, so that whoever opens it sees a ring or
none. It never changes its size; a ring of another format takes its place under the same name, and
the old one stays valid for those who still have it mapped.

Order of loads and stores. Python has no memory fences, and needs none on x86, which keeps loads in
order and stores in order. ARM does not, so between two accesses whose order matters ``Words.fence``
takes a lock twice. In between it is given back and taken again: a store-release and then a
load-acquire, which ARMv8 keeps in order with everything before the one and after the other.
CPython's locks are such on every version: POSIX semaphores up to 3.12, compare-and-exchange since.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asdic.contract.errors import ConfigError, LinkError
from asdic.contract.variant import FrameFormat
from asdic.firmware_bridge.ring_layout import (
    HEADER_BYTES,
    RING_LIMIT_BYTES,
    SLOT_HEADER_BYTES,
    SUCCESSOR,
    WORD_BYTES,
    DamagedRingError,
    RingHeader,
    fnv1a,
    frame_bytes,
    frame_shape,
    parse_header,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lives on Linux
MODE: Final = 0o640
LOCK_PATIENCE_S: Final = 2.0
_LOCK_POLL_S: Final = 0.01
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class NoRingError(LinkError):
    """There is no ring under this name, or not yet."""


def ring_path(name: str | Path) -> Path:
    """Return the file of a ring: ``probe`` is in shared memory, ``/run/acq/probe`` is a path.

    Raises:
        ConfigError: It is neither.
    """
    if "/" in str(name):
        return Path(name)
    if not _NAME.fullmatch(str(name)):
        raise ConfigError(
            f"{str(name)!r} cannot name a frame ring; use letters, digits, '_', '.' and '-', "
            "or a path"
        )
    return SHARED_MEMORY / f"asdic-{name}"


class Words:
    """The 64-bit words of a mapped ring, each loaded and stored as one.

    ``memoryview`` moves an aligned word with one access where the machine has 64 bits (``struct``
    with a byte order would move its bytes one by one). On 32 bits it takes two; a word is loaded
    until two loads agree, and since words only grow, that is what was stored.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._words = memoryview(memory).cast("Q")
        self._lock = threading.Lock()

    def load(self, index: int) -> int:
        """Return a word."""
        value = self._words[index]
        while (again := self._words[index]) != value:
            value = again
        return value

    def store(self, index: int, value: int) -> None:
        """Set a word."""
        self._words[index] = value

    def fence(self) -> None:
        """Keep every access before this call before every access after it, in any thread."""
        with self._lock:
            pass
        with self._lock:
            pass


class MappedRing:
    """A ring in this process's memory, for as long as anything of it is held.

    It stays valid when another takes its place on disk.

    Attributes:
        path: Its file.
        header: What it is.
        words: Its 64-bit words.
        pixels: One array a slot, in the ring itself: (H, W) or (H, W, 3).
    """

    def __init__(self, path: Path, descriptor: int, header: RingHeader, *, writable: bool) -> None:
        self.path = path
        self.header = header
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        # Populated, so that no frame has to wait for a page.
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        self._memory = mmap.mmap(descriptor, header.ring_bytes, flags, protection)
        self._identity = _identity(os.fstat(descriptor))
        self.words = Words(self._memory)
        self.pixels = tuple(self._pixels_in(slot) for slot in range(header.slots))

    @property
    def is_in_place(self) -> bool:
        """Whether its name still leads to it."""
        try:
            return _identity(self.path.stat()) == self._identity
        except OSError:
            return False

    def slot_word(self, slot: int) -> int:
        """Return the index of a slot's first word."""
        return (HEADER_BYTES + slot * self.header.slot_bytes) // WORD_BYTES

    def _pixels_in(self, slot: int) -> NDArray[np.generic]:
        import numpy as np  # 30 MB, which who only looks at a ring's header does without

        frames = self.header.frames
        dtype = np.dtype(frames.dtype)
        return np.frombuffer(
            self._memory,
            dtype,
            frame_bytes(frames) // dtype.itemsize,
            HEADER_BYTES + slot * self.header.slot_bytes + SLOT_HEADER_BYTES,
        ).reshape(frame_shape(frames))


def open_ring(path: Path, *, writable: bool = False) -> MappedRing:
    """Map the ring in ``path``.

    Raises:
        NoRingError: There is none.
        DamagedRingError: It is damaged, or was written before this start of the machine.
        ConfigError: It may not be opened, or anyone may write it.
    """
    with opened_ring(path, writable=writable) as (descriptor, header):
        return MappedRing(path, descriptor, header, writable=writable)


@contextmanager
def opened_ring(path: Path, *, writable: bool = False) -> Iterator[tuple[int, RingHeader]]:
    """Yield the open file of a ring and its header; the errors are those of ``open_ring``."""
    descriptor = _opened(path, os.O_RDWR if writable else os.O_RDONLY)
    try:
        found = os.fstat(descriptor)
        _check_owner(path, found)
        if found.st_size > RING_LIMIT_BYTES:
            raise DamagedRingError(f"{path} has {found.st_size} bytes, which is no frame ring")
        data = os.pread(descriptor, HEADER_BYTES, 0)
        header = parse_header(data, ring_bytes=found.st_size, what=str(path))
        if header.boot != boot_number():
            raise DamagedRingError(f"{path} was written before this start of the machine")
        yield descriptor, header
    finally:
        os.close(descriptor)


def make_ring(
    path: Path, frames: FrameFormat, *, slots: int, succeeds: MappedRing | None = None
) -> MappedRing:
    """Make a ring under ``path``, in place of what is there; the caller holds ``ring_lock``.

    Args:
        path: Its file.
        frames: What its frames are.
        slots: How many it holds.
        succeeds: The ring whose place it takes; its readers are told.

    Raises:
        ConfigError: There cannot be such a ring, or not here.
    """
    generation = 1 if succeeds is None else succeeds.header.generation + 1
    header = RingHeader(frames, slots, generation, boot_number())
    header.check()
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)  # left by one who was killed; the lock is ours
        descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE)
        try:
            # Taken now: memory that is missing later would end the writer with SIGBUS.
            os.posix_fallocate(descriptor, 0, header.ring_bytes)
            os.pwrite(descriptor, header.packed(), 0)
            ring = MappedRing(path, descriptor, header, writable=True)
        finally:
            os.close(descriptor)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"cannot make the frame ring {path}: {error.strerror}") from error
    if succeeds is not None:
        succeeds.words.store(SUCCESSOR, generation)
    return ring


@contextmanager
def ring_lock(path: Path, *, patience_s: float = LOCK_PATIENCE_S) -> Iterator[None]:
    """Hold what only one process may: to make a ring and to write it.

    The kernel gives it back when the process ends, however it ends.

    Args:
        path: The ring's file.
        patience_s: How long to wait for whoever makes the ring just now.

    Raises:
        LinkError: Another process holds it.
        ConfigError: The folder cannot be written.
    """
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path.with_name(f"{path.name}.lock"), flags, MODE)
    except OSError as error:
        raise ConfigError(f"cannot lock the frame ring {path}: {error.strerror}") from error
    try:
        _lock(descriptor, path, patience_s)
        yield
    finally:
        os.close(descriptor)


def boot_number() -> int:
    """Return a number that is another one after each start of the machine."""
    return fnv1a(_BOOT_ID.read_bytes().strip())


def _lock(descriptor: int, path: Path, patience_s: float) -> None:
    deadline_s = time.monotonic() + patience_s
    while not _is_locked(descriptor):
        if time.monotonic() >= deadline_s:
            raise LinkError(f"another process writes the frame ring {path}")
        time.sleep(_LOCK_POLL_S)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _opened(path: Path, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise NoRingError(f"there is no frame ring {path}") from error
    except OSError as error:
        raise ConfigError(f"cannot open the frame ring {path}: {error.strerror}") from error


def _check_owner(path: Path, found: os.stat_result) -> None:
    """Refuse what a stranger may have put there: it could be cut short under a reader's feet.

    In a folder that anyone may write, such as /dev/shm, a ring is root's or this user's own.
    """
    if not stat.S_ISREG(found.st_mode):
        raise DamagedRingError(f"{path} is not a frame ring")
    if found.st_mode & stat.S_IWOTH:
        raise ConfigError(f"anyone may write the frame ring {path}; use chmod o-w")
    is_open_to_all = path.parent.stat().st_mode & stat.S_IWOTH
    if is_open_to_all and found.st_uid not in {0, os.geteuid()}:
        raise ConfigError(
            f"the frame ring {path} belongs to user {found.st_uid}, in a folder that anyone may "
            "write; let its writer use a folder of its own, such as /run/acquisition"
        )


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
