"""Blobs by digest, releases made of them, and the three pointers to releases.

    store/schema.json              the schema of all this
    store/blobs/<hex>              a checked blob
    store/partial/<hex>            a blob that is being fetched, and <hex>.map, its bitmap
    releases/<manifest hex>/       variant.json and the variant's files: hard links to blobs
    gated/<manifest hex>/          machine.json, what it was gated on; firmware.json, what it did to
                                   the microcontroller; and cache/, what was built
    current, previous, candidate   symbolic links to releases/<manifest hex>

A release folder appears whole or not at all, is never changed, and is what the inferring program
opens. Digests here are those of the signed manifest; nothing is stored before it was checked.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.errors import AsdicError, ConfigError, DigestError
from asdic.contract.files import canonical_json, check_digest, parse_json, read_bounded
from asdic.contract.release import (
    DOCUMENT_LIMIT_BYTES,
    FILE_NAME,
    Descriptor,
    Manifest,
    digest_of,
    hex_of,
    is_digest,
    parse_manifest,
    variant_of,
)
from asdic.contract.variant import VARIANT_FILE, Variant
from asdic.device.update.firmware import FirmwareChange
from asdic.device.update.machine import Machine
from asdic.device.update.sealed import SCHEMA, NewerSchemaError, read_sealed, seal
from asdic.device.update.storage import Storage

SCHEMA_LIMIT_BYTES: Final = 4096
MACHINE_FILE: Final = "machine.json"
FIRMWARE_FILE: Final = "firmware.json"
VERSION: Final = "org.opencontainers.image.version"


class Pointer(str, Enum):
    """The three names for releases."""

    CURRENT = "current"
    PREVIOUS = "previous"
    CANDIDATE = "candidate"


@dataclass(frozen=True, kw_only=True)
class Pointers:
    """The manifest digests that the pointers name."""

    current: str | None = None
    previous: str | None = None
    candidate: str | None = None


@dataclass(frozen=True, kw_only=True)
class StoredRelease:
    """A release in the store: manifest digest, version and the folder to open."""

    manifest: str
    version: str
    folder: Path


class _Schema(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``schema.json``."""

    schema: int = 1


class Store:
    """The blobs and releases in a device's state folder."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        self.folder = folder
        self._storage = storage

    def prepare(self) -> Store:
        """Make the folders that are missing, and return the store.

        Raises:
            NewerSchemaError: A newer agent made it.
        """
        schema = self._schema()
        for path in (self._blobs, self._releases, self._partial, self._gated):
            self._storage.make_folder(path)
        if schema != SCHEMA:
            # On a full or broken disk the next start writes it; the model runs meanwhile.
            with suppress(OSError):
                self._storage.write(self._schema_path, seal(_Schema(schema=SCHEMA)))
        return self

    def _schema(self) -> int:
        """Return the schema of the store; what does not say it is older than its file."""
        try:
            return read_sealed(self._schema_path, _Schema, SCHEMA_LIMIT_BYTES).schema
        except NewerSchemaError:
            raise
        except ConfigError:
            return 1

    @property
    def _schema_path(self) -> Path:
        return self.folder / "store" / "schema.json"

    @property
    def _blobs(self) -> Path:
        return self.folder / "store" / "blobs"

    @property
    def _partial(self) -> Path:
        return self.folder / "store" / "partial"

    @property
    def _releases(self) -> Path:
        return self.folder / "releases"

    @property
    def _gated(self) -> Path:
        return self.folder / "gated"

    def blob_path(self, digest: str) -> Path:
        """Return where the blob with ``digest`` lies, or would lie."""
        return self._blobs / hex_of(digest)

    def partial_path(self, digest: str) -> Path:
        """Return where a blob lies while it is fetched."""
        return self._partial / hex_of(digest)

    def bitmap_path(self, digest: str) -> Path:
        """Return where the bitmap of a blob's fetched chunks lies."""
        return self._partial / f"{hex_of(digest)}.map"

    def release_folder(self, digest: str) -> Path:
        """Return where the release with the manifest ``digest`` lies, or would lie."""
        return self._releases / hex_of(digest)

    def cache_folder(self, digest: str) -> Path:
        """Return where what this machine builds from a release lies, or would lie."""
        return self._gated / hex_of(digest) / "cache"

    def machine_path(self, digest: str) -> Path:
        """Return where it is written what a release was gated on."""
        return self._gated / hex_of(digest) / MACHINE_FILE

    def put(self, data: bytes) -> str:
        """Store a small blob and return its digest."""
        digest = digest_of(data)
        self._storage.write(self.blob_path(digest), data)
        return digest

    def missing(self, manifest: Manifest) -> tuple[Descriptor, ...]:
        """Return the blobs of ``manifest`` that are not in the store."""
        return tuple(blob for blob in manifest.blobs if not self.blob_path(blob.digest).exists())

    def manifest(self, digest: str) -> Manifest:
        """Return a stored manifest.

        Raises:
            ReleaseError: It is missing, damaged or no manifest.
        """
        return parse_manifest(self._document(digest))

    def variant(self, digest: str) -> Variant:
        """Return the description of a stored release, whether it was fetched yet or not.

        Raises:
            ReleaseError: It is missing or damaged.
        """
        manifest = self.manifest(digest)
        return variant_of(manifest, self._document(manifest.config.digest))

    def admit(self, blob: Descriptor) -> None:
        """Take a fetched blob into the store once its digest is right.

        A damaged one is removed, so that it is fetched anew; that holds for a stored one too.

        Raises:
            DigestError: Its length or digest is not what was signed.
        """
        partial, final = self.partial_path(blob.digest), self.blob_path(blob.digest)
        path = partial if partial.exists() else final
        try:
            check_digest(path, digest=blob.digest, size_bytes=blob.size)
        except DigestError:
            self.forget(blob.digest)
            raise
        if path is partial:
            self._keep(partial)
            self._storage.rename(partial, final)
        self._storage.remove(self.bitmap_path(blob.digest))

    def _keep(self, partial: Path) -> None:
        """Make a checked blob durable, or fetch it again.

        After a failed ``fsync`` what was read is what is in memory, and the next one says that
        all is well (https://wiki.postgresql.org/wiki/Fsync_Errors).
        """
        try:
            self._storage.sync(partial)
        except OSError:
            self._storage.remove(partial)
            raise

    def forget(self, digest: str) -> None:
        """Remove a blob, and what was fetched of it; releases keep their own links."""
        self._storage.remove(self.bitmap_path(digest))
        self._storage.remove(self.partial_path(digest))
        self._storage.remove(self.blob_path(digest))

    def stage(self, digest: str) -> None:
        """Make the release folder of a stored manifest out of stored blobs, in one step.

        It may have been made before, by a step whose last ``fsync`` failed.

        Raises:
            ReleaseError: The description does not fit the manifest.
        """
        self._storage.sync_folder(self._blobs)
        folder = self.release_folder(digest)
        if folder.exists():
            self._storage.sync_folder(self._releases)
            return
        manifest = self.manifest(digest)
        variant_of(manifest, self._document(manifest.config.digest))
        links = {VARIANT_FILE: self.blob_path(manifest.config.digest)}
        for layer in manifest.layers:
            links[layer.annotations[FILE_NAME]] = self.blob_path(layer.digest)
        self._storage.build_folder(folder, links)

    def unstage(self, digest: str) -> None:
        """Remove a release folder whose files turned out damaged."""
        self._storage.remove_folder(self.release_folder(digest))

    def pointer(self, name: Pointer) -> str | None:
        """Return the manifest digest that a pointer names, or None."""
        path = self.folder / name.value
        if not path.is_symlink():
            return None
        digest = f"sha256:{path.readlink().name}"
        return digest if is_digest(digest) else None

    def pointers(self) -> Pointers:
        """Return what all three pointers name."""
        return Pointers(
            current=self.pointer(Pointer.CURRENT),
            previous=self.pointer(Pointer.PREVIOUS),
            candidate=self.pointer(Pointer.CANDIDATE),
        )

    def point(self, name: Pointer, digest: str | None) -> None:
        """Let a pointer name another release, in one step; None removes it."""
        path = self.folder / name.value
        if digest is None:
            self._storage.remove(path)
        elif self.pointer(name) != digest:
            self._storage.point(path, f"releases/{hex_of(digest)}")
        else:
            self._storage.sync_folder(self.folder)

    def release(self, digest: str) -> StoredRelease:
        """Return a release that the inferring program may open.

        Raises:
            ReleaseError: Its manifest or its description is damaged or missing.
        """
        folder = self.release_folder(digest)
        manifest = self.manifest(digest)
        check_digest(
            folder / VARIANT_FILE,
            digest=manifest.config.digest,
            size_bytes=manifest.config.size,
        )
        version = manifest.annotations.get(VERSION, "")
        return StoredRelease(manifest=digest, version=version, folder=folder)

    def check(self, digest: str) -> None:
        """Check every byte of a release against what was signed.

        Raises:
            ReleaseError: Something is damaged or missing; the message says what.
        """
        release = self.release(digest)
        for layer in self.manifest(digest).layers:
            path = release.folder / layer.annotations[FILE_NAME]
            check_digest(path, digest=layer.digest, size_bytes=layer.size)

    def machine(self, digest: str) -> Machine | None:
        """Return what a release was gated on last; None where that is not known."""
        path = self.machine_path(digest)
        try:
            return parse_json(read_bounded(path, DOCUMENT_LIMIT_BYTES), Machine, what=str(path))
        except ConfigError:
            return None

    def write_machine(self, digest: str, machine: Machine) -> None:
        """Note what a release was gated on."""
        self._storage.make_folder(self.machine_path(digest).parent)
        self._storage.write(self.machine_path(digest), canonical_json(machine))

    def firmware(self, digest: str) -> FirmwareChange | None:
        """Return what a release did to the microcontroller; None where it did nothing to it."""
        path = self._firmware_path(digest)
        try:
            return read_sealed(path, FirmwareChange, DOCUMENT_LIMIT_BYTES)
        except ConfigError:
            return None

    def write_firmware(self, digest: str, change: FirmwareChange | None) -> None:
        """Note what a release is going to do to the microcontroller; None: nothing."""
        path = self._firmware_path(digest)
        if change is None:
            if path.exists():
                self._storage.remove(path)
            return
        self._storage.make_folder(path.parent)
        self._storage.write(path, seal(change))

    def _firmware_path(self, digest: str) -> Path:
        return self._gated / hex_of(digest) / FIRMWARE_FILE

    def collect(self, *, keep: frozenset[str] = frozenset()) -> None:
        """Remove all that no pointer and none of the releases ``keep`` needs.

        What was fetched in part stays for ``keep`` alone.
        """
        named = {self.pointer(name) for name in Pointer} | keep
        wanted = {name for digest in keep for name in self._blobs_of(digest)}
        releases = {digest for digest in named if digest is not None}
        blobs = {name for digest in releases for name in self._blobs_of(digest)}
        for path in (*self._releases.iterdir(), *self._gated.iterdir()):
            if path.name not in {hex_of(digest) for digest in releases}:
                self._storage.remove_folder(path)
        for path in self._blobs.iterdir():
            if path.name not in blobs:
                self._storage.remove(path)
        for path in self._partial.iterdir():
            if path.name.removesuffix(".map") not in wanted:
                self._storage.remove(path)
        self._storage.sweep(self._schema_path.parent)
        for digest in releases:
            self._storage.sweep(self.machine_path(digest).parent)

    def _blobs_of(self, digest: str) -> set[str]:
        """Return the names of a release's blobs; those of a damaged manifest are its folder's."""
        try:
            manifest = self.manifest(digest)
        except AsdicError:
            return {hex_of(digest)}
        return {hex_of(digest), *(hex_of(blob.digest) for blob in manifest.blobs)}

    def _document(self, digest: str) -> bytes:
        path = self.blob_path(digest)
        if not path.is_file():
            raise DigestError(f"blob {digest} is missing in the store")
        data = read_bounded(path, DOCUMENT_LIMIT_BYTES)
        if digest_of(data) != digest:
            raise DigestError(f"blob {digest} in the store is damaged")
        return data
