"""A disk in memory that knows what it may have forgotten after a power cut.

Every call is done at once on a real folder (best on a tmpfs), where the device's code reads, and
noted in a model beside it: which bytes and which names are durable, and which are pending. From
the model come all trees that a power cut at this moment may leave. Three kinds of disk:

    strict   every call is durable in its order
    lost     what was not synced may be there or not, each change by itself, in any order
    torn     the last write that was not synced is zeros, half of itself, or garbage

Two rules of real file systems hold in all of them: a rename is one step, and a file that moves
between two folders is never in neither. After "All File Systems Are Not Created Equal" (Pillai et
al., OSDI 2014): data and names are independent, and a file's name is its folder's matter.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, TypeAlias

from asdic.device.update.disk import Disk, RealDisk, Space

Model: TypeAlias = Literal["strict", "lost", "torn"]
MODELS: Final[tuple[Model, ...]] = ("strict", "lost", "torn")
SUBSETS_LIMIT: Final = 5
"""Up to so many pending changes, all subsets of them are tried; of more, a fair choice."""

ROOT: Final = 0


class PowerCut(BaseException):
    """The machine is off. No ``except Exception`` of the device's code can catch that."""


@dataclass(frozen=True)
class Entry:
    """One name of a tree: a folder, a file with its bytes, or a link with its text."""

    path: str
    kind: Literal["folder", "file", "link"]
    content: bytes = b""
    inode: int = field(default=0, compare=False)


Tree: TypeAlias = tuple[Entry, ...]
"""All names below a folder, parents first."""


@dataclass
class _Inode:
    """What a name stands for. ``names`` are a folder's, ``content`` is a file's or a link's."""

    kind: Literal["folder", "file", "link"]
    content: bytes = b""
    names: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class _Change:
    """A change that is not durable yet.

    Either bytes of a file, at ``offset`` or (None) in place of all, or new names in one folder
    (None: gone). ``needs``: a change without which this one cannot be durable.
    """

    inode: int
    content: bytes | None = None
    offset: int | None = None
    names: tuple[tuple[str, int | None], ...] = ()
    needs: _Change | None = None


Hook: TypeAlias = Callable[[int, str, Path], None]
"""Is called before each call with its number, its name and its path; may raise."""


class SimulatedDisk(Disk):
    """The disk.

    Args:
        folder: Where the device's files really lie; it becomes what ``tree`` says.
        tree: What is on the disk to begin with.
        before: Is asked before every call.
        after: Is told after every call that was done.
    """

    def __init__(
        self,
        folder: Path,
        tree: Tree = (),
        *,
        before: Hook = lambda *_: None,
        after: Hook = lambda *_: None,
    ) -> None:
        self.folder = folder
        self.calls = 0
        self.free = Space(bytes=1 << 40, files=1 << 20)
        self.before, self.after = before, after
        self._real = RealDisk()
        self._inodes: dict[int, _Inode] = {ROOT: _Inode("folder")}
        self._durable: dict[int, _Inode] = {ROOT: _Inode("folder")}
        self._pending: list[_Change] = []
        self._numbers = itertools.count(1)
        lay_out(tree, folder)
        self._learn(tree)

    def trees(self, model: Model) -> Iterator[Tree]:
        """Yield what a power cut at this moment may leave on this kind of disk."""
        if model == "strict":
            yield self._tree(self._pending)
        elif model == "lost":
            yield from (self._tree(kept) for kept in _subsets(self._pending))
        else:
            yield from self._torn_trees()

    def create(self, path: Path, mode: int) -> None:
        """Note an empty file: a new one, or the old one without its content."""
        with _Call(self, "create", path):
            self._real.create(path, mode)
            folder, name = self._place(path)
            inode = self._inodes[folder].names.get(name)
            if inode is None:
                self._name(folder, {name: self._new("file")})
            else:
                self._content(_Change(inode, content=b""))

    def write(self, path: Path, offset: int, data: bytes) -> None:
        """Note the file's new content."""
        with _Call(self, "write", path):
            self._real.write(path, offset, data)
            folder, name = self._place(path)
            inode = self._inodes[folder].names.get(name)
            if inode is None:
                inode = self._new("file")
                self._name(folder, {name: inode})
            self._content(_Change(inode, content=bytes(data), offset=offset))

    def sync(self, path: Path) -> None:
        """Note that a file's content is durable."""
        with _Call(self, "sync", path):
            self._settle(self._inode(path))

    def sync_folder(self, path: Path) -> None:
        """Note that a folder's names are durable."""
        with _Call(self, "sync_folder", path):
            self._settle(self._inode(path))

    def rename(self, source: Path, destination: Path) -> None:
        """Note the move: one change in one folder, or two in two of which the second needs both."""
        with _Call(self, "rename", destination):
            self._real.rename(source, destination)
            if source.is_symlink() or source.exists():
                return  # Two names of one file: rename(2) does nothing.
            (old, was), (new, name) = self._place(source), self._place(destination)
            inode = self._inodes[old].names[was]
            if old == new:
                self._name(old, {was: None, name: inode})
            else:
                arrived = self._name(new, {name: inode})
                self._name(old, {was: None}, needs=arrived)

    def link(self, source: Path, destination: Path) -> None:
        """Note a second name."""
        with _Call(self, "link", destination):
            self._real.link(source, destination)
            folder, name = self._place(destination)
            self._name(folder, {name: self._inode(source)})

    def symlink(self, path: Path, destination: str) -> None:
        """Note a link; its text is as durable as its name, as on ext4 and its like."""
        with _Call(self, "symlink", path):
            self._real.symlink(path, destination)
            folder, name = self._place(path)
            self._name(folder, {name: self._new("link", destination.encode())})

    def unlink(self, path: Path) -> None:
        """Note that a name is gone."""
        with _Call(self, "unlink", path):
            self._real.unlink(path)
            folder, name = self._place(path)
            self._name(folder, {name: None})

    def make_folder(self, path: Path) -> None:
        """Note a folder."""
        with _Call(self, "make_folder", path):
            self._real.make_folder(path)
            folder, name = self._place(path)
            self._name(folder, {name: self._new("folder")})

    def remove_folder(self, path: Path) -> None:
        """Note that a folder is gone."""
        with _Call(self, "remove_folder", path):
            self._real.remove_folder(path)
            folder, name = self._place(path)
            self._name(folder, {name: None})

    def space(self, folder: Path) -> Space:  # noqa: ARG002
        """Return what the test says."""
        return self.free

    def forget(self, path: Path) -> None:
        """Lose a file's pending content for good, as a kernel does after a failed ``fsync``.

        The device still reads it, a later ``sync`` says that all is well, and a power cut shows.
        """
        inode = self._inode(path)
        self._pending = [
            change for change in self._pending if change.inode != inode or change.content is None
        ]

    def _learn(self, tree: Tree) -> None:
        """Take over a tree that is durable."""
        numbers: dict[int, int] = {}
        for entry in tree:
            inode = numbers.get(entry.inode) if entry.kind == "file" else None
            if inode is None:
                inode = self._new(entry.kind, entry.content)
                numbers[entry.inode] = inode
                self._durable[inode] = _Inode(entry.kind, entry.content)
            folder, name = self._place(self.folder / entry.path)
            self._inodes[folder].names[name] = inode
            self._durable[folder].names[name] = inode

    def _new(self, kind: Literal["folder", "file", "link"], content: bytes = b"") -> int:
        number = next(self._numbers)
        self._inodes[number] = _Inode(kind, content)
        self._durable[number] = _Inode(kind, content)
        return number

    def _name(
        self, folder: int, names: dict[str, int | None], needs: _Change | None = None
    ) -> _Change:
        for name, inode in names.items():
            if inode is None:
                del self._inodes[folder].names[name]
            else:
                self._inodes[folder].names[name] = inode
        change = _Change(folder, names=tuple(names.items()), needs=needs)
        self._pending.append(change)
        return change

    def _content(self, change: _Change) -> None:
        _apply(self._inodes, change)
        self._pending.append(change)

    def _settle(self, inode: int) -> None:
        """Make the pending changes of a file or a folder durable."""
        rest = []
        for change in self._pending:
            if change.inode == inode:
                _apply(self._durable, change)
            else:
                rest.append(change)
        # What is in a folder that is gone for good cannot matter any more.
        named = {number for change in rest for _, number in change.names}
        alive = {*_reachable(self._inodes), *_reachable(self._durable), *named}
        self._pending = [change for change in rest if change.inode in alive]

    def _place(self, path: Path) -> tuple[int, str]:
        """Return the folder's inode and the name in it."""
        return self._inode(path.parent), path.name

    def _inode(self, path: Path) -> int:
        inode = ROOT
        for name in path.relative_to(self.folder).parts:
            inode = self._inodes[inode].names[name]
        return inode

    def _torn_trees(self) -> Iterator[Tree]:
        """Yield the tree with the last unsynced write damaged; whole if there is none."""
        last = next((c for c in reversed(self._pending) if c.content is not None), None)
        if last is None or last.content is None:
            yield self._tree(self._pending)
            return
        size = len(last.content)
        garbage = random.Random(size).randbytes(size)  # noqa: S311
        for content in (bytes(size), last.content[: size // 2], garbage):
            torn = replace(last, content=content)
            yield self._tree([torn if c is last else c for c in self._pending])

    def _tree(self, changes: Sequence[_Change]) -> Tree:
        """Return the durable tree with ``changes`` done to it."""
        touched = {change.inode for change in changes}
        inodes = {
            number: _Inode(inode.kind, inode.content, dict(inode.names))
            if number in touched
            else inode
            for number, inode in self._durable.items()
        }
        for change in changes:
            _apply(inodes, change)
        return tuple(_walk(inodes, ROOT, ""))


@dataclass(frozen=True)
class _Call:
    """One call: asked about before, told of after."""

    disk: SimulatedDisk
    name: str
    path: Path

    def __enter__(self) -> None:
        number = self.disk.calls
        self.disk.calls += 1
        self.disk.before(number, self.name, self.path)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.disk.after(self.disk.calls - 1, self.name, self.path)


def read_tree(folder: Path) -> Tree:
    """Return what lies in a real folder; sockets are left out, for no boot finds one."""
    entries = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            entries.append(Entry(name, "link", str(path.readlink()).encode()))
        elif path.is_dir():
            entries.append(Entry(name, "folder"))
        elif path.is_file():
            entries.append(Entry(name, "file", path.read_bytes(), path.stat().st_ino))
    return tuple(entries)


def lay_out(tree: Tree, folder: Path) -> None:
    """Make ``folder`` exactly what ``tree`` says."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    first: dict[int, Path] = {}
    for entry in tree:
        path = folder / entry.path
        if entry.kind == "folder":
            path.mkdir()
        elif entry.kind == "link":
            path.symlink_to(entry.content.decode(errors="surrogateescape"))
        elif entry.inode in first:
            path.hardlink_to(first[entry.inode])
        else:
            path.write_bytes(entry.content)
            first[entry.inode] = path


def _subsets(changes: Sequence[_Change]) -> Iterator[list[_Change]]:
    """Yield what may have become durable of ``changes``: whatever does not lack what it needs."""
    if len(changes) <= SUBSETS_LIMIT:
        masks = itertools.product((False, True), repeat=len(changes))
    else:
        masks = _fair_choice(len(changes))
    for mask in masks:
        kept = [change for change, is_kept in zip(changes, mask, strict=True) if is_kept]
        if all(change.needs is None or change.needs in kept or change.needs not in changes
               for change in kept):  # fmt: skip
            yield kept


def _fair_choice(count: int) -> Iterator[tuple[bool, ...]]:
    """Yield each beginning of the changes, each change alone, and each one missing."""
    for number in range(count + 1):
        yield tuple(one < number for one in range(count))
    for number in range(count):
        yield tuple(one == number for one in range(count))
        yield tuple(one != number for one in range(count))


def _apply(inodes: dict[int, _Inode], change: _Change) -> None:
    inode = inodes[change.inode]
    if change.content is not None:
        inode.content = _written(inode.content, change.content, change.offset)
    for name, number in change.names:
        if number is None:
            inode.names.pop(name, None)
        else:
            inode.names[name] = number


def _written(old: bytes, new: bytes, offset: int | None) -> bytes:
    if offset is None:
        return new
    return old[:offset].ljust(offset, b"\0") + new + old[offset + len(new) :]


def _reachable(inodes: dict[int, _Inode], folder: int = ROOT) -> Iterator[int]:
    yield folder
    for number in inodes[folder].names.values():
        yield from _reachable(inodes, number)


def _walk(inodes: dict[int, _Inode], folder: int, prefix: str) -> Iterator[Entry]:
    for name, number in sorted(inodes[folder].names.items()):
        inode = inodes[number]
        yield Entry(prefix + name, inode.kind, inode.content, number)
        if inode.kind == "folder":
            yield from _walk(inodes, number, f"{prefix}{name}/")
