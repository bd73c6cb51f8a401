"""The application contract: how the program that runs the model and the agent go by each other.

The *folder* half: ``current`` in the state folder is a symbolic link to a release folder
(``variant.json`` and the files that it names), which is never changed while it may be in use.
The *socket* half: ``application/agent.sock``, one JSON object a line in each direction:

    {"call": "current"}                                          what to run
    {"call": "busy", "until_s": 1234.5}                          an exam is in progress
    {"call": "loaded", "manifest": ..., "inferences": 1, ...}    this model has answered
    {"call": "health", "inferences": 9, "errors": 0, ...}        how it goes

Every answer names what to run now, so a program that sends ``health`` twice a second swaps in
time. ``until_s`` counts on the machine's monotonic clock, which all its processes share and no
one sets. Closing the connection ends whatever the program said; an exam ends by itself alone, and
an agent that restarts still knows of it.
``asdic-runner`` speaks it through ``Application``, and so can any program of the user's.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, TypeAlias

import msgspec

from asdic.contract.errors import AsdicError, ConfigError, LinkError
from asdic.contract.files import write_file
from asdic.contract.messages import Loaded, RuntimeFacts

SOCKET_NAME: Final = "agent.sock"
BUSY_NAME: Final = "busy.json"
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
LINE_LIMIT_BYTES: Final = 64 << 10
CONNECTIONS_LIMIT: Final = 16
ANSWER_TIMEOUT_S: Final = 10.0


class CurrentCall(msgspec.Struct, frozen=True, kw_only=True, tag="current", tag_field="call"):
    """What shall I run?"""


class BusyCall(msgspec.Struct, frozen=True, kw_only=True, tag="busy", tag_field="call"):
    """Change nothing before ``until_s`` of the monotonic clock; 0 ends it."""

    until_s: float


class LoadedCall(msgspec.Struct, frozen=True, kw_only=True, tag="loaded", tag_field="call"):
    """I run this manifest and it has answered; the process is known from the socket."""

    manifest: str
    version: str
    inferences: int
    runtime: RuntimeFacts | None = None


class HealthCall(msgspec.Struct, frozen=True, kw_only=True, tag="health", tag_field="call"):
    """Counts since ``manifest`` was loaded; ``reason`` says what the last error was.

    A program that cannot load a model sends its manifest with an error.
    """

    manifest: str | None = None
    inferences: int = 0
    errors: int = 0
    latency_ms_p50: float | None = None
    reason: str = ""


Call: TypeAlias = CurrentCall | BusyCall | LoadedCall | HealthCall


class CurrentRelease(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to every call: what to run now; no manifest means no model.

    ``cache`` is the folder for what this machine builds from the release (``$ASDIC_CACHE`` of
    ``asdic-runner``): what the trial has built there is what the gate has checked.
    """

    manifest: str | None = None
    version: str | None = None
    folder: str | None = None
    cache: str | None = None
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Program:
    """What the inferring program said last, over the connection that is still open."""

    loaded: Loaded | None = None
    runtime: RuntimeFacts | None = None
    health: HealthCall | None = None


class ProgramView(Protocol):
    """What the update needs to know about the program."""

    def program(self) -> Program:
        """Return what the program said last."""

    def is_busy(self) -> bool:
        """Return whether an exam is in progress."""


class _Exam(msgspec.Struct, frozen=True, kw_only=True):
    """Until when a program is busy; the monotonic clock starts anew with each boot."""

    boot: str
    until_s: float


@dataclass(eq=False)
class _Connection:
    """One connected program."""

    socket: socket.socket
    pid: int
    program: Program = field(default_factory=Program)


class ApplicationSocket:
    """The agent's end: a thread that listens, and one for each connected program.

    The connection that acknowledged a model last is the program that infers.
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
        self._current = current
        self._busy_limit_s = busy_limit_s
        self._clock = clock
        self._lock = threading.Lock()
        self._connections: list[_Connection] = []
        self._busy_until_s = self._read_busy()
        self._listener: socket.socket | None = None

    def start(self) -> None:
        """Listen; a socket that a killed agent left behind is replaced."""
        self._folder.mkdir(exist_ok=True)
        (self._folder / SOCKET_NAME).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _short_path(self._folder) as path:
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
                connection.socket.shutdown(socket.SHUT_RDWR)

    def program(self) -> Program:
        """Return what the program that infers said last."""
        with self._lock:
            return self._connections[-1].program if self._connections else Program()

    def is_busy(self) -> bool:
        """Return whether an exam is in progress."""
        with self._lock:
            return self._clock() < self._busy_until_s

    def _accept(self) -> None:
        while self._listener is not None:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            connection = _Connection(accepted, _peer_pid(accepted))
            with self._lock:
                is_full = len(self._connections) >= CONNECTIONS_LIMIT
                if not is_full:
                    self._connections.insert(0, connection)
            if is_full:
                accepted.close()
                continue
            threading.Thread(
                target=self._serve, args=(connection,), name="program", daemon=True
            ).start()

    def _serve(self, connection: _Connection) -> None:
        try:
            with connection.socket, connection.socket.makefile("rb") as lines:
                while line := lines.readline(LINE_LIMIT_BYTES):
                    connection.socket.sendall(self._answer(connection, line))
        except OSError:
            pass
        finally:
            with self._lock:
                self._connections.remove(connection)

    def _answer(self, connection: _Connection, line: bytes) -> bytes:
        try:
            self._note(connection, msgspec.json.decode(line, type=Call))
            answer = self._current()
        except msgspec.DecodeError as error:
            answer = CurrentRelease(error=f"not a call of the application contract: {error}")
        except (AsdicError, OSError) as error:
            answer = CurrentRelease(error=str(error))
        return msgspec.json.encode(answer) + b"\n"

    def _note(self, connection: _Connection, call: Call) -> None:
        with self._lock:
            match call:
                case BusyCall():
                    self._note_busy(call.until_s)
                case LoadedCall():
                    self._connections.remove(connection)
                    self._connections.append(connection)
                    connection.program = _acknowledged(call, connection)
                case HealthCall():
                    connection.program = _with_health(connection.program, call)
                case CurrentCall():
                    pass

    def _note_busy(self, until_s: float) -> None:
        self._busy_until_s = min(until_s, self._clock() + self._busy_limit_s)
        said = _Exam(boot=_boot_id(), until_s=self._busy_until_s)
        write_file(self._folder / BUSY_NAME, msgspec.json.encode(said))

    def _read_busy(self) -> float:
        """Return until when a program said that it is busy, before this agent started."""
        try:
            exam = msgspec.json.decode((self._folder / BUSY_NAME).read_bytes(), type=_Exam)
        except (OSError, msgspec.DecodeError):
            return 0.0
        limit_s = self._clock() + self._busy_limit_s
        return min(exam.until_s, limit_s) if exam.boot == _boot_id() else 0.0


class Application:
    """A program's end. One connection, used by one thread.

    ::

        with Application.connect(Path("box1")) as application:
            release = application.current()
            with Runner.open(Path(release.folder)) as runner:
                ...
                application.loaded(release, inferences=1, runtime=runner.facts())

    All calls return what to run now, and raise ``LinkError`` when the agent is gone.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._lines = connected.makefile("rb")

    @classmethod
    def connect(cls, state: Path) -> Application:
        """Connect to the agent that works on the state folder ``state``.

        Raises:
            LinkError: No agent listens there.
        """
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.settimeout(ANSWER_TIMEOUT_S)
        try:
            with _short_path(state / "application") as path:
                connected.connect(path)
        except OSError as error:
            connected.close()
            raise LinkError(f"no agent listens in {state}: {error.strerror}") from error
        return cls(connected)

    def __enter__(self) -> Application:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def current(self) -> CurrentRelease:
        """Return what to run."""
        return self._ask(CurrentCall())

    def busy(self, duration_s: float) -> CurrentRelease:
        """Let nothing change for so many seconds, say for an exam; 0 ends it."""
        return self._ask(BusyCall(until_s=time.monotonic() + duration_s if duration_s else 0.0))

    def loaded(
        self, release: CurrentRelease, *, inferences: int, runtime: RuntimeFacts | None = None
    ) -> CurrentRelease:
        """Acknowledge that ``release`` is loaded and has made ``inferences`` inferences."""
        return self._ask(
            LoadedCall(
                manifest=release.manifest or "",
                version=release.version or "",
                inferences=inferences,
                runtime=runtime,
            )
        )

    def health(self, health: HealthCall) -> CurrentRelease:
        """Say how it goes; best twice a second."""
        return self._ask(health)

    def close(self) -> None:
        """Hang up: this program runs nothing any more."""
        self._lines.close()
        self._socket.close()

    def _ask(self, call: Call) -> CurrentRelease:
        try:
            self._socket.sendall(msgspec.json.encode(call) + b"\n")
            line = self._lines.readline(LINE_LIMIT_BYTES)
            answer = msgspec.json.decode(line, type=CurrentRelease)
        except (OSError, msgspec.DecodeError) as error:
            raise LinkError(f"the agent is gone: {error}") from error
        if answer.error:
            raise ConfigError(f"the agent answers: {answer.error}")
        return answer


@contextmanager
def _short_path(folder: Path) -> Iterator[str]:
    """Yield a short name for the socket: the kernel takes at most 107 bytes of path."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)


def _boot_id() -> str:
    return BOOT_ID.read_text(encoding="ascii").strip()


def _peer_pid(connected: socket.socket) -> int:
    """Return the process at the other end, as the kernel knows it."""
    data = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", data)[0]
    return pid


def _acknowledged(call: LoadedCall, connection: _Connection) -> Program:
    loaded = Loaded(
        manifest=call.manifest,
        version=call.version,
        pid=connection.pid,
        inferences=call.inferences,
    )
    health = connection.program.health
    is_same = health is not None and health.manifest == call.manifest
    return Program(loaded=loaded, runtime=call.runtime, health=health if is_same else None)


def _with_health(program: Program, call: HealthCall) -> Program:
    """Return ``program`` with new counts; a program that lets a model go has none loaded."""
    loaded = program.loaded
    if loaded is not None and loaded.manifest != call.manifest:
        return Program(health=call)
    if loaded is not None:
        loaded = msgspec.structs.replace(loaded, inferences=call.inferences)
    return Program(loaded=loaded, runtime=program.runtime, health=call)
