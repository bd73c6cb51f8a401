"""What the kernel shows of a program's process: is it stopped, and which releases does it map.

It needs no help of the program, and what it finds may contradict the program's word. It sees
mapped files and no others: a program that has read a file into its own memory shows nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

MAPS_EVERY_S: Final = 1.0
_STOPPED: Final = frozenset("TtZXx")  # stopped, traced, ended; see proc_pid_stat(5)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class Witness:
    """Looks at one process; a later process with the same number is not taken for it.

    Args:
        pid: The process; 0 is one that this machine's kernel does not show us.
        releases: The folder of all releases.
        clock: Seconds that only grow.
    """

    def __init__(self, pid: int, releases: Path, *, clock: Callable[[], float]) -> None:
        self.pid = pid
        self._releases = releases
        self._clock = clock
        self._started = _state_and_start(pid)[1]
        self._mapped: tuple[frozenset[str], ...] = ()
        self._looked_s = float("-inf")

    @property
    def is_gone(self) -> bool:
        """Whether the process has ended."""
        state, started = _state_and_start(self.pid)
        return state in "ZXx" or started != self._started

    @property
    def is_stopped(self) -> bool:
        """Whether the process cannot do anything now: it is stopped, or gone."""
        state, started = _state_and_start(self.pid)
        return state in _STOPPED or started != self._started

    @property
    def user(self) -> int | None:
        """The user id that the process acts for, or None where it is gone."""
        try:
            status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        found = re.search(r"^Uid:\t\d+\t(\d+)", status, re.MULTILINE)
        return int(found[1]) if found else None

    def look_again(self) -> None:
        """Forget what was mapped when it was looked at last."""
        self._looked_s = float("-inf")

    def held_beside(self, manifest: str) -> tuple[str, ...]:
        """Return the manifest digests of other releases of which the process maps a file.

        A file that ``manifest`` has in common with another release is its own. Where the process
        belongs to another user and we are not root, nothing can be seen, and nothing is returned.
        """
        if self._clock() - self._looked_s >= MAPS_EVERY_S:
            self._looked_s = self._clock()
            self._mapped = tuple(_mapped_releases(self.pid, self._releases))
        own = manifest.removeprefix("sha256:")
        held = {name for names in self._mapped if own not in names for name in names}
        return tuple(f"sha256:{name}" for name in sorted(held))


def _state_and_start(pid: int) -> tuple[str, str]:
    """Return a process's state letter and when it started; it is dead (X) where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return "X", ""
    fields = stat.rpartition(b")")[2].split()  # the name before it may hold anything
    return fields[0].decode("ascii"), fields[19].decode("ascii")


def _mapped_releases(pid: int, releases: Path) -> Iterator[frozenset[str]]:
    """Yield, for each mapped file of a release, the names of the releases that it belongs to.

    Files are known by their number on the disk, whatever path leads to them in the process's own
    view of it; one that has been removed meanwhile is known by the path that it had.
    """
    files = _files_of(releases)
    prefix = f"{releases}/".replace("\n", "\\012")
    for device, inode, path in _mapped_files(pid):
        if (device, inode) in files:
            yield frozenset(files[device, inode])
        elif path.startswith(prefix):
            yield frozenset(_DIGEST.findall(path[len(prefix) :].partition("/")[0]))


def _mapped_files(pid: int) -> Iterator[tuple[str, int, str]]:
    """Yield device, inode and path of each file in ``/proc/<pid>/maps``."""
    try:
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return
    for line in maps.split("\n"):
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[4] != "0":
            yield fields[3], int(fields[4]), fields[5]


def _files_of(releases: Path) -> dict[tuple[str, int], set[str]]:
    """Return the names of the releases that each file on the disk belongs to."""
    found: dict[tuple[str, int], set[str]] = {}
    for path in releases.glob("*/*"):
        try:
            stat = path.stat()
        except OSError:
            continue
        device = f"{os.major(stat.st_dev):02x}:{os.minor(stat.st_dev):02x}"
        for name in _DIGEST.findall(path.parent.name):
            found.setdefault((device, stat.st_ino), set()).add(name)
    return found
