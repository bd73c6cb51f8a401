"""The folder half of the application contract, for programs that cannot use a socket.

Such a program, say a shell script, reads the link ``current`` and writes what it has to say to
``application/said/<name>.json`` in the state folder: one JSON object a file, as a line of the
socket has it, with its process besides:

    {"call": "busy", "until_s": 1234.5}
    {"call": "loaded", "manifest": "sha256:...", "version": "1.2.0", "inferences": 1, "pid": 77}
    {"call": "health", "manifest": "sha256:...", "inferences": 9, "errors": 0, "pid": 77}

A file is written beside its place under a name that starts with a dot, and renamed. Only plain
files are read, of a bounded number and size. A socket proves which process speaks; here any
process that may write to the folder can name another one *of its own user*.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.errors import ConfigError
from asdic.contract.files import read_bounded
from asdic.device.application import BusyCall, Call, HealthCall, LoadedCall
from asdic.device.speaker import Speaker
from asdic.device.update.storage import Storage
from asdic.device.witness import Witness

SAID_NAME: Final = "said"
FILES_LIMIT: Final = 16
NAMES_LIMIT: Final = 256
FILE_LIMIT_BYTES: Final = 4 << 10
BOOT_FILE: Final = ".boot"
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}\.json")

log = logging.getLogger("asdic.application")


class _Writer(msgspec.Struct, frozen=True):
    """Who says what else is in the file."""

    pid: int = 0


@dataclass(frozen=True)
class Said:
    """What a file says; an exam is no one's in particular."""

    call: Call
    speaker: Speaker | None = None


class SaidFolder:
    """The files in which programs say what they have to say.

    Args:
        folder: ``application/said``; need not exist.
        releases: The folder of all releases.
        clock: Seconds that only grow.
    """

    def __init__(self, folder: Path, releases: Path, *, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._releases = releases
        self._clock = clock
        self._is_ready = False
        self._seen: dict[str, tuple[int, ...]] = {}
        self._speakers: dict[int, Speaker] = {}

    def prepare(self) -> None:
        """Make the folder, and forget what was said before the machine's last boot.

        Where that cannot be done, the files are not read; it must not keep the agent from working.
        """
        boot = self._folder / BOOT_FILE
        try:
            self._folder.mkdir(exist_ok=True)
            if _content(boot) != boot_id():
                self._forget()
            self._is_ready = True
            Storage().write(boot, boot_id().encode("ascii"))
        except OSError as error:
            log.warning("programs cannot speak by files in %s: %s", self._folder, error)

    def news(self) -> Iterator[Said]:
        """Yield what is said anew, in the order in which it was written."""
        changed = []
        for name in self._names():
            with suppress(OSError):
                found = (self._folder / name).lstat()
                version = (found.st_mtime_ns, found.st_ino, found.st_size)
                if self._seen.get(name) != version:
                    self._seen[name] = version
                    changed.append((found.st_mtime_ns, name))
        for _, name in sorted(changed):
            if (said := self._understood(name)) is not None:
                yield said

    def gone(self) -> set[Speaker]:
        """Return, once, the programs that have ended since."""
        gone = {pid: one for pid, one in self._speakers.items() if one.witness.is_gone}
        for pid in gone:
            del self._speakers[pid]
        return set(gone.values())

    def _forget(self) -> None:
        for path in self._folder.iterdir():
            if _NAME.fullmatch(path.name):
                path.unlink()

    def _names(self) -> list[str]:
        """Return the files' names, of which the first few by name count."""
        if not self._is_ready:
            return []
        try:
            with os.scandir(self._folder) as entries:
                some = itertools.islice(entries, NAMES_LIMIT)
                names = [entry.name for entry in some if _NAME.fullmatch(entry.name)]
        except OSError:
            return []
        return sorted(names)[:FILES_LIMIT]

    def _understood(self, name: str) -> Said | None:
        try:
            return self._said(name)
        except (OSError, ValueError) as error:
            log.warning("%s is not taken: %s", self._folder / name, error)
            return None

    def _said(self, name: str) -> Said:
        """Return what a file says.

        Raises:
            OSError: It cannot be read.
            ValueError: It is no call, or of a process that does not live or is another user's.
        """
        data, owner = _read(self._folder / name)
        call = msgspec.json.decode(data, type=Call)
        if isinstance(call, BusyCall):
            return Said(call)
        if not isinstance(call, (LoadedCall, HealthCall)):
            raise ValueError("only busy, loaded and health may be said")  # noqa: TRY004 - it is data
        pid = msgspec.json.decode(data, type=_Writer).pid
        return Said(call, self._speaker(pid, owner))

    def _speaker(self, pid: int, owner: int) -> Speaker:
        speaker = self._speakers.get(pid)
        if speaker is None or speaker.witness.is_gone:
            witness = Witness(pid, self._releases, clock=self._clock)
            speaker = Speaker(witness, self._clock())
        if speaker.witness.is_gone or speaker.witness.user != owner:
            raise ValueError(f"no process {pid} of user {owner}, whose file it is, is alive")
        self._speakers[pid] = speaker
        return speaker


def boot_id() -> str:
    """Return what tells this boot of the machine from all others."""
    return BOOT_ID.read_text(encoding="ascii").strip()


def _content(path: Path) -> str:
    """Return the text of a small file; empty where there is none."""
    try:
        return read_bounded(path, 64).decode("ascii")
    except (ConfigError, UnicodeDecodeError):
        return ""


def _read(path: Path) -> tuple[bytes, int]:
    """Return what is in a plain file and whose it is."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("it is no plain file")
        data = file.read(FILE_LIMIT_BYTES + 1)
    if len(data) > FILE_LIMIT_BYTES:
        raise ValueError(f"it is larger than {FILE_LIMIT_BYTES} bytes")
    return data, found.st_uid
