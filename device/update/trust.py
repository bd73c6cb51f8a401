"""What a device remembers about both TUF repositories, and where that lies on disk.

    trust/image-root.json, director-root.json   the roots that enrolment brought; never changed
    trust/floor.json                            no version may ever fall below these
    trust/metadata.json                         the newest accepted metadata, and copies of both

python-tuf writes its copies one by one and without fsync; a torn pair of them made it take an old
offer again (measured with 7.0.1). So they are one file here, and the floor is written first: with
lost or stale copies the floor still holds. Each file is sealed, and what one of them loses is in
another. This module must not import python-tuf.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.errors import AsdicError, ConfigError
from asdic.contract.files import read_bounded
from asdic.contract.trust import METADATA_LIMIT_BYTES
from asdic.device.update.sealed import (
    SCHEMA,
    NewerSchemaError,
    read_sealed,
    seal,
    seal_line,
    unseal_line,
)
from asdic.device.update.storage import Storage

MEMORY_LIMIT_BYTES: Final = 64 << 20
ROLE_FILES: Final = ("timestamp.json", "snapshot.json", "targets.json")
FLOOR_FILE: Final = "floor.json"
MEMORY_FILE: Final = "metadata.json"
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

    schema: int = SCHEMA
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
    """The content of ``metadata.json``: python-tuf's files, and a copy of what is beside it."""

    schema: int = SCHEMA
    image: dict[str, str] = {}
    director: dict[str, str] = {}
    floor: Floor | None = None
    image_root: str = ""
    director_root: str = ""


class TrustFolder:
    """The trust on disk."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self.folder = folder
        self._storage = storage

    def newest_signed_s(self) -> float:
        """Return the newest signed time that was seen; 0 where there is none, or it is lost."""
        try:
            return self.read().floor.issued_at
        except (AsdicError, OSError):
            return 0.0

    def read(self) -> Trust:
        """Return the trust.

        Damaged copies of metadata are forgotten, for the offer brings them again and the floor
        still holds. A root or a floor that is lost in both places is an error, for guessing would
        mean trusting.

        Raises:
            NewerSchemaError: A newer agent wrote it.
            ConfigError: A root or the floor is lost.
        """
        memory = self._memory()
        return Trust(
            image=RepositoryTrust(bootstrap=self._root("image", memory), files=memory.image),
            director=RepositoryTrust(
                bootstrap=self._root("director", memory), files=memory.director
            ),
            floor=self._floor(memory),
        )

    def check_schema(self) -> None:
        """Look whether this agent may work with it; ``read`` says what is lost.

        Raises:
            NewerSchemaError: A newer agent wrote it.
        """
        try:
            self._floor(self._memory())
        except NewerSchemaError:
            raise
        except ConfigError:
            return

    def write(self, trust: Trust) -> None:
        """Make ``trust`` durable: the floor first, then the copies."""
        self._storage.write(self.folder / FLOOR_FILE, seal(trust.floor))
        memory = _Memory(
            image=trust.image.files,
            director=trust.director.files,
            floor=trust.floor,
            image_root=trust.image.bootstrap,
            director_root=trust.director.bootstrap,
        )
        self._storage.write(self.folder / MEMORY_FILE, seal(memory))

    def raise_counter(self, security_counter: int) -> None:
        """Never again take a release with a lower counter than that of the committed one."""
        if security_counter > self.security_counter:
            trust = self.read()
            floor = msgspec.structs.replace(trust.floor, security_counter=security_counter)
            self.write(msgspec.structs.replace(trust, floor=floor))

    @property
    def security_counter(self) -> int:
        """The highest security counter that was ever committed here."""
        return self._floor(self._memory()).security_counter

    def bootstrap(self, *, image_root: str, director_root: str) -> None:
        """Store the roots that enrolment brought, and an empty floor where there is none.

        An existing floor is kept, or its copy: enrolling again does not make a device forget.
        """
        self._storage.make_folder(self.folder)
        if not (self.folder / FLOOR_FILE).exists():
            self._storage.write(self.folder / FLOOR_FILE, seal(self._memory().floor or Floor()))
        for name, root in (("image", image_root), ("director", director_root)):
            self._storage.write(self.folder / f"{name}-root.json", seal_line(root.encode()))

    def sweep(self) -> None:
        """Remove what unfinished writes left."""
        self._storage.sweep(self.folder)

    def _root(self, name: str, memory: _Memory) -> str:
        path = self.folder / f"{name}-root.json"
        copy = {"image": memory.image_root, "director": memory.director_root}[name]
        try:
            return unseal_line(read_bounded(path, METADATA_LIMIT_BYTES), what=str(path)).decode()
        except ConfigError:
            if copy:
                return copy
            raise

    def _floor(self, memory: _Memory) -> Floor:
        try:
            floor = read_sealed(self.folder / FLOOR_FILE, Floor, MEMORY_LIMIT_BYTES)
        except NewerSchemaError:
            raise
        except ConfigError:
            if memory.floor is None:
                raise
            floor = memory.floor
        return msgspec.structs.replace(floor, schema=SCHEMA)

    def _memory(self) -> _Memory:
        try:
            return read_sealed(self.folder / MEMORY_FILE, _Memory, MEMORY_LIMIT_BYTES)
        except NewerSchemaError:
            raise
        except ConfigError:
            return _Memory()
