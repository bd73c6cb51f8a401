"""The one door to the disk: everything that must survive a power cut goes through here.

Store, journal and trust call nothing else, so a test can put a simulated disk in its place and
stop it at each operation. An operation is durable when it returns; ``write_at`` alone is durable
only after ``sync``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Protocol

from asdic.contract.files import sync_folder, write_file


class Storage(Protocol):
    """The durable operations of a device. Reading is free: readers use ``pathlib``."""

    def write(self, path: Path, data: bytes, *, mode: int = 0o644) -> None:
        """Replace ``path`` by ``data`` in one step."""

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        """Write ``data`` at ``offset`` of ``path``, which is made if it is not there."""

    def sync(self, path: Path) -> None:
        """Make the content and the name of ``path`` durable."""

    def rename(self, source: Path, destination: Path) -> None:
        """Move a file or a folder in one step; a file replaces what was at ``destination``."""

    def make_folder(self, path: Path) -> None:
        """Make ``path`` and its parents; an existing folder is kept."""

    def link(self, source: Path, destination: Path) -> None:
        """Give the file at ``source`` a second name; one that exists is kept."""

    def point(self, path: Path, destination: str) -> None:
        """Make ``path`` a symbolic link to ``destination`` in one step."""

    def remove(self, path: Path) -> None:
        """Remove a file or a link; none there is no error."""

    def remove_folder(self, path: Path) -> None:
        """Remove a folder with all that is in it; none there is no error."""

    def free_bytes(self, folder: Path) -> int:
        """Return how many bytes may still be written below ``folder``."""


class DiskStorage:
    """The real file system."""

    def write(self, path: Path, data: bytes, *, mode: int = 0o644) -> None:
        """Write a temporary file, sync it, rename it, sync the folder."""
        write_file(path, data, mode=mode)

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        """Write at ``offset``; the file may stay sparse until all of it is written."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        try:
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, offset)
                offset, view = offset + written, view[written:]
        finally:
            os.close(descriptor)

    def sync(self, path: Path) -> None:
        """Sync the file, then its folder."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(path.parent)

    def rename(self, source: Path, destination: Path) -> None:
        """Rename, then sync both folders."""
        source.rename(destination)
        sync_folder(destination.parent)
        if source.parent != destination.parent:
            sync_folder(source.parent)

    def make_folder(self, path: Path) -> None:
        """Make each missing folder and sync the one that holds it."""
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            sync_folder(folder.parent)

    def link(self, source: Path, destination: Path) -> None:
        """Make a hard link, then sync the folder."""
        with contextlib.suppress(FileExistsError):
            destination.hardlink_to(source)
        sync_folder(destination.parent)

    def point(self, path: Path, destination: str) -> None:
        """Make a new link beside the old one and rename it over it."""
        temporary = Path(tempfile.mktemp(prefix=f".{path.name}.", dir=path.parent))  # noqa: S306 - symlink() itself refuses a name that exists
        temporary.symlink_to(destination)
        temporary.replace(path)
        sync_folder(path.parent)

    def remove(self, path: Path) -> None:
        """Unlink, then sync the folder."""
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
            sync_folder(path.parent)

    def remove_folder(self, path: Path) -> None:
        """Rename it out of the way first, so that nobody ever sees half of it."""
        if not path.exists():
            return
        doomed = path.with_name(f".{path.name}.removed")
        shutil.rmtree(doomed, ignore_errors=True)
        path.rename(doomed)
        sync_folder(path.parent)
        shutil.rmtree(doomed)

    def free_bytes(self, folder: Path) -> int:
        """Return what the file system has free for an ordinary user."""
        facts = os.statvfs(folder)
        return facts.f_bavail * facts.f_frsize
