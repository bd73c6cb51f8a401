"""The agent's end of the application contract: what programs say, and what runs to answer them.

The socket's calls are answered by a thread for each program; the folder's are looked at whenever
the agent asks what the program said. What the agent gets to know is the program's word beside
what the kernel shows of its process (``speaker.py``, ``witness.py``).
"""

from __future__ import annotations

import logging
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.errors import AsdicError
from asdic.device.application import (
    LINE_LIMIT_BYTES,
    SOCKET_NAME,
    BusyCall,
    Call,
    CurrentRelease,
    LoadedCall,
    Program,
    short_path,
)
from asdic.device.application_folder import SAID_NAME, SaidFolder, boot_id
from asdic.device.speaker import Speaker
from asdic.device.update.storage import Storage
from asdic.device.witness import Witness

BUSY_NAME: Final = "busy.json"
CONNECTIONS_LIMIT: Final = 16
LOOK_EVERY_S: Final = 0.25

log = logging.getLogger("asdic.application")


class _Exam(msgspec.Struct, frozen=True, kw_only=True):
    """Until when a program is busy; the monotonic clock starts anew with each boot."""

    boot: str
    until_s: float


class ApplicationSocket:
    """The agent's end: a thread that listens, and one for each connected program.

    The program that acknowledged a model last is the program that infers.

    Args:
        folder: ``application`` in the state folder.
        current: Says what to run; called by any of the threads.
        busy_limit_s: The longest exam that is believed.
        clock: The machine's monotonic clock, on which programs say until when they are busy.
    """

    def __init__(
        self,
        folder: Path,
        current: Callable[[], CurrentRelease],
        *,
        busy_limit_s: float = 6 * 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._releases = folder.parent.resolve() / "releases"
        self._current = current
        self._busy_limit_s = busy_limit_s
        self._clock = clock
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, Speaker] = {}
        self._speakers: list[Speaker] = []
        self._said = SaidFolder(folder / SAID_NAME, self._releases, clock=clock)
        self._looked_s = float("-inf")
        self._busy_until_s = self._read_busy()
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Listen; a socket that a killed agent left behind is replaced."""
        self._folder.mkdir(exist_ok=True)
        self._said.prepare()
        self._look(is_first=True)
        (self._folder / SOCKET_NAME).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with short_path(self._folder) as path:
            listener.bind(path)
        listener.listen(CONNECTIONS_LIMIT)
        self._listener = listener
        threading.Thread(target=self._accept, name="application", daemon=True).start()

    def close(self) -> None:
        """Stop listening and hang up."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        with self._lock:
            connections = tuple(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def program(self) -> Program:
        """Return what the program that infers said last, and what its process shows now."""
        self._look_if_due()
        with self._lock:
            speaker = self._speakers[-1] if self._speakers else None
        return speaker.program(self._clock()) if speaker is not None else Program()

    def is_busy(self) -> bool:
        """Return whether an exam is in progress."""
        self._look_if_due()
        with self._lock:
            return self._clock() < self._busy_until_s

    def silence_s(self, pid: int | None) -> float:
        """Return for how many seconds a process has said nothing; 0 until it is connected."""
        with self._lock:
            heard = [one.heard_s for one in self._speakers if one.witness.pid == pid]
        return self._clock() - max(heard) if heard else 0.0

    # The socket

    def _accept(self) -> None:
        while self._listener is not None:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            witness = Witness(_peer_pid(accepted), self._releases, clock=self._clock)
            speaker = Speaker(witness, self._clock())
            with self._lock:
                is_full = len(self._connections) >= CONNECTIONS_LIMIT
                if not is_full:
                    self._connections[accepted] = speaker
                    self._speakers.insert(0, speaker)
            if is_full:
                accepted.close()
                continue
            threading.Thread(
                target=self._serve, args=(accepted, speaker), name="program", daemon=True
            ).start()

    def _serve(self, connection: socket.socket, speaker: Speaker) -> None:
        try:
            with connection, connection.makefile("rb") as lines:
                while line := lines.readline(LINE_LIMIT_BYTES):
                    connection.sendall(self._answer(speaker, line))
        except OSError:
            pass
        finally:
            with self._lock:
                del self._connections[connection]
                self._speakers.remove(speaker)

    def _answer(self, speaker: Speaker, line: bytes) -> bytes:
        try:
            call = msgspec.json.decode(line, type=Call)
            with self._lock:
                self._note(call, speaker)
            answer = self._current()
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            answer = CurrentRelease(error=f"not a call of the application contract: {error}")
        except (AsdicError, OSError) as error:
            answer = CurrentRelease(error=str(error))
        return msgspec.json.encode(answer) + b"\n"

    # The folder

    def _look_if_due(self) -> None:
        if self._clock() - self._looked_s >= LOOK_EVERY_S:
            self._look()

    def _look(self, *, is_first: bool = False) -> None:
        """Take what the folder says; what it said before we started ends no exam."""
        self._looked_s = self._clock()
        with self._lock:
            for said in self._said.news():
                call = said.call
                if is_first and isinstance(call, BusyCall):
                    call = BusyCall(until_s=max(call.until_s, self._busy_until_s))
                self._take(call, said.speaker)
            for speaker in self._said.gone():
                if speaker in self._speakers:
                    self._speakers.remove(speaker)

    def _take(self, call: Call, speaker: Speaker | None) -> None:
        try:
            self._note(call, speaker)
        except OSError as error:
            log.warning("the exam would not outlive a restart: %s", error)

    # What both say

    def _note(self, call: Call, speaker: Speaker | None) -> None:
        if isinstance(call, BusyCall):
            self._note_busy(call.until_s)
        if speaker is None:
            return
        if isinstance(call, LoadedCall) and not call.version:
            call = self._with_version(call)
        speaker.hear(call, self._clock())
        if speaker not in self._speakers:
            self._speakers.insert(0, speaker)
        if isinstance(call, LoadedCall):
            self._speakers.remove(speaker)
            self._speakers.append(speaker)

    def _with_version(self, call: LoadedCall) -> LoadedCall:
        """Add the version where the program did not know it, and what it runs is current."""
        with suppress(AsdicError, OSError):
            current = self._current()
            if current.manifest == call.manifest:
                return msgspec.structs.replace(call, version=current.version or "")
        return call

    def _note_busy(self, until_s: float) -> None:
        self._busy_until_s = min(until_s, self._clock() + self._busy_limit_s)
        said = _Exam(boot=boot_id(), until_s=self._busy_until_s)
        Storage().write(self._folder / BUSY_NAME, msgspec.json.encode(said))

    def _read_busy(self) -> float:
        """Return until when a program said that it is busy, before this agent started."""
        try:
            exam = msgspec.json.decode((self._folder / BUSY_NAME).read_bytes(), type=_Exam)
        except (OSError, msgspec.DecodeError):
            return 0.0
        limit_s = self._clock() + self._busy_limit_s
        return min(exam.until_s, limit_s) if exam.boot == boot_id() else 0.0


def _peer_pid(connected: socket.socket) -> int:
    """Return the process at the other end, as the kernel knows it."""
    data = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", data)[0]
    return pid
