"""A yard that builds, signs and offers releases: real models, keys and metadata, no manager."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.files import sha256_of, write_file
from asdic.contract.release import Layout
from asdic.contract.trust import Offer
from asdic.contract.variant import (
    VARIANT_FILE,
    FileRef,
    Limits,
    Requirements,
    encode_variant,
    read_variant,
)
from asdic.fleet.director import Director, encode_offer
from asdic.fleet.metadata import Lifetimes, utc_now
from asdic.fleet.needs import FirmwareFile, with_needs
from asdic.fleet.signing import ImageRepository
from tests.support.models import make_tiny_variant

JETSON: Final = "jetson-orin-int8"
"""Opened by its simulator, ONNX Runtime, which starts fastest of all."""


class Yard:
    """One release folder, its image repository and a director."""

    def __init__(
        self,
        folder: Path,
        *,
        clock: Callable[[], datetime] = utc_now,
        lifetimes: Lifetimes | None = None,
    ) -> None:
        self.folder = folder
        self.releases = folder / "releases"
        self.layout = Layout.create(self.releases)
        self.image = ImageRepository(
            self.releases, folder / "keys", clock=clock, lifetimes=lifetimes
        )
        self.director = Director(folder / "director", clock=clock, lifetimes=lifetimes)

    @property
    def roots(self) -> tuple[str, str]:
        """The first root of the image repository and of the director."""
        return self.image.signed.first_root(), self.director.first_root()

    def add(
        self,
        version: str,
        *,
        target: str = JETSON,
        offset: float = 0.0,
        golden_offset: float | None = None,
        limits: Limits | None = None,
        security_counter: int = 1,
        ballast_bytes: int = 0,
        requires: Requirements = Requirements(),  # noqa: B008 (frozen)
        firmware: FirmwareFile | None = None,
    ) -> None:
        """Build and sign one release with one variant, which may carry a file of noise."""
        variant = make_tiny_variant(
            self.folder / "variants" / version / target,
            target=target,
            offset=offset,
            golden_offset=golden_offset,
            limits=limits or Limits(),
        )
        if ballast_bytes:
            _add_file(variant, "ballast.bin", random.Random(version).randbytes(ballast_bytes))  # noqa: S311
        with with_needs({target: variant}, requires, firmware) as folders:
            self.layout.add_release(version, folders, security_counter=security_counter)
        self.image.sign(self.layout, version)

    def manifest(self, version: str, target: str = JETSON) -> str:
        """Return the digest of a variant's manifest."""
        return self.layout.release(version).variants[target].digest

    def offer(
        self, version: str, *, device: str = "box1", target: str = JETSON, rollout: str = ""
    ) -> Offer:
        """Return a new offer."""
        return self.director.offer_for(
            device=device,
            target=target,
            release=self.layout.release(version),
            layout=self.layout,
            rollout=rollout or f"rollout-{version}",
        )

    def stick(
        self, version: str, *, device: str = "box1", target: str = JETSON, rollout: str = ""
    ) -> Path:
        """Put an offer into the release folder, as on a USB stick, and return the folder."""
        offer = self.offer(version, device=device, target=target, rollout=rollout)
        write_file(self.releases / "offers" / f"{device}.json", encode_offer(offer))
        return self.releases


def _add_file(folder: Path, name: str, data: bytes) -> None:
    """Add a file to a variant that its engine does not open."""
    (folder / name).write_bytes(data)
    file = FileRef(name=name, digest=sha256_of(folder / name), size_bytes=len(data))
    variant = read_variant(folder)
    changed = msgspec.structs.replace(variant, files=(*variant.files, file))
    write_file(folder / VARIANT_FILE, encode_variant(changed))
