"""Each durable operation by itself: is it there after a power cut as soon as it has returned?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Final

from asdic.device.update.storage import Storage
from tests.faults.disk import Entry, SimulatedDisk, Tree

BEFORE: Final[Tree] = (
    Entry("a", "folder"),
    Entry("a/file", "file", b"old", 1),
    Entry("b", "folder"),
    Entry("link", "link", b"a"),
)

OPERATIONS: Final = MappingProxyType(
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


def _write_and_sync(storage: Storage, path: Path) -> None:
    storage.write_at(path, 0, b"new")
    storage.sync(path)


def fleeting(folder: Path) -> Iterator[str]:
    """Yield the operations of which a power cut right after them may leave nothing, or half.

    A file that moved may be under its old name as well; nothing else may be other than it looks.
    """
    for name, operation in OPERATIONS.items():
        if not _is_durable(folder / "disk", operation):
            yield name


def _is_durable(folder: Path, operation: Callable[[Storage, Path], None]) -> bool:
    disk = SimulatedDisk(folder, BEFORE)
    operation(Storage(disk), folder)
    (now,) = disk.trees("strict")
    old = {entry for entry in BEFORE if entry not in now and entry.kind == "file"}
    return all(set(now) <= set(tree) and set(tree) - set(now) <= old for tree in disk.trees("lost"))
