"""TUF metadata as files of a repository with consistent snapshots; both repositories use it.

Here is only how metadata is written, read back and checked. What it says is for
``signing.py`` (what a release is) and ``director.py`` (who gets which).
Names and rules: https://theupdateframework.github.io/specification/latest/
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from asdic.contract.errors import ConfigError, ReleaseError
from asdic.contract.files import read_bounded, write_file
from asdic.contract.trust import METADATA_LIMIT_BYTES
from asdic.fleet.keys import ROLES, KeyFolder

RENEW_BEFORE: Final = timedelta(days=60)
_S = TypeVar("_S", Root, Snapshot, Targets, Timestamp)


@dataclass(frozen=True, kw_only=True)
class Lifetimes:
    """How long metadata of each role is valid after it was signed."""

    root: timedelta = timedelta(days=365)
    targets: timedelta = timedelta(days=365)
    snapshot: timedelta = timedelta(days=30)
    timestamp: timedelta = timedelta(days=30)


def utc_now() -> datetime:
    """Return the time as TUF writes it: UTC, whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def encode(metadata: Metadata[Any]) -> bytes:
    """Return ``metadata`` as compact JSON."""
    return metadata.to_bytes(JSONSerializer(compact=True))


def read_metadata(path: Path, kind: type[_S]) -> Metadata[_S]:
    """Return the metadata in the file at ``path``; nobody has checked its signatures.

    Raises:
        ReleaseError: The file is missing, damaged or of another role.
    """
    try:
        data = read_bounded(path, METADATA_LIMIT_BYTES)
        metadata: Metadata[Any] = Metadata.from_bytes(data)
    except (ConfigError, DeserializationError) as error:
        raise ReleaseError(f"{path} is not readable TUF metadata: {error}") from error
    if not isinstance(metadata.signed, kind):
        raise ReleaseError(f"{path} is TUF metadata of role {metadata.signed.type}")
    return metadata


class RootChain:
    """All versions of a repository's root, ``1.root.json`` and on, in one folder."""

    def __init__(self, folder: Path, lifetime: timedelta = Lifetimes().root) -> None:
        self.folder = folder
        self.lifetime = lifetime

    def paths(self) -> tuple[Path, ...]:
        """Return the files of all versions, the oldest first."""
        found = [path for path in self.folder.glob("*.root.json") if _version_of(path) > 0]
        return tuple(sorted(found, key=_version_of))

    def newest(self) -> Metadata[Root]:
        """Return the root that holds now.

        Raises:
            ReleaseError: There is none, or a version of the chain is not signed by the one before.
        """
        paths = self.paths()
        if not paths or _version_of(paths[0]) != 1:
            raise ReleaseError(f"{self.folder} holds no TUF root; nothing was signed there yet")
        current = read_metadata(paths[0], Root)
        verify_role(current, current, "root")
        for path in paths[1:]:
            following = read_metadata(path, Root)
            verify_role(current, following, "root")
            verify_role(following, following, "root")
            current = following
        return current

    def prepare(self, keys: KeyFolder, now: datetime) -> Metadata[Root]:
        """Return the root that holds now, made if there is none and renewed before it expires.

        A root that is not due for renewal needs no root key: that one may be kept offline.
        """
        if not self.paths():
            return self._make(keys, now)
        current = self.newest()
        if current.signed.expires - now > RENEW_BEFORE:
            return current
        return self._write(current.signed, keys, now, version=current.signed.version + 1)

    def texts(self) -> dict[str, str]:
        """Return file name and text of all versions."""
        return {path.name: path.read_text() for path in self.paths()}

    def _make(self, keys: KeyFolder, now: datetime) -> Metadata[Root]:
        root = Root(consistent_snapshot=True)
        for role in ROLES:
            root.add_key(keys.signer(role).public_key, role)
        return self._write(root, keys, now, version=1)

    def _write(self, root: Root, keys: KeyFolder, now: datetime, *, version: int) -> Metadata[Root]:
        root.version = version
        root.expires = now + self.lifetime
        metadata = Metadata(root)
        metadata.sign(keys.signer("root"))
        write_file(self.folder / f"{version}.root.json", encode(metadata))
        return metadata


@dataclass(frozen=True, kw_only=True)
class Signers:
    """Who signs what: the repository's keys, its root, and how long the result is valid."""

    keys: KeyFolder
    root: Metadata[Root]
    lifetimes: Lifetimes

    def sign(self, metadata: Metadata[Any], role: str) -> bytes:
        """Sign ``metadata`` as ``role`` and return its bytes.

        Raises:
            ConfigError: The key in the folder is not the one that the root names.
        """
        metadata.sign(self.keys.signer(role))
        try:
            verify_role(self.root, metadata, role)
        except ReleaseError as error:
            path = self.keys.path(role)
            raise ConfigError(f"{path} is not the {role} key that the root names") from error
        return encode(metadata)


class MetadataFolder:
    """Targets, snapshot and timestamp of one repository, read in that order's reverse."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def exists(self) -> bool:
        """Return whether anything was signed here."""
        return (self.folder / "timestamp.json").is_file()

    def timestamp(self) -> Metadata[Timestamp]:
        """Return the timestamp, which names the snapshot."""
        return read_metadata(self.folder / "timestamp.json", Timestamp)

    def snapshot(self) -> Metadata[Snapshot]:
        """Return the snapshot that the timestamp names."""
        version = self.timestamp().signed.snapshot_meta.version
        return read_metadata(self.folder / f"{version}.snapshot.json", Snapshot)

    def targets(self) -> Metadata[Targets]:
        """Return the targets that the snapshot names."""
        version = self.snapshot().signed.meta["targets.json"].version
        return read_metadata(self.folder / f"{version}.targets.json", Targets)

    def texts(self) -> dict[str, str]:
        """Return file name and text of the three files that hold now."""
        names = (
            "timestamp.json",
            f"{self.timestamp().signed.snapshot_meta.version}.snapshot.json",
            f"{self.snapshot().signed.meta['targets.json'].version}.targets.json",
        )
        return {name: (self.folder / name).read_text() for name in names}

    def verify(self, root: Metadata[Root], now: datetime) -> Targets:
        """Return the targets after checking all signatures and expiries against ``root``.

        Raises:
            ReleaseError: Something is not signed by the keys that ``root`` names, or is expired.
        """
        for role, metadata in (
            ("timestamp", self.timestamp()),
            ("snapshot", self.snapshot()),
            ("targets", self.targets()),
        ):
            verify_role(root, metadata, role)
            if metadata.signed.is_expired(now):
                raise ReleaseError(
                    f"the {role} in {self.folder} expired on {metadata.signed.expires:%Y-%m-%d}; "
                    "renew it with `asdic sign`"
                )
        return self.targets().signed

    def publish(
        self,
        signers: Signers,
        targets: Mapping[str, TargetFile] | None,
        now: datetime,
        *,
        targets_fields: dict[str, Any] | None = None,
        timestamp_fields: dict[str, Any] | None = None,
    ) -> None:
        """Sign and write the next version of everything; ``targets`` None keeps the targets.

        The timestamp is written last, so that a reader finds the old state or the new one.
        """
        lifetimes = signers.lifetimes
        targets_version, snapshot_version, timestamp_version = self._versions()
        if targets is not None:
            targets_version += 1
            signed = Targets(
                version=targets_version,
                expires=now + lifetimes.targets,
                targets=dict(targets),
                unrecognized_fields=targets_fields,
            )
            self._write(
                f"{targets_version}.targets.json", signers.sign(Metadata(signed), "targets")
            )
        snapshot = Snapshot(
            version=snapshot_version + 1,
            expires=now + lifetimes.snapshot,
            meta={"targets.json": MetaFile(targets_version)},
        )
        self._write(
            f"{snapshot.version}.snapshot.json", signers.sign(Metadata(snapshot), "snapshot")
        )
        timestamp = Timestamp(
            version=timestamp_version + 1,
            expires=now + lifetimes.timestamp,
            snapshot_meta=MetaFile(snapshot.version),
            unrecognized_fields=timestamp_fields,
        )
        self._write("timestamp.json", signers.sign(Metadata(timestamp), "timestamp"))

    def prune(self) -> None:
        """Remove the versions that the timestamp does not lead to any more."""
        current = set(self.texts())
        for path in self.folder.glob("*.json"):
            is_versioned = path.name.endswith((".targets.json", ".snapshot.json"))
            if is_versioned and path.name not in current:
                path.unlink()

    def _versions(self) -> tuple[int, int, int]:
        if not self.exists():
            return 0, 0, 0
        return (
            self.targets().signed.version,
            self.snapshot().signed.version,
            self.timestamp().signed.version,
        )

    def _write(self, name: str, data: bytes) -> None:
        write_file(self.folder / name, data)


def verify_role(root: Metadata[Root], metadata: Metadata[Any], role: str) -> None:
    """Check that ``metadata`` has enough signatures of the keys that ``root`` names for ``role``.

    Raises:
        ReleaseError: It has not: it was signed by other keys.
    """
    try:
        root.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise ReleaseError(f"the {role} metadata is signed by another key: {error}") from error


def _version_of(path: Path) -> int:
    number = path.name.split(".", 1)[0]
    return int(number) if number.isdecimal() else 0
