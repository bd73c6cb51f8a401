"""What a device remembers about both TUF repositories, and where that lies on disk.

    trust/image-root.json, director-root.json   the roots that enrolment brought; never changed
    trust/metadata.json                         the newest accepted metadata, one atomic file
    trust/floor.json                            no version may ever fall below these

python-tuf writes its copies one by one and without fsync; a torn pair of them made it take an old
offer again (measured with 7.0.1). So they are one file here, and the floor is written first: with
lost or stale copies the floor still holds. This module must not import python-tuf.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.errors import ConfigError
from asdic.contract.files import canonical_json, parse_json, read_bounded
from asdic.contract.trust import METADATA_LIMIT_BYTES
from asdic.device.update.storage import Storage

MEMORY_LIMIT_BYTES: Final = 64 << 20
ROLE_FILES: Final = ("timestamp.json", "snapshot.json", "targets.json")
ROOT_HISTORY: Final = "root_history"


class RoleFloor(msgspec.Struct, frozen=True, kw_only=True):
    """The version of a role that was accepted, and the key ids that the root named for it."""

    version: int
    keys: tuple[str, ...]


class RepositoryFloor(msgspec.Struct, frozen=True, kw_only=True):
    """The accepted versions of one repository; that of the root never falls."""

    root: int = 0
    roles: dict[str, RoleFloor] = {}


class Floor(msgspec.Struct, frozen=True, kw_only=True):
    """What never falls: versions, the security counter, the newest ``issued_at`` (Unix time)."""

    image: RepositoryFloor = RepositoryFloor()
    director: RepositoryFloor = RepositoryFloor()
    security_counter: int = 0
    issued_at: float = 0.0


class RepositoryTrust(msgspec.Struct, frozen=True, kw_only=True):
    """The bootstrap root of one repository, and the files that python-tuf's client keeps."""

    bootstrap: str
    files: dict[str, str] = {}

    def write_to(self, folder: Path) -> None:
        """Lay the files out as python-tuf's client expects them in its metadata folder."""
        (folder / ROOT_HISTORY).mkdir()
        for name, text in self.files.items():
            (folder / name).write_text(text, encoding="utf-8")

    @classmethod
    def read_from(cls, folder: Path, *, bootstrap: str) -> RepositoryTrust:
        """Return what python-tuf's client left in its metadata folder."""
        roots = sorted((folder / ROOT_HISTORY).iterdir())
        paths = [*roots, *(folder / name for name in ROLE_FILES)]
        files = {str(path.relative_to(folder)): path.read_text("utf-8") for path in paths}
        return cls(bootstrap=bootstrap, files=files)


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what this device believes."""

    image: RepositoryTrust
    director: RepositoryTrust
    floor: Floor = Floor()


class _Memory(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``metadata.json``."""

    image: dict[str, str] = {}
    director: dict[str, str] = {}


class TrustFolder:
    """The trust on disk."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self.folder = folder
        self._storage = storage

    def read(self) -> Trust:
        """Return the trust.

        Damaged copies of metadata are forgotten, for the offer brings them again and the floor
        still holds; a damaged root or floor is an error, for guessing would mean trusting.

        Raises:
            ConfigError: A root or the floor is missing or damaged.
        """
        memory = self._memory()
        return Trust(
            image=RepositoryTrust(bootstrap=self._root("image"), files=memory.image),
            director=RepositoryTrust(bootstrap=self._root("director"), files=memory.director),
            floor=self._floor(),
        )

    def write(self, trust: Trust) -> None:
        """Make ``trust`` durable: the floor first, then the copies."""
        self._storage.write(self.folder / "floor.json", canonical_json(trust.floor))
        memory = _Memory(image=trust.image.files, director=trust.director.files)
        self._storage.write(self.folder / "metadata.json", canonical_json(memory))

    def raise_counter(self, security_counter: int) -> None:
        """Never again take a release with a lower counter than that of the committed one."""
        floor = self._floor()
        if security_counter > floor.security_counter:
            raised = msgspec.structs.replace(floor, security_counter=security_counter)
            self._storage.write(self.folder / "floor.json", canonical_json(raised))

    def bootstrap(self, *, image_root: str, director_root: str) -> None:
        """Store the roots that enrolment brought, and an empty floor where there is none.

        An existing floor is kept: enrolling again does not make a device forget.
        """
        self._storage.make_folder(self.folder)
        if not (self.folder / "floor.json").exists():
            self._storage.write(self.folder / "floor.json", canonical_json(Floor()))
        self._storage.write(self.folder / "image-root.json", image_root.encode())
        self._storage.write(self.folder / "director-root.json", director_root.encode())

    def _root(self, name: str) -> str:
        data = read_bounded(self.folder / f"{name}-root.json", METADATA_LIMIT_BYTES)
        return data.decode("utf-8", errors="replace")

    def _floor(self) -> Floor:
        path = self.folder / "floor.json"
        return parse_json(read_bounded(path, MEMORY_LIMIT_BYTES), Floor, what=str(path))

    def _memory(self) -> _Memory:
        path = self.folder / "metadata.json"
        try:
            return parse_json(read_bounded(path, MEMORY_LIMIT_BYTES), _Memory, what=str(path))
        except ConfigError:
            return _Memory()
