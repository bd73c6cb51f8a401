"""What a release is: the image repository, signed by the release's author.

It lists one TUF target a variant, the manifest's bytes; blobs follow by digest. It lies beside
the releases, so that it travels with them. Keys lie elsewhere: root and targets belong offline.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
from tuf.api.metadata import TargetFile, Targets

from asdic.contract.errors import ReleaseError
from asdic.contract.files import check_digest
from asdic.contract.release import Layout, Release, hex_of
from asdic.contract.trust import ReleaseFacts, target_path
from asdic.fleet.keys import KeyFolder
from asdic.fleet.metadata import (
    RENEW_BEFORE,
    Lifetimes,
    MetadataFolder,
    RootChain,
    Signers,
    utc_now,
)

METADATA_FOLDER: Final = "metadata"


class ImageRepository:
    """The signed list of all variants in a release folder."""

    def __init__(
        self,
        releases: Path,
        keys: Path,
        *,
        lifetimes: Lifetimes | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Make keys and root on first use.

        Raises:
            ConfigError: The folder was signed with keys that are not in ``keys``.
        """
        self.keys = KeyFolder(keys)
        self.signed = SignedReleases(releases)
        self._clock = clock
        lifetimes = lifetimes or Lifetimes()
        roots = RootChain(releases / METADATA_FOLDER, lifetimes.root)
        self.made_keys = () if roots.paths() else self.keys.create()
        root = roots.prepare(self.keys, clock())
        self._signers = Signers(keys=self.keys, root=root, lifetimes=lifetimes)

    def sign(self, layout: Layout, version: str) -> tuple[str, ...]:
        """Add the variants of the release ``version`` and return the names of the new ones.

        Signing again changes nothing, beside renewing what would expire soon.

        Raises:
            ConfigError: There is no such release, or a key is missing.
            ReleaseError: A blob is missing or damaged, or the version was signed with others.
        """
        release = layout.release(version)
        check_release(layout, release)
        now = self._clock()
        listed = dict(self.signed.targets().targets) if self.signed.exists() else {}
        wanted = {
            target_path(version, target): target_file(layout, release, target)
            for target in release.variants
        }
        for path, file in wanted.items():
            if path in listed and listed[path] != file:
                raise ReleaseError(
                    f"{path} was signed before with other content; use a new version"
                )
        added = tuple(path for path in wanted if path not in listed)
        if added or self._targets_expire_soon(now):
            self.signed.metadata.publish(self._signers, {**listed, **wanted}, now)
        elif self._timestamp_expires_soon(now):
            self.signed.metadata.publish(self._signers, None, now)
        return added

    def _targets_expire_soon(self, now: datetime) -> bool:
        return self.signed.targets().expires - now < RENEW_BEFORE

    def _timestamp_expires_soon(self, now: datetime) -> bool:
        left = self.signed.metadata.timestamp().signed.expires - now
        return left < self._signers.lifetimes.timestamp / 2


class SignedReleases:
    """The image repository as the fleet manager reads it: without any private key."""

    def __init__(self, releases: Path) -> None:
        self.roots = RootChain(releases / METADATA_FOLDER)
        self.metadata = MetadataFolder(releases / METADATA_FOLDER)

    def exists(self) -> bool:
        """Return whether any release was signed here."""
        return self.metadata.exists()

    def targets(self) -> Targets:
        """Return all signed variants; signatures are not checked here."""
        return self.metadata.targets().signed

    def first_root(self) -> str:
        """Return the text of ``1.root.json``, which devices trust from their enrolment on.

        Raises:
            ReleaseError: Nothing was signed yet.
        """
        paths = self.roots.paths()
        if not paths:
            raise ReleaseError("no release was signed yet; sign one with `asdic sign`")
        return paths[0].read_text()

    def is_signed(self, version: str) -> bool:
        """Return whether the release called ``version`` is in the list."""
        return self.exists() and any(
            path.startswith(f"{version}/") for path in self.targets().targets
        )

    def texts(self) -> dict[str, str]:
        """Return the files that an offer carries: all roots, and the rest as it holds now."""
        return {**self.roots.texts(), **self.metadata.texts()}

    def check(self, layout: Layout, release: Release, target: str, now: datetime) -> TargetFile:
        """Return the signed entry of a variant after checking it against the release's manifest.

        Raises:
            ReleaseError: The release is not signed, was changed since, or its metadata is expired.
        """
        path = target_path(release.version, target)
        signed = self.metadata.verify(self.roots.newest(), now) if self.exists() else Targets()
        if path not in signed.targets:
            raise ReleaseError(
                f"release {release.version} is not signed; sign it with "
                f"`asdic sign {layout.folder} --version {release.version}`"
            )
        if signed.targets[path] != target_file(layout, release, target):
            raise ReleaseError(f"{path} in {layout.folder} differs from what was signed")
        return signed.targets[path]


def target_file(layout: Layout, release: Release, target: str) -> TargetFile:
    """Return the TUF entry of a variant: length and digest of its manifest, and its facts."""
    descriptor = release.variants[target]
    data = layout.read_blob(descriptor.digest)
    facts = ReleaseFacts(
        version=release.version, hardware=(target,), security_counter=release.security_counter
    )
    return TargetFile(
        length=len(data),
        hashes={"sha256": hex_of(descriptor.digest)},
        path=target_path(release.version, target),
        unrecognized_fields={"custom": msgspec.json.decode(msgspec.json.encode(facts))},
    )


def check_release(layout: Layout, release: Release) -> None:
    """Check every blob of every variant of a release.

    Raises:
        ReleaseError: A blob is missing, truncated or changed; the message names it.
    """
    for target in sorted(release.variants):
        layout.variant(release, target)
        for blob in layout.manifest(release, target).blobs:
            check_digest(layout.blob_path(blob.digest), digest=blob.digest, size_bytes=blob.size)
