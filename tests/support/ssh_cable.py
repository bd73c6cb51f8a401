"""A cable that is pulled in the middle of a flash, at each moment of each step in turn."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from asdic.contract.errors import LinkError
from asdic.fleet.flash.session import Answer, Serve
from asdic.fleet.flash.ssh import SshSession


class Cable:
    """Is pulled at the first moment of an operation at which none was pulled before.

    A step is cut before it begins, when the box has got the order and not all of the payload, and
    when it has ended and its answer has not arrived.

    Args:
        spent: Operations and moments at which cables were pulled; this one's is added.

    Attributes:
        cut_at: Where it was pulled, if it was.
        words: The command lines that were sent.
    """

    def __init__(self, spent: set[tuple[str, str]]) -> None:
        self._spent = spent
        self.cut_at: tuple[str, str] | None = None
        self.words: list[str] = []

    def reaches(self, operation: str, moment: str, session: SshSession) -> None:
        """Pull the cable if it was never pulled here."""
        if self.cut_at is None and (operation, moment) not in self._spent:
            self.cut_at = (operation, moment)
            self._spent.add(self.cut_at)
            session._connection.transport.sock.close()

    def check(self) -> None:
        """Let nothing arrive any more once it was pulled."""
        if self.cut_at is not None:
            raise LinkError(f"the cable was pulled: {self.cut_at}")


class CutSession:
    """A real session whose cable may be pulled: the one seam is ``Session``."""

    def __init__(self, session: SshSession, cable: Cable) -> None:
        self._session = session
        self._cable = cable
        self.name = session.name

    def run(self, words: Sequence[str], *, stdin: Iterable[bytes] = (), timeout_s: float) -> Answer:
        pieces = iter(stdin)
        head = [piece for _, piece in zip(range(2), pieces, strict=False)]
        operation = _operation(head)
        self._cable.words += words
        self._cable.reaches(operation, "before", self._session)

        def told() -> Iterator[bytes]:
            yield from head
            self._cable.reaches(operation, "amid", self._session)
            yield from pieces

        answer = self._session.run(words, stdin=told(), timeout_s=timeout_s)
        self._cable.reaches(operation, "after", self._session)
        self._cable.check()
        return answer

    @contextmanager
    def tunnel(self, serve: Serve) -> Iterator[int]:
        self._cable.reaches("tunnel", "before", self._session)
        with self._session.tunnel(serve) as remote:
            self._cable.reaches("tunnel", "after", self._session)
            yield remote

    def close(self) -> None:
        self._session.close()


def _operation(head: list[bytes]) -> str:
    """Return what the step is called."""
    if len(head) < 2:
        return "find-python"
    arguments: dict[str, Any] = json.loads(head[1])
    step = str(arguments.get("step", "probe"))
    about = arguments.get("name") or next((name for name, _ in arguments.get("files", ())), "")
    return f"{step} of the release" if str(about).startswith("release") else step
