"""The disk: the system calls by which a device changes what must survive a power cut.

Nothing here promises more than the call itself: a write is durable after ``sync`` of its file, a
name after ``sync_folder`` of its folder. ``storage.py`` makes durable operations of them. A test
puts a simulated disk in their place and stops it at each call.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

NO_LINK: Final = os.O_NOFOLLOW | os.O_CLOEXEC
"""Nothing is ever written through a link that someone laid down."""


@dataclass(frozen=True)
class Space:
    """What an ordinary user may still put on a file system."""

    bytes: int
    files: int


class Disk(Protocol):
    """The state-changing calls. All raise ``OSError``. Readers use ``pathlib``."""

    def create(self, path: Path, mode: int) -> None:
        """Make ``path`` an empty file, or empty the one that is there."""

    def write(self, path: Path, offset: int, data: bytes) -> None:
        """Write into the file at ``path``, which is made if it is not there."""

    def sync(self, path: Path) -> None:
        """Make the content of a file durable; its name is its folder's."""

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""

    def rename(self, source: Path, destination: Path) -> None:
        """Move a name; a file or link at ``destination`` is replaced."""

    def link(self, source: Path, destination: Path) -> None:
        """Give a file a second name."""

    def symlink(self, path: Path, destination: str) -> None:
        """Make ``path`` a symbolic link with the text ``destination``."""

    def unlink(self, path: Path) -> None:
        """Remove the name of a file or of a link."""

    def make_folder(self, path: Path) -> None:
        """Make one folder."""

    def remove_folder(self, path: Path) -> None:
        """Remove an empty folder."""

    def space(self, folder: Path) -> Space:
        """Return what is free where ``folder`` lies."""


class RealDisk:
    """The operating system's."""

    def create(self, path: Path, mode: int) -> None:
        """Open, empty, and set the mode whatever the umask says."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | NO_LINK, mode)
        try:
            os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)

    def write(self, path: Path, offset: int, data: bytes) -> None:
        """Write all of ``data``; the file may stay sparse before ``offset``."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | NO_LINK, 0o644)
        try:
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, offset)
                offset, view = offset + written, view[written:]
        finally:
            os.close(descriptor)

    def sync(self, path: Path) -> None:
        """Call ``fsync(2)`` on the file."""
        _fsync(path, os.O_RDONLY)

    def sync_folder(self, path: Path) -> None:
        """Call ``fsync(2)`` on the folder."""
        _fsync(path, os.O_RDONLY | os.O_DIRECTORY)

    def rename(self, source: Path, destination: Path) -> None:
        """Call ``rename(2)``."""
        source.replace(destination)

    def link(self, source: Path, destination: Path) -> None:
        """Call ``link(2)``."""
        destination.hardlink_to(source)

    def symlink(self, path: Path, destination: str) -> None:
        """Call ``symlink(2)``."""
        path.symlink_to(destination)

    def unlink(self, path: Path) -> None:
        """Call ``unlink(2)``."""
        path.unlink()

    def make_folder(self, path: Path) -> None:
        """Call ``mkdir(2)``."""
        path.mkdir()

    def remove_folder(self, path: Path) -> None:
        """Call ``rmdir(2)``."""
        path.rmdir()

    def space(self, folder: Path) -> Space:
        """Call ``statvfs(2)``; a file system that counts no files has room for any number."""
        facts = os.statvfs(folder)
        files = facts.f_favail if facts.f_files else 1 << 31
        return Space(bytes=facts.f_bavail * facts.f_frsize, files=files)


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | NO_LINK)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
