"""A release on disk: one version, one variant a target, as an OCI image layout.

``index.json`` names each release's own index by its version, in the annotation
``org.opencontainers.image.ref.name``; that index lists one manifest a target; a manifest's config
is the variant description and its layers are the variant's files. So ``skopeo``, ``oras`` and any
registry can carry a release.
Equal inputs give equal bytes: no times, no machine names.
Layout: https://github.com/opencontainers/image-spec/blob/main/image-layout.md
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.errors import ConfigError, DigestError, ReleaseError
from asdic.contract.files import (
    canonical_json,
    check_digest,
    parse_json,
    read_bounded,
    safe_name,
    sha256_of,
    sync_folder,
    write_file,
)
from asdic.contract.variant import (
    VARIANT_FILE,
    Variant,
    encode_variant,
    parse_variant,
    read_variant,
)

INDEX_TYPE: Final = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
MODEL_TYPE: Final = "application/vnd.cncf.model.manifest.v1+json"
VARIANT_TYPE: Final = "application/vnd.asdic.variant.v1+json"
FILE_TYPE: Final = "application/octet-stream"
REF_NAME: Final = "org.opencontainers.image.ref.name"
FILE_NAME: Final = "org.opencontainers.image.title"
TARGET_NAME: Final = "dev.asdic.target"
SECURITY_COUNTER: Final = "dev.asdic.security-counter"

DOCUMENT_LIMIT_BYTES: Final = 4 << 20
BLOB_LIMIT_BYTES: Final = 2 << 30
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_VERSION: Final = re.compile(r"[0-9]+(\.[0-9]+){1,3}([-+.][0-9A-Za-z][0-9A-Za-z.-]*)?")


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An OCI content descriptor: what a blob is, its digest and its length in bytes."""

    media_type: str
    digest: str
    size: int
    artifact_type: str | None = None
    annotations: dict[str, str] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The OCI manifest of one variant: the config is the description, the layers are the files."""

    schema_version: int = 2
    media_type: str = MANIFEST_TYPE
    artifact_type: str = MODEL_TYPE
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: dict[str, str] = {}

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """Everything that the manifest points to, the config first, each digest once."""
        unique = {blob.digest: blob for blob in (self.config, *self.layers)}
        return tuple(unique.values())


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=False):
    """An OCI index: the layout's own, or that of one release."""

    schema_version: int = 2
    media_type: str = INDEX_TYPE
    manifests: tuple[Descriptor, ...] = ()
    annotations: dict[str, str] = {}


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One version: the manifest's descriptor for each target, and the security counter.

    A device that ran a release never again takes one with a lower counter; the version alone
    may go down, which is how a fleet is rolled back.
    """

    version: str
    security_counter: int
    variants: dict[str, Descriptor]


def check_version(version: str) -> str:
    """Return ``version`` if it is two to four numbers, perhaps with a suffix (``1.2.0-rc.1``).

    Raises:
        ConfigError: It is not.
    """
    if not _VERSION.fullmatch(version) or len(version) > 64:
        raise ConfigError(f"{version!r} is not a version; write it like 1.2.0")
    return version


def is_digest(text: str) -> bool:
    """Return whether ``text`` is a digest as ``sha256:<64 hex digits>``."""
    return _DIGEST.fullmatch(text) is not None


def hex_of(digest: str) -> str:
    """Return the hex part of ``sha256:<hex>``.

    Raises:
        DigestError: It is not such a digest.
    """
    if not _DIGEST.fullmatch(digest):
        raise DigestError(f"{digest!r} is not a digest; expected sha256 and 64 hex digits")
    return digest.removeprefix("sha256:")


def digest_of(data: bytes) -> str:
    """Return ``sha256:<hex>`` of ``data``."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def manifest_for(variant: Variant, *, config: Descriptor, version: str) -> Manifest:
    """Return the manifest that carries ``variant`` in the release called ``version``."""
    layers = tuple(
        Descriptor(
            media_type=FILE_TYPE,
            digest=file.digest,
            size=file.size_bytes,
            annotations={FILE_NAME: file.name},
        )
        for file in variant.all_files
    )
    annotations = {TARGET_NAME: variant.target, "org.opencontainers.image.version": version}
    return Manifest(config=config, layers=layers, annotations=annotations)


def parse_manifest(data: bytes) -> Manifest:
    """Return the manifest in ``data`` once its digests, sizes and file names are in order.

    Raises:
        ReleaseError: It is not a manifest of ours.
    """
    try:
        manifest = parse_json(data, Manifest, what="the release manifest")
    except ConfigError as error:
        raise ReleaseError(str(error)) from error
    if manifest.artifact_type != MODEL_TYPE or manifest.config.media_type != VARIANT_TYPE:
        raise ReleaseError("the manifest is not that of an asdic variant")
    names = [safe_name(layer.annotations.get(FILE_NAME, "")) for layer in manifest.layers]
    twice = [name for name, times in Counter((VARIANT_FILE, *names)).items() if times > 1]
    if twice:
        raise ReleaseError(f"the manifest has two files called {twice[0]!r}")
    for blob in manifest.blobs:
        hex_of(blob.digest)
        if not 0 <= blob.size <= BLOB_LIMIT_BYTES:
            raise ReleaseError(f"a blob of {blob.size} bytes is outside what asdic accepts")
    return manifest


def variant_of(manifest: Manifest, config: bytes) -> Variant:
    """Return the variant that ``manifest`` carries, from the bytes of its config.

    Raises:
        ReleaseError: The config's digest differs, or its files are not the manifest's layers.
    """
    if digest_of(config) != manifest.config.digest:
        raise DigestError("the variant description differs from the digest in the manifest")
    try:
        variant = parse_variant(config)
    except ConfigError as error:
        raise ReleaseError(str(error)) from error
    promised = {
        (layer.annotations[FILE_NAME], layer.digest, layer.size) for layer in manifest.layers
    }
    described = {(file.name, file.digest, file.size_bytes) for file in variant.all_files}
    if promised != described:
        raise ReleaseError("the variant description names other files than the manifest")
    return variant


class Layout:
    """An OCI image layout in a folder. Blobs are added first and named last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path) -> Layout:
        """Return the layout in ``folder``, made empty if there is none yet."""
        layout = cls(folder)
        (folder / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        if not (folder / "oci-layout").exists():
            write_file(folder / "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
            write_file(folder / "index.json", canonical_json(Index()))
        return layout

    @classmethod
    def open(cls, folder: Path) -> Layout:
        """Return the layout in ``folder``.

        Raises:
            ConfigError: There is none.
        """
        if not (folder / "oci-layout").is_file() or not (folder / "index.json").is_file():
            raise ConfigError(f"{folder} is not a release folder (no OCI image layout in it)")
        return cls(folder)

    def blob_path(self, digest: str) -> Path:
        """Return where the blob with ``digest`` lies, or would lie."""
        return self.folder / "blobs" / "sha256" / hex_of(digest)

    def add_bytes(self, data: bytes) -> str:
        """Store ``data`` and return its digest."""
        digest = digest_of(data)
        if not self.blob_path(digest).exists():
            write_file(self.blob_path(digest), data)
        return digest

    def add_file(self, path: Path) -> str:
        """Store a copy of the file at ``path`` and return its digest."""
        digest = sha256_of(path)
        blob = self.blob_path(digest)
        if blob.exists():
            return digest
        descriptor, name = tempfile.mkstemp(dir=blob.parent, prefix=".")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as out, path.open("rb") as source:
                shutil.copyfileobj(source, out)
                out.flush()
                os.fchmod(out.fileno(), 0o644)
                os.fsync(out.fileno())
            check_digest(temporary, digest=digest, size_bytes=path.stat().st_size)
            temporary.replace(blob)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(blob.parent)
        return digest

    def read_blob(self, digest: str, *, limit_bytes: int = DOCUMENT_LIMIT_BYTES) -> bytes:
        """Return a small blob after checking its digest.

        Raises:
            DigestError: It is missing or its bytes differ.
        """
        path = self.blob_path(digest)
        if not path.is_file():
            raise DigestError(f"blob {digest} is missing in {self.folder}")
        data = read_bounded(path, limit_bytes)
        if digest_of(data) != digest:
            raise DigestError(f"blob {digest} in {self.folder} is damaged")
        return data

    def versions(self) -> tuple[str, ...]:
        """Return the versions of all releases in the layout, in the order they were added."""
        return tuple(entry.annotations.get(REF_NAME, "") for entry in self._index().manifests)

    def release(self, version: str) -> Release:
        """Return the release called ``version``.

        Raises:
            ConfigError: There is no such release; the message lists those that exist.
            DigestError: Its index is missing or damaged.
        """
        for entry in self._index().manifests:
            if entry.annotations.get(REF_NAME) == version:
                return self._release(version, self.read_blob(entry.digest))
        known = ", ".join(self.versions()) or "none"
        raise ConfigError(f"{self.folder} holds no release {version!r}; it holds: {known}")

    def manifest(self, release: Release, target: str) -> Manifest:
        """Return the manifest of ``target`` in ``release``.

        Raises:
            ConfigError: The release has no variant for the target.
        """
        if target not in release.variants:
            known = ", ".join(sorted(release.variants))
            raise ConfigError(
                f"release {release.version} has no variant for {target!r}, only {known}"
            )
        return parse_manifest(self.read_blob(release.variants[target].digest))

    def variant(self, release: Release, target: str) -> Variant:
        """Return the variant of ``target`` in ``release``, checked against its manifest."""
        manifest = self.manifest(release, target)
        return variant_of(manifest, self.read_blob(manifest.config.digest))

    def add_release(
        self, version: str, folders: Mapping[str, Path], *, security_counter: int = 1
    ) -> Release:
        """Add the variants in ``folders`` (target name to folder) as one release.

        The same variants under the same version are no change.

        Raises:
            ConfigError: The version is taken by other variants.
            DigestError: A variant's file differs from its description.
        """
        check_version(version)
        variants = {
            target: self._add_variant(version, folder) for target, folder in sorted(folders.items())
        }
        index = Index(
            manifests=tuple(variants.values()),
            annotations={SECURITY_COUNTER: str(security_counter)},
        )
        data = canonical_json(index)
        if version in self.versions():
            if self.release(version) == self._release(version, data):
                return self.release(version)
            raise ConfigError(f"release {version} exists with other variants; choose a new version")
        self._name_release(version, data)
        return self._release(version, data)

    def copy_release(self, version: str, destination: Layout) -> int:
        """Copy one release to another layout and return the bytes of its blobs.

        Raises:
            ConfigError: There is no such release here, or another one of that version there.
            DigestError: A blob is missing or damaged; the release is not named there then.
        """
        release = self.release(version)
        sizes: dict[str, int] = {}
        for target, descriptor in release.variants.items():
            destination.add_bytes(self.read_blob(descriptor.digest))
            for blob in self.manifest(release, target).blobs:
                path = self.blob_path(blob.digest)
                check_digest(path, digest=blob.digest, size_bytes=blob.size)
                destination.add_file(path)
                sizes[blob.digest] = blob.size
        if version not in destination.versions():
            entry = next(e for e in self._index().manifests if e.annotations[REF_NAME] == version)
            destination._name_release(version, self.read_blob(entry.digest))
        elif destination.release(version) != release:
            raise ConfigError(f"{destination.folder} holds another release {version}")
        return sum(sizes.values())

    def _name_release(self, version: str, index: bytes) -> None:
        digest = self.add_bytes(index)
        entry = Descriptor(
            media_type=INDEX_TYPE, digest=digest, size=len(index), annotations={REF_NAME: version}
        )
        write_file(
            self.folder / "index.json",
            canonical_json(Index(manifests=(*self._index().manifests, entry))),
        )

    def _add_variant(self, version: str, folder: Path) -> Descriptor:
        variant = read_variant(folder)
        for file in variant.all_files:
            self.add_file(folder / file.name)
        config_data = encode_variant(variant)
        config = Descriptor(
            media_type=VARIANT_TYPE, digest=self.add_bytes(config_data), size=len(config_data)
        )
        data = canonical_json(manifest_for(variant, config=config, version=version))
        return Descriptor(
            media_type=MANIFEST_TYPE,
            digest=self.add_bytes(data),
            size=len(data),
            artifact_type=MODEL_TYPE,
            annotations={TARGET_NAME: variant.target},
        )

    def _index(self) -> Index:
        path = self.folder / "index.json"
        return parse_json(read_bounded(path, DOCUMENT_LIMIT_BYTES), Index, what=str(path))

    def _release(self, version: str, data: bytes) -> Release:
        index = parse_json(data, Index, what=f"the index of release {version}")
        counter = index.annotations.get(SECURITY_COUNTER, "")
        if not counter.isdecimal():
            raise ReleaseError(f"release {version} has no security counter")
        variants = {entry.annotations.get(TARGET_NAME, ""): entry for entry in index.manifests}
        return Release(version=version, security_counter=int(counter), variants=variants)
