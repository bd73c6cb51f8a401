"""The application contract: how the program that runs the model and the agent go by each other.

The *socket* half: ``application/agent.sock`` in the state folder, one JSON object a line in each
direction:

    {"call": "current"}                                          what to run
    {"call": "busy", "until_s": 1234.5}                          an exam is in progress
    {"call": "loaded", "manifest": ..., "inferences": 1, ...}    this model has answered
    {"call": "health", "inferences": 9, "errors": 0, ...}        how it goes

Every answer names what to run now, so a program that sends ``health`` twice a second swaps in
time. ``until_s`` counts on the machine's monotonic clock, which all its processes share and no
one sets. Closing the connection ends whatever the program said; an exam ends by itself alone, and
an agent that restarts still knows of it.
The *folder* half, for programs without sockets: ``current`` in the state folder is a symbolic link
to a release folder (``variant.json`` and the files that it names), which is never changed while it
may be in use; what such a program says it writes to ``application/said``
(``application_folder.py``).

Here are the calls and a program's end in Python; the agent's end is ``application_socket.py``, and
``c/`` holds a program's end in C. ``asdic-runner`` goes by this contract as any program would.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Final, Protocol, TypeAlias

import msgspec

from asdic.contract.errors import ConfigError, LinkError
from asdic.contract.messages import Loaded, RuntimeFacts

SOCKET_NAME: Final = "agent.sock"
LINE_LIMIT_BYTES: Final = 64 << 10
ANSWER_TIMEOUT_S: Final = 10.0
REASON_LIMIT: Final = 500

_Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=128)]
_Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]


class CurrentCall(msgspec.Struct, frozen=True, kw_only=True, tag="current", tag_field="call"):
    """What shall I run?"""


class BusyCall(msgspec.Struct, frozen=True, kw_only=True, tag="busy", tag_field="call"):
    """Change nothing before ``until_s`` of the monotonic clock; 0 ends it."""

    until_s: float


class LoadedCall(msgspec.Struct, frozen=True, kw_only=True, tag="loaded", tag_field="call"):
    """I run this manifest and it has answered; the process is known from the socket.

    A program that does not know the version leaves it out: what runs is its manifest.
    """

    manifest: _Name
    version: _Name = ""
    inferences: _Count
    runtime: RuntimeFacts | None = None


class HealthCall(msgspec.Struct, frozen=True, kw_only=True, tag="health", tag_field="call"):
    """Counts since ``manifest`` was loaded; ``reason`` says what the last error was.

    A program that cannot load a model sends its manifest with an error; where another model goes
    on answering meanwhile, ``still`` names it. One that has let its model go sends no manifest.
    """

    manifest: _Name | None = None
    inferences: _Count = 0
    errors: _Count = 0
    latency_ms_p50: float | None = None
    reason: Annotated[str, msgspec.Meta(max_length=REASON_LIMIT)] = ""
    still: _Name | None = None


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
    """What the inferring program said last; what it said is over once it is gone."""

    loaded: Loaded | None = None
    runtime: RuntimeFacts | None = None
    health: HealthCall | None = None


class ProgramView(Protocol):
    """What the update needs to know about the program."""

    def program(self) -> Program:
        """Return what the program said last."""

    def is_busy(self) -> bool:
        """Return whether an exam is in progress."""


class Application:
    """A program's end. One connection, used by one thread.

    ::

        with Application.connect(Path("box1")) as application:
            release = application.current()
            with Runner.open(Path(release.folder)) as runner:
                ...
                application.loaded(release, inferences=1, runtime=runner.facts())

    All calls return what to run now, and raise ``LinkError`` when the agent is gone and
    ``ConfigError`` when it answers with an error. A program that may not wait, between two frames,
    uses ``send`` and ``answer`` instead: one call at a time.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._received = bytearray()
        self._is_waiting = False

    @classmethod
    def connect(cls, state: Path) -> Application:
        """Connect to the agent that works on the state folder ``state``.

        Raises:
            LinkError: No agent listens there.
        """
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connected.setblocking(False)
        try:
            with short_path(state / "application") as path:
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
        return self._ask(loaded_call(release, inferences=inferences, runtime=runtime))

    def health(self, health: HealthCall) -> CurrentRelease:
        """Say how it goes; best twice a second."""
        return self._ask(health)

    def close(self) -> None:
        """Hang up: this program runs nothing any more."""
        self._socket.close()

    @property
    def is_waiting(self) -> bool:
        """Whether a call was sent whose answer was not fetched."""
        return self._is_waiting

    def send(self, call: Call) -> None:
        """Send a call and do not wait; ``answer`` fetches what the agent says to it.

        Raises:
            LinkError: The agent is gone.
        """
        try:
            self._socket.settimeout(0.0)
            self._socket.sendall(msgspec.json.encode(call) + b"\n")
        except OSError as error:
            raise LinkError(f"the agent is gone: {error.strerror}") from error
        self._is_waiting = True

    def answer(self, timeout_s: float = 0.0) -> CurrentRelease | None:
        """Return the answer to the call that was sent last, or None if none came in time.

        Raises:
            LinkError: The agent is gone, or what answers is no agent.
            ConfigError: The agent answers with an error.
        """
        line = self._line(time.monotonic() + timeout_s)
        if line is None:
            return None
        self._is_waiting = False
        try:
            answer = msgspec.json.decode(line, type=CurrentRelease)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise LinkError(f"what answers is no agent: {error}") from error
        if answer.error:
            raise ConfigError(f"the agent answers: {answer.error}")
        return answer

    def _ask(self, call: Call) -> CurrentRelease:
        self.send(call)
        answer = self.answer(ANSWER_TIMEOUT_S)
        if answer is None:
            raise LinkError(f"the agent is gone: no answer within {ANSWER_TIMEOUT_S:.0f} s")
        return answer

    def _line(self, deadline_s: float) -> bytes | None:
        """Return the next line; None where it is not there by the deadline."""
        while b"\n" not in self._received:
            if len(self._received) > LINE_LIMIT_BYTES:
                raise LinkError(f"what answers is no agent: more than {LINE_LIMIT_BYTES} bytes")
            try:
                self._socket.settimeout(max(0.0, deadline_s - time.monotonic()))
                data = self._socket.recv(LINE_LIMIT_BYTES)
            except (BlockingIOError, TimeoutError):
                return None
            except OSError as error:
                raise LinkError(f"the agent is gone: {error.strerror}") from error
            if not data:
                raise LinkError("the agent is gone: it hung up")
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return bytes(line)


def loaded_call(
    release: CurrentRelease, *, inferences: int, runtime: RuntimeFacts | None
) -> LoadedCall:
    """Return the acknowledgement of ``release``."""
    return LoadedCall(
        manifest=release.manifest or "",
        version=release.version or "",
        inferences=inferences,
        runtime=runtime,
    )


@contextmanager
def short_path(folder: Path) -> Iterator[str]:
    """Yield a short name for the socket: the kernel takes at most 107 bytes of path."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)
