"""Which release a device gets: the director, signed online by the fleet manager.

Each device has metadata of its own with one target, so that no role ever lists the whole fleet
and a device cannot be given another one's offer. The versions of each device's metadata grow and
are kept on disk, together with the offer that stands.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

from tuf.api.metadata import Metadata, Root

from asdic.contract.errors import ReleaseError
from asdic.contract.files import canonical_json, write_file
from asdic.contract.messages import check_device_id
from asdic.contract.release import Layout, Release
from asdic.contract.trust import OFFER_LIMIT_BYTES, Offer, parse_offer
from asdic.fleet.keys import KeyFolder
from asdic.fleet.metadata import Lifetimes, MetadataFolder, RootChain, Signers, utc_now
from asdic.fleet.signing import SignedReleases

_STANDING: Final = "offer.json"
_IMAGE_ROOT: Final = "image-root.json"


class Director:
    """The manager's own TUF repository, with one set of metadata a device."""

    def __init__(
        self,
        folder: Path,
        *,
        lifetimes: Lifetimes | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        """Make keys and root on first use."""
        self.folder = folder
        self._clock = clock
        self._lifetimes = lifetimes or Lifetimes()
        self.keys = self._keys = KeyFolder(folder / "keys")
        self._roots = RootChain(folder, self._lifetimes.root)
        if not self._roots.paths():
            self._keys.create()
        self._root()

    def first_root(self) -> str:
        """Return the text of ``1.root.json``, which devices trust from their enrolment on."""
        return self._roots.paths()[0].read_text()

    def offer_for(
        self, *, device: str, target: str, release: Release, layout: Layout, rollout: str
    ) -> Offer:
        """Return a newly signed offer of ``release`` for one device.

        Raises:
            ConfigError: The release has no variant for ``target``.
            ReleaseError: The release is not signed, or differs from what was signed.
        """
        manifest = layout.manifest(release, target)
        image = SignedReleases(layout.folder)
        if image.exists():
            self.image_root(layout.folder)
        now = self._clock()
        entry = image.check(layout, release, target, now)
        metadata = MetadataFolder(self._device_folder(device))
        metadata.publish(
            Signers(keys=self._keys, root=self._root(), lifetimes=self._lifetimes),
            {entry.path: entry},
            now,
            targets_fields={"device": device},
            timestamp_fields={"issued_at": f"{now:%Y-%m-%dT%H:%M:%SZ}"},
        )
        metadata.prune()
        digests = (release.variants[target].digest, manifest.config.digest)
        offer = Offer(
            device=device,
            rollout=rollout,
            image=image.texts(),
            director={**self._roots.texts(), **metadata.texts()},
            documents={digest: layout.read_blob(digest).decode() for digest in digests},
        )
        write_file(self._device_folder(device) / _STANDING, encode_offer(offer))
        return offer

    def standing(self, device: str) -> Offer | None:
        """Return the offer that the device was given and that was not withdrawn."""
        path = self._device_folder(device) / _STANDING
        return parse_offer(path.read_bytes()) if path.is_file() else None

    def withdraw(self, device: str, rollout: str) -> bool:
        """Withdraw the device's standing offer if it is of ``rollout``; return whether it was."""
        offer = self.standing(device)
        if offer is None or offer.rollout != rollout:
            return False
        (self._device_folder(device) / _STANDING).unlink()
        return True

    def image_root(self, releases: Path) -> str:
        """Return the first root of the releases' author, which this fleet trusts from now on.

        Raises:
            ReleaseError: Nothing was signed yet, or the releases are another author's.
        """
        found = SignedReleases(releases).first_root()
        path = self.folder / _IMAGE_ROOT
        if not path.exists():
            write_file(path, found.encode())
        if path.read_text() != found:
            raise ReleaseError(
                f"{releases} is signed by another author than the one that this fleet trusts "
                f"(their root differs from {path})"
            )
        return found

    def _root(self) -> Metadata[Root]:
        return self._roots.prepare(self._keys, self._clock())

    def _device_folder(self, device: str) -> Path:
        return self.folder / "devices" / check_device_id(device)


def encode_offer(offer: Offer) -> bytes:
    """Return ``offer`` as it travels.

    Raises:
        ReleaseError: It is larger than a device accepts.
    """
    data = canonical_json(offer)
    if len(data) > OFFER_LIMIT_BYTES:
        raise ReleaseError(
            f"the offer for {offer.device} has {len(data)} bytes, at most {OFFER_LIMIT_BYTES} "
            "travel; start a new release folder"
        )
    return data
