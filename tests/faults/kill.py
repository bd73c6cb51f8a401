"""Row 5: ``kill -9`` of the real agent before every call that changes its state folder.

A box runs 1.0.0. A real ``asdic-agent install`` with its real runner and trial is stopped by
ptrace before its Nth change of the state folder (``traced.X86_64`` lists all calls that count:
creating, writing, syncing, renaming, linking, removing, changing owner or mode, and binding the
socket) and killed there; the call is not made. So each point is one state of the disk as the
kernel holds it. Then the same stick is installed again, whole, and the box is judged.

Killing loses nothing that the kernel was given: what an fsync is for is row 9's business.
Not points of their own: changes by the runner and the trial, which have no say in the state folder
beyond their cache, and what the Python interpreter does outside the folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Final

from tests.faults.real_box import BAD, NEW, Stage, count_changes, install, install_until, judge
from tests.faults.row import Outcome, Row
from tests.faults.traced import lacks_tracing

SCENES: Final[Mapping[str, str]] = MappingProxyType({"update": NEW, "refused": BAD})
"""What is installed over 1.0.0: a good release, and one whose gate fails."""


@cache
def points() -> tuple[str, ...]:
    """Return a point for each change that a whole install makes, as recorded now."""
    with TemporaryDirectory() as folder:
        stage = Stage.build(Path(folder))
        return tuple(
            f"{scene} {number:03}"
            for scene, version in SCENES.items()
            for number in range(
                1, count_changes(stage.copy_to(Path(folder) / scene), stage.sticks[version]) + 1
            )
        )


@contextmanager
def opened(folder: Path) -> Iterator[Callable[[str], Outcome]]:
    """Build the releases and the box that all points start from."""
    stage = Stage.build(folder)
    yield lambda point: _try(stage, folder / "point", point)


def _try(stage: Stage, folder: Path, point: str) -> Outcome:
    """Kill the agent at one point, let the next one go on, and judge."""
    scene, number = point.split()
    stick = stage.sticks[SCENES[scene]]
    shutil.rmtree(folder, ignore_errors=True)
    box = stage.copy_to(folder)
    stopped = install_until(box, stick, int(number))
    if not stopped.before:
        return Outcome(point=point, end="not reached")
    return judge(stage, box, point, stopped=stopped, again=install(box, stick))


ROW: Final = Row(
    name="kill",
    number=5,
    fault="kill -9 of the real agent at every state-changing system call on its state folder",
    points=points,
    open=opened,
    sample=4,
    lacks=lacks_tracing,
)
