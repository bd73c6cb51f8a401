"""Programs beside an agent: real processes that map files and speak the application contract."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from asdic.contract.messages import Loaded
from asdic.device.application import CurrentRelease
from asdic.device.application_socket import ApplicationSocket

OLD: Final = "sha256:" + 64 * "a"
NEW: Final = "sha256:" + 64 * "b"
RELEASE: Final = CurrentRelease(manifest=NEW, version="2.0.0", folder="/releases/b")
PROGRAM: Final = """
import mmap, sys
from pathlib import Path
from asdic.device.application import Application, CurrentRelease, HealthCall

state, *mapped = map(Path, sys.argv[1:])
maps = []
for path in mapped:
    with path.open("rb") as file:
        maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
with Application.connect(state) as application:
    for line in sys.stdin:
        match line.split():
            case ["loaded", manifest]:
                release = CurrentRelease(manifest=manifest, version="1")
                application.loaded(release, inferences=1)
            case ["health", manifest]:
                application.health(HealthCall(manifest=manifest, inferences=2))
            case ["unmap"]:
                maps.pop().close()
        print("done", flush=True)
"""


def make_models(state: Path) -> Path:
    """Put a model file of an old and of a new release into a state folder, and return it."""
    for manifest in (OLD, NEW):
        path = model(state, manifest)
        path.parent.mkdir(parents=True)
        path.write_bytes(manifest.encode())
    return state


@contextmanager
def serving(state: Path) -> Iterator[ApplicationSocket]:
    """Yield an agent's end of the contract that names the new release."""
    made = ApplicationSocket(state / "application", lambda: RELEASE)
    made.start()
    try:
        yield made
    finally:
        made.close()


class Child:
    """A program in a process of its own, which maps files and says what it is told to."""

    def __init__(self, state: Path, *mapped: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(state), *map(str, mapped)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def tell(self, words: str) -> None:
        """Let it ``loaded MANIFEST``, ``health MANIFEST`` or ``unmap``, and wait until it has."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{words}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == "done\n"

    @property
    def maps(self) -> str:
        """What the kernel says that it maps."""
        return Path(f"/proc/{self.pid}/maps").read_text(encoding="utf-8")

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


class Clock:
    """The machine's monotonic clock, which a test may put forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


def model(state: Path, manifest: str) -> Path:
    """Return where the model file of a release lies."""
    return state / "releases" / manifest.removeprefix("sha256:") / "model.bin"


def acknowledged(agent: ApplicationSocket) -> Loaded:
    """Return what the program acknowledged.

    Raises:
        AssertionError: It acknowledged nothing.
    """
    found = agent.program().loaded
    assert found is not None
    return found
