"""Each durable operation by itself: does it last once it has returned, and is it one step?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

from asdic.device.update.storage import Storage
from tests.faults.disk import MODELS, Entry, PowerCut, SimulatedDisk, Tree

Operation: TypeAlias = Callable[[Storage, Path], None]

BEFORE: Final[Tree] = (
    Entry("a", "folder"),
    Entry("a/file", "file", b"old", 1),
    Entry("b", "folder"),
    Entry("link", "link", b"a"),
)

OPERATIONS: Final[Mapping[str, Operation]] = MappingProxyType(
    {
        "write": lambda storage, folder: storage.write(folder / "a" / "file", b"new"),
        "write a new file": lambda storage, folder: storage.write(folder / "b" / "file", b"new"),
        "sync": lambda storage, folder: _write_and_sync(storage, folder / "a" / "file"),
        "rename": lambda storage, folder: storage.rename(folder / "a" / "file", folder / "b" / "f"),
        "make_folder": lambda storage, folder: storage.make_folder(folder / "c" / "d"),
        "build_folder": lambda storage, folder: storage.build_folder(
            folder / "built", {"name": folder / "a" / "file"}
        ),
        "point": lambda storage, folder: storage.point(folder / "link", "b"),
        "remove": lambda storage, folder: storage.remove(folder / "a" / "file"),
        "remove_folder": lambda storage, folder: storage.remove_folder(folder / "a"),
    }
)

MOVES: Final = "rename"
IN_ONE_STEP: Final = tuple(name for name in OPERATIONS if name not in {"sync", "make_folder"})
"""A file that is written in place is never whole before its ``sync``; each new folder is a step."""


def _write_and_sync(storage: Storage, path: Path) -> None:
    storage.write_at(path, 0, b"new")
    storage.sync(path)


def fleeting(folder: Path) -> Iterator[str]:
    """Yield the operations of which a power cut right after them may leave nothing, or half.

    A file that moved may be under its old name as well; nothing else may be other than it looks.
    """
    for name, operation in OPERATIONS.items():
        if not _is_durable(folder / "disk", operation, moves=name == MOVES):
            yield name


def halved(folder: Path) -> Iterator[str]:
    """Yield the operations of which a power cut in them may leave a part for a reader to see."""
    for name in IN_ONE_STEP:
        if not _is_one_step(folder, OPERATIONS[name], moves=name == MOVES):
            yield name


def readable(tree: Tree) -> dict[str, bytes]:
    """Return what a reader sees: all but what begins with a dot, which nobody reads."""
    return {
        one.path: one.content for one in tree if not any(n[0] == "." for n in one.path.split("/"))
    }


def _is_durable(folder: Path, operation: Operation, *, moves: bool) -> bool:
    disk = SimulatedDisk(folder, BEFORE)
    operation(Storage(disk), folder)
    (now,) = disk.trees("strict")
    old = {entry for entry in BEFORE if moves and entry not in now and entry.kind == "file"}
    return all(set(now) <= set(tree) and set(tree) - set(now) <= old for tree in disk.trees("lost"))


def _is_one_step(folder: Path, operation: Operation, *, moves: bool) -> bool:
    whole = SimulatedDisk(folder / "disk", BEFORE)
    operation(Storage(whole), whole.folder)
    before, after = readable(BEFORE), readable(next(whole.trees("strict")))
    allowed = [before, after, *([{**before, **after}] if moves else [])]
    return all(
        readable(tree) in allowed
        for call in range(whole.calls)
        for tree in _cut_at(call, folder / "disk", operation)
    )


def _cut_at(call: int, folder: Path, operation: Operation) -> Iterator[Tree]:
    def cut(number: int, _name: str, _path: Path) -> None:
        if number == call:
            raise PowerCut

    disk = SimulatedDisk(folder, BEFORE, before=cut)
    with suppress(PowerCut):
        operation(Storage(disk), folder)
    for model in MODELS:
        yield from disk.trees(model)
