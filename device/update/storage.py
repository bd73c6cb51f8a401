"""The one door to the disk: durable operations, each made of the disk's calls.

Store, journal, trust and reports call nothing else. An operation is durable when it returns, and
a reader sees all of it or nothing; ``write_at`` alone is durable only after ``sync``. A power cut
may leave a name that begins with a dot, which nobody reads and ``sweep`` removes.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from asdic.device.update.disk import Disk, RealDisk, Space

RESERVE_BYTES: Final = 64 << 10
FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Storage:
    """Durable operations.

    Args:
        disk: The calls to make them of; None means the operating system's.
    """

    def __init__(self, disk: Disk | None = None) -> None:
        self._disk = disk or RealDisk()
        self._reserve: Path | None = None

    def keep_reserve(self, path: Path) -> None:
        """Keep a file that takes up some room, so that a full disk has that much for the urgent.

        Where there is no room for it, there is none.
        """
        self._reserve = path
        if path.exists() and path.stat().st_size == RESERVE_BYTES:
            return
        with suppress(OSError):
            # Noise, for there are file systems that store zeros in no room at all.
            self.write(path, random.Random(0).randbytes(RESERVE_BYTES))  # noqa: S311

    def write(self, path: Path, data: bytes, *, mode: int = 0o644, urgent: bool = False) -> None:
        """Replace ``path`` by ``data`` in one step; ``urgent`` may use the reserve."""

        def write() -> None:
            self._write(path, data, mode)

        self._with_room(write) if urgent else write()

    def write_at(self, path: Path, offset: int, data: bytes) -> None:
        """Write ``data`` at ``offset`` of ``path``, which is made if it is not there."""
        self._disk.write(path, offset, data)

    def sync(self, path: Path) -> None:
        """Make the content of ``path`` durable; its name is with the next file in that folder.

        Raises:
            OSError: The disk lost it. A second call may say otherwise and be wrong, for the
                kernel forgets what it could not write: write the file again.
        """
        self._disk.sync(path)

    def rename(self, source: Path, destination: Path) -> None:
        """Move a file or a folder in one step; a file replaces what was at ``destination``.

        Into another folder, a power cut may leave it under both names.
        """
        self._disk.rename(source, destination)
        self._disk.sync_folder(destination.parent)

    def sync_folder(self, path: Path) -> None:
        """Make the names in ``path`` durable, where an operation may have failed before it did."""
        self._disk.sync_folder(path)

    def make_folder(self, path: Path) -> None:
        """Make ``path`` and its parents; an existing folder is kept."""
        missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
        for folder in reversed(missing):
            self._disk.make_folder(folder)
            self._disk.sync_folder(folder.parent)

    def build_folder(self, path: Path, links: Mapping[str, Path]) -> None:
        """Make ``path`` a folder of hard links, name to file, in one step."""
        building = path.with_name(f".{path.name}.new")
        self._empty_out(building)
        self._disk.make_folder(building)
        for name, source in links.items():
            self._disk.link(source, building / name)
        self._disk.sync_folder(building)
        self.rename(building, path)

    def point(self, path: Path, destination: str) -> None:
        """Make ``path`` a symbolic link to ``destination`` in one step."""
        self._with_room(lambda: self._point(path, destination))

    def remove(self, path: Path) -> None:
        """Remove a file or a link; none there is no error."""
        with suppress(FileNotFoundError):
            self._disk.unlink(path)
            self._disk.sync_folder(path.parent)

    def remove_folder(self, path: Path) -> None:
        """Remove a folder with all that is in it; nobody ever sees half of it."""
        if not path.is_dir():
            return
        doomed = path if path.name.startswith(".") else path.with_name(f".{path.name}.removed")
        if doomed != path:
            self._empty_out(doomed)
            self._disk.rename(path, doomed)
            self._disk.sync_folder(doomed.parent)
        self._empty_out(doomed)
        self._disk.sync_folder(path.parent)

    def sweep(self, folder: Path) -> None:
        """Remove the files that unfinished operations left in ``folder``."""
        for path in folder.glob(".*.new") if folder.is_dir() else ():
            if path.is_symlink() or path.is_file():
                self.remove(path)

    def space(self, folder: Path) -> Space:
        """Return what is free below ``folder``."""
        return self._disk.space(folder)

    def _write(self, path: Path, data: bytes, mode: int) -> None:
        temporary = path.with_name(f".{path.name}.new")
        try:
            self._disk.create(temporary, mode)
            self._disk.write(temporary, 0, data)
            self._disk.sync(temporary)
            self._disk.rename(temporary, path)
        except OSError:
            with suppress(OSError):
                self._disk.unlink(temporary)
            raise
        self._disk.sync_folder(path.parent)

    def _point(self, path: Path, destination: str) -> None:
        temporary = path.with_name(f".{path.name}.new")
        with suppress(FileNotFoundError):
            self._disk.unlink(temporary)
        self._disk.symlink(temporary, destination)
        self._disk.rename(temporary, path)
        self._disk.sync_folder(path.parent)

    def _with_room(self, work: Callable[[], None]) -> None:
        """Do ``work``; on a full disk, give the reserve up for it."""
        try:
            work()
        except OSError as error:
            reserve = self._reserve
            if error.errno not in FULL or reserve is None or not reserve.exists():
                raise
            self._disk.unlink(reserve)
            work()

    def _empty_out(self, folder: Path) -> None:
        """Remove a folder that nobody reads, and what is in it."""
        if not folder.is_dir():
            return
        for path in tuple(folder.iterdir()):
            if path.is_dir() and not path.is_symlink():
                self._empty_out(path)
            else:
                self._disk.unlink(path)
        self._disk.remove_folder(folder)
