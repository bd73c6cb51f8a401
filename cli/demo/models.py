"""The first half of the demo: images, two trained versions, four targets each, one bad release."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from asdic.cli.demo.fault import perturb_variant
from asdic.cli.demo.verbs import show

TARGETS: Final = ("x86-litert-int8", "arm64-litert-int8", "x86-openvino-int8", "jetson-orin-int8")
FIRST, BETTER, BROKEN = "1.0.0", "1.1.0", "1.2.0"
PHANTOMS: Final = 480
FIRST_EPOCHS: Final = 10
MORE_EPOCHS: Final = 4
SEED: Final = 7


@dataclass(frozen=True)
class Place:
    """Where the demo keeps what it makes."""

    folder: Path

    @property
    def phantoms(self) -> Path:
        """The synthetic images."""
        return self.folder / "phantoms"

    @property
    def releases(self) -> Path:
        """The OCI layout with all releases and their TUF metadata."""
        return self.folder / "releases"

    @property
    def fleet(self) -> Path:
        """The fleet manager's state."""
        return self.folder / "fleet"

    @property
    def keys(self) -> Path:
        """The release author's keys."""
        return self.folder / "keys"

    def run(self, version: str) -> Path:
        """The trained model of ``version``."""
        return self.folder / "runs" / version

    def variants(self, version: str) -> Path:
        """The quantized variants of ``version``, one folder a target."""
        return self.folder / "variants" / version

    def box(self, device: str) -> Path:
        """The state of one device."""
        return self.folder / "boxes" / device

    def log(self, name: str) -> Path:
        """The log of one process."""
        return self.folder / "logs" / f"{name}.log"


def make_models(place: Place) -> None:
    """Train and quantize 1.0.0, then 1.1.0 trained further, then damage a copy as 1.2.0."""
    data = ("--data", place.phantoms, "--phantoms", str(PHANTOMS), "--task", "segmentation")
    first = ("--out", place.run(FIRST), "--epochs", str(FIRST_EPOCHS), "--seed", str(SEED))
    show("train", *data, *first)
    _quantize(place, FIRST)
    further = ("--resume", place.run(FIRST), "--epochs", str(MORE_EPOCHS), "--seed", str(SEED + 1))
    show("train", *data, "--out", place.run(BETTER), *further)
    _quantize(place, BETTER)
    _damage(place)


def make_releases(place: Place) -> None:
    """Pack each version as a release and sign them all."""
    for version in (FIRST, BETTER, BROKEN):
        show("pack", place.variants(version), "--version", version, "--out", place.releases)
    show("sign", place.releases, "--keys", place.keys)


def _quantize(place: Place, version: str) -> None:
    targets = [word for target in TARGETS for word in ("--target", target)]
    show("quantize", place.run(version), *targets, "--out", place.variants(version))


def _damage(place: Place) -> None:
    click.secho(
        f"\nthe demo's fault: {BROKEN} is {BETTER} with a fifth of its INT8 weights redrawn, "
        "after the gate and before signing",
        fg="yellow",
    )
    for target in TARGETS:
        source = place.variants(BETTER) / target
        perturb_variant(source, place.variants(BROKEN) / target, seed=SEED)
