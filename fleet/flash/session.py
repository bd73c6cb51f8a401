"""The one seam to a box: a command that runs there, and a port there that leads to us.

Everything that ``asdic flash`` does to a box goes through ``Session.run``, so a test can pull the
cable before and after each single step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final, Protocol

import msgspec

from asdic.fleet.flash.relay import Stream

OUTPUT_LIMIT_BYTES: Final = 8 << 20


Serve = Callable[[Stream], None]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a command answered: its exit code and its words."""

    code: int
    out: bytes = b""
    err: bytes = b""

    @property
    def complaint(self) -> str:
        """The last line on stderr, for a person."""
        lines = self.err.decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else f"exit code {self.code}"


class Session(Protocol):
    """A connection to one box."""

    @property
    def name(self) -> str:
        """The box's address, for messages."""

    def run(self, words: Sequence[str], *, stdin: Iterable[bytes] = (), timeout_s: float) -> Answer:
        """Run a command on the box to its end.

        Args:
            words: Program and arguments; no shell interprets them.
            stdin: What it reads, in pieces.
            timeout_s: The longest that it may take.

        Raises:
            LinkError: The connection is gone, or the time is over; whether the command has had
                an effect is not known.
        """

    def tunnel(self, serve: Serve) -> AbstractContextManager[int]:
        """Let the box reach us at the yielded port of its loopback.

        Args:
            serve: Is called with each connection, in a thread of its own.

        Raises:
            LinkError: The box's sshd does not allow it.
        """

    def close(self) -> None:
        """Hang up."""
