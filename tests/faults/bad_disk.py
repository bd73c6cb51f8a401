"""Row 4: the disk is full, broken or read-only at every call; an ``fsync`` fails once and lies.

Each fault comes once, or stays until the machine is started again or (a full disk) until somebody
makes room. While it stays, the model that ran has to run on.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.faults.disk import SimulatedDisk
from tests.faults.explore import BUGS, Explorer, Played, outcome_of
from tests.faults.row import Forbidden, Outcome, Row
from tests.faults.scenario import STORIES
from tests.faults.stops import explorers_in
from tests.faults.world import quiet

PATIENCE_TICKS: Final = 60
GROWING: Final = frozenset({"create", "write", "link", "symlink", "make_folder", "rename"})
SYNCS: Final = frozenset({"sync", "sync_folder"})


@dataclass(frozen=True)
class Fault:
    """An error number, the calls that may meet it (none: all), and whether it stays."""

    number: int
    calls: frozenset[str] = frozenset()
    stays: bool = False
    forgets: bool = False


FAULTS: Final = MappingProxyType(
    {
        "ENOSPC once": Fault(errno.ENOSPC, GROWING),
        "ENOSPC for a while": Fault(errno.ENOSPC, GROWING, stays=True),
        "EIO once": Fault(errno.EIO),
        "EIO from then on": Fault(errno.EIO, stays=True),
        "EROFS from then on": Fault(errno.EROFS, stays=True),
        "fsync fails once": Fault(errno.EIO, SYNCS, forgets=True),
    }
)


@contextmanager
def bad_disk(folder: Path) -> Iterator[Callable[[str], Outcome]]:
    """Yield what plays a story with a fault at every one of its calls."""
    with explorers_in(folder) as explorers:

        def try_point(point: str) -> Outcome:
            name, _, fault = point.partition(": ")
            explorer = explorers[name]
            before = explorer.runs
            played = [
                one
                for call in range(explorer.first().calls)
                for one in with_fault(explorer, FAULTS[fault], call)
            ]
            return outcome_of(point, played, runs=explorer.runs - before, cases=len(played))

        yield try_point


def with_fault(explorer: Explorer, fault: Fault, call: int) -> Iterator[Played]:
    """Yield how it ends when the fault goes, and after a power cut while it is there."""
    tree, memory = explorer.stage.begin(explorer.scenario)
    memory = memory.copy()
    disk = SimulatedDisk(explorer.stage.folder / "disk", tree)
    world = explorer.world(disk, memory)
    is_met = _strike(disk, fault, call)
    explorer.runs += 1
    with quiet():
        try:
            world.start()
            world.go_on(PATIENCE_TICKS)
        except BUGS as error:
            yield Played(
                end="none", forbidden=(Forbidden.STUCK,), detail=repr(error), calls=disk.calls
            )
            return
    if not is_met():
        return
    if explorer.scenario.begin != "enrolled" and world.program.running is None:
        detail = f"nothing ran while the fault of call {call} was there"
        yield Played(end="none", forbidden=(Forbidden.BRICK,), detail=detail, calls=disk.calls)
    then = memory.copy()
    left = {tree for model in ("strict", "lost") for tree in disk.trees(model)}
    if fault.stays:
        disk.before = lambda *_: None
        with quiet():
            world.go_on()
    yield explorer.judged(world, [])
    for one in left:
        yield explorer.play(one, then)


def _strike(disk: SimulatedDisk, fault: Fault, call: int) -> Callable[[], bool]:
    """Let the fault come at ``call``; return what says whether it was met."""
    met = []

    def fail(number: int, name: str, path: Path) -> None:
        is_time = number >= call if fault.stays else number == call
        if not is_time or (fault.calls and name not in fault.calls):
            return
        met.append(number)
        if fault.forgets and name == "sync":
            disk.forget(path)
        raise OSError(fault.number, os.strerror(fault.number), str(path))

    disk.before = fail
    return lambda: bool(met)


ROW: Final = Row(
    name="bad-disk",
    number=4,
    fault="ENOSPC, EIO, EROFS, fsync failing once, at every operation",
    points=lambda: [f"{story.name}: {fault}" for story in STORIES for fault in FAULTS],
    open=bad_disk,
    sample=2,
)
