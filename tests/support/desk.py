"""A desk: the agent's end of the application contract by itself, over releases made by hand."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from asdic.contract.errors import ConfigError
from asdic.contract.messages import Loaded
from asdic.device.application import CurrentRelease, Program
from asdic.device.application_socket import ApplicationSocket

PATIENCE_S: Final = 30.0
POLL_S: Final = 0.005


class Desk:
    """Names releases in a state folder, and hears what a program says of them."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.current = CurrentRelease()
        self.error = ""
        self.socket = ApplicationSocket(state / "application", self._answer)

    @property
    def program(self) -> Program:
        """What the program said last."""
        return self.socket.program()

    @property
    def loaded(self) -> Loaded | None:
        """What the program acknowledged, beside what its process shows."""
        return self.program.loaded

    def release(self, version: str) -> CurrentRelease:
        """Return a release of which only the name needs to exist."""
        name = hashlib.sha256(version.encode()).hexdigest()
        return CurrentRelease(
            manifest=f"sha256:{name}",
            version=version,
            folder=str(self.state.resolve() / "releases" / name),
        )

    def add(self, version: str, make: Callable[[Path], object]) -> Path:
        """Let ``make`` fill a release folder, and return the folder."""
        folder = Path(self.release(version).folder or "")
        folder.mkdir(parents=True)
        make(folder)
        return folder

    def point(self, version: str | None) -> None:
        """Name the release to run; None is no model."""
        self.current = self.release(version) if version is not None else CurrentRelease()

    def __enter__(self) -> Desk:
        self.socket.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _answer(self) -> CurrentRelease:
        if self.error:
            raise ConfigError(self.error)
        return self.current


def until(condition: Callable[[], object], *, patience_s: float = PATIENCE_S) -> None:
    """Ask until ``condition`` holds.

    Raises:
        AssertionError: It never held.
    """
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(POLL_S)
