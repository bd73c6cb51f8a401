"""Release folders from a person's side: pack, look into, carry away."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.errors import ConfigError, DigestError
from asdic.contract.files import check_digest, new_folder, write_file
from asdic.contract.release import Descriptor, Layout, Release
from asdic.contract.target import target_named
from asdic.contract.variant import VARIANT_FILE, Requirements, Variant, read_variant
from asdic.fleet.signing import SignedReleases

OFFERS_FOLDER: Final = "offers"


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """What a server signs for an export: offers by device, and the folder of the releases."""

    releases: str
    offers: dict[str, str]


class VariantView(msgspec.Struct, frozen=True, kw_only=True):
    """What a variant is, in the words of its own description."""

    target: str
    model: str
    task: str
    runtime: str
    recipe: str
    size_bytes: int
    golden: str
    manifest: str | None = None
    needs: str = ""
    firmware: str = ""


class ReleaseView(msgspec.Struct, frozen=True, kw_only=True):
    """One release: its variants, and whether it can be pushed."""

    version: str
    security_counter: int
    signed: bool
    damaged: tuple[str, ...]
    variants: tuple[VariantView, ...]


def variant_folders(folder: Path, targets: Collection[str] = ()) -> dict[str, Path]:
    """Return target and folder of each variant below ``folder``, or those of ``targets`` only.

    Raises:
        ConfigError: There is none, two are for one target, or a wanted one is missing.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder of variants")
    found: dict[str, Path] = {}
    for path in sorted(folder.glob(f"*/{VARIANT_FILE}")):
        target = read_variant(path.parent, check=False).target
        if target in found:
            raise ConfigError(f"{found[target]} and {path.parent} are both for {target}")
        found[target] = path.parent
    if not found:
        raise ConfigError(
            f"{folder} holds no variant: expected sub-folders with a {VARIANT_FILE}, "
            "as `asdic quantize --out` makes them"
        )
    absent = sorted({target_named(target).name for target in targets} - set(found))
    if absent:
        raise ConfigError(f"{folder} has no variant for {', '.join(absent)}")
    return {target: path for target, path in found.items() if not targets or target in targets}


def describe_variant(variant: Variant, manifest: str | None = None) -> VariantView:
    """Return what there is to say about ``variant``."""
    golden = variant.golden
    return VariantView(
        target=variant.target,
        model=variant.model,
        task=variant.task,
        runtime=f"{variant.runtime.value} {variant.runtime_version}",
        recipe=variant.recipe,
        size_bytes=sum(file.size_bytes for file in variant.files),
        golden=(
            f"{golden.metric} {golden.expected:.2f}, limit {golden.limit:.2f}, "
            f"{golden.labelled} labelled"
            if golden
            else "none"
        ),
        manifest=manifest,
        needs=_needs_text(variant.requires),
        firmware=(
            f"{variant.firmware.version} for {variant.firmware.board}" if variant.firmware else ""
        ),
    )


def _needs_text(needs: Requirements) -> str:
    """Return in a few words what the box's microcontroller and its frames have to be."""
    frames = needs.frames
    words = (
        f"firmware {needs.firmware}" if needs.firmware else "",
        f"board {needs.board}" if needs.board else "",
        f"frames of {frames.height} x {frames.width} {frames.dtype} {frames.channels}"
        if frames
        else "",
    )
    return ", ".join(word for word in words if word)


def describe_release(layout: Layout, version: str) -> ReleaseView:
    """Return what a release holds, with every damaged blob named."""
    release = layout.release(version)
    signed = SignedReleases(layout.folder)
    return ReleaseView(
        version=version,
        security_counter=release.security_counter,
        signed=signed.is_signed(version),
        damaged=_damaged(layout, release),
        variants=tuple(
            describe_variant(layout.variant(release, target), release.variants[target].digest)
            for target in sorted(release.variants)
        ),
    )


def export_release(source: Layout, version: str, offers: Mapping[str, str], out: Path) -> int:
    """Copy one release and the offers for its devices to ``out``; return the bytes of its blobs.

    An earlier export in ``out`` is replaced.

    Raises:
        ConfigError: ``out`` holds something else.
        DigestError: A blob is damaged; nothing is left behind.
    """
    is_export = (out / "oci-layout").is_file() and (out / OFFERS_FOLDER).is_dir()
    if out.exists() and any(out.iterdir()) and not is_export:
        raise ConfigError(f"{out} holds something else; name a new folder")
    with new_folder(out, replace=True) as folder:
        size_bytes = source.copy_release(version, Layout.create(folder))
        for device, offer in sorted(offers.items()):
            write_file(folder / OFFERS_FOLDER / f"{device}.json", offer.encode())
    return size_bytes


def _damaged(layout: Layout, release: Release) -> tuple[str, ...]:
    blobs = {
        blob.digest: blob
        for target in sorted(release.variants)
        for blob in layout.manifest(release, target).blobs
    }
    damages = (_damage(layout, blob) for blob in blobs.values())
    return tuple(damage for damage in damages if damage is not None)


def _damage(layout: Layout, blob: Descriptor) -> str | None:
    try:
        check_digest(layout.blob_path(blob.digest), digest=blob.digest, size_bytes=blob.size)
    except DigestError as error:
        return str(error)
    return None
