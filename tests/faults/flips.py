"""Row 7: a flipped bit in every 4 KiB of everything on the disk, and files that are exchanged.

A device at rest, and one in every state of an update, is started on the damaged disk. It may run
the old or the new release, or fetch one again; it must not run what nobody signed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from asdic.contract.messages import UpdateState
from tests.faults.disk import Entry, Tree
from tests.faults.explore import Explorer, Played, outcome_of
from tests.faults.row import Outcome, Row
from tests.faults.scenario import NEW, OLD, ON_THE_WAY, Scenario
from tests.faults.stage import stage_in
from tests.faults.world import World

BLOCK_BYTES: Final = 4096
TEMPLATES: Final = ("on-1.0.0", "on-1.1.0", *(f"in-{state.value}" for state in ON_THE_WAY))
EXCHANGED_IN: Final = (
    UpdateState.STAGED,
    UpdateState.GATING,
    UpdateState.ACTIVATING,
    UpdateState.PROBATION,
)
KINDS: Final = ("blobs", "releases", "trust", "journal", "pointers", "reports", "others")


@contextmanager
def flips(folder: Path) -> Iterator[Callable[[str], Outcome]]:
    """Yield what damages one kind of file on one kind of disk, block after block."""
    with stage_in(folder) as stage:

        def try_point(point: str) -> Outcome:
            begin, _, what = point.partition(": ")
            explorer = Explorer(stage, _story(begin, is_update="exchanged" in what))
            played = list(
                _exchanged(explorer, what) if what.startswith("exchanged") else
                _flipped(explorer, what)
            )  # fmt: skip
            return outcome_of(point, played, runs=explorer.runs, cases=len(played))

        yield try_point


def _story(begin: str, *, is_update: bool) -> Scenario:
    offer = OLD if begin == "on-1.0.0" and not is_update else NEW
    return Scenario(name="flips", begin=begin, offer=offer, ends=offer, keeps=False)


def _flipped(explorer: Explorer, kind: str) -> Iterator[Played]:
    tree, memory = explorer.stage.begin(explorer.scenario)
    for number, entry in enumerate(tree):
        if kind_of(entry) != kind or not entry.content:
            continue
        for place in _places(entry):
            yield explorer.play(_with_flip(tree, number, place), memory)


def _places(entry: Entry) -> Iterator[int]:
    """Yield one byte of every 4 KiB, and 32 of what is smaller than that."""
    size = len(entry.content)
    block = BLOCK_BYTES if size > BLOCK_BYTES else max(size // 32, 1)
    chance = random.Random(entry.path)  # noqa: S311 - a repeatable choice
    for start in range(0, size, block):
        yield start + chance.randrange(min(block, size - start))


def some_flips(explorer: Explorer) -> Iterator[Played]:
    """Yield how it ends with a flipped bit in up to 32 places of each file."""
    tree, memory = explorer.stage.begin(explorer.scenario)
    for number, entry in enumerate(tree):
        if entry.content:
            for place in itertools.islice(_places(entry), 32):
                yield explorer.play(_with_flip(tree, number, place), memory)


def kind_of(entry: Entry) -> str:
    """Return the word for what an entry is part of."""
    if entry.kind == "link":
        return "pointers"
    parts = entry.path.split("/")
    if parts[0] == "store":
        return "blobs"
    if parts[0] in {"releases", "trust", "reports"}:
        return parts[0]
    return "journal" if parts[0] == "journal.json" else "others"


def _with_flip(tree: Tree, number: int, place: int) -> Tree:
    """Return the tree with one bit of a byte flipped, under all names of that file."""
    hit = tree[number]
    content = bytearray(hit.content)
    # A file name's characters stay below 128, so a link's text is flipped below that.
    content[place] ^= 1 << place % 7
    changed = bytes(content)
    if hit.kind == "link" and (b"\0" in changed or not changed):
        changed = b"nowhere"
    return tuple(
        Entry(one.path, one.kind, changed, one.inode)
        if one is hit or (one.inode == hit.inode and one.kind == hit.kind == "file")
        else one
        for one in tree
    )


def _exchanged(explorer: Explorer, what: str) -> Iterator[Played]:
    """Put another file of the same length in the place of each file of the new release."""
    state = UpdateState(what.rsplit(maxsplit=1)[-1])
    names = sorted(explorer.stage.signed[explorer.stage.hex(NEW)].files)
    for name in names:
        path = explorer.stage.folder / "disk" / "releases" / explorer.stage.hex(NEW) / name

        def prepare(world: World, path: Path = path) -> None:
            def exchange(entered: UpdateState) -> None:
                if entered is state and path.exists():
                    size = path.stat().st_size
                    world.disk.unlink(path)
                    world.disk.write(path, 0, random.Random(size).randbytes(size))  # noqa: S311

            world.entered = exchange

        yield explorer.play(*explorer.stage.begin(explorer.scenario), prepare=prepare)


def _points() -> list[str]:
    flipped = [f"{begin}: {kind}" for begin in TEMPLATES for kind in KINDS]
    return [*flipped, *(f"on-1.0.0: exchanged when {state.value}" for state in EXCHANGED_IN)]


ROW: Final = Row(
    name="flips",
    number=7,
    fault="one flipped bit in every 4 KiB of every file; a file exchanged after it was checked",
    points=_points,
    open=flips,
    sample=4,
)
