"""Releases and devices for the fleet's tests: real files, keys, metadata and MQTT clients."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from asdic.contract.files import sha256_of
from asdic.contract.release import Layout
from asdic.contract.target import target_named
from asdic.contract.variant import VARIANT_FILE, FileRef, TensorSpec, Variant, encode_variant
from asdic.fleet.signing import ImageRepository

LITERT = "x86-litert-int8"
OPENVINO = "x86-openvino-int8"


def write_variant(folder: Path, target: str = LITERT, *, model: bytes = b"a model") -> Path:
    """Write a variant whose model nobody can run, which the fleet never notices."""
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(model)
    variant = Variant(
        model="tiny",
        target=target,
        runtime=target_named(target).runtime,
        runtime_version="1.0",
        task="segmentation",
        files=(
            FileRef(
                name="model.bin",
                digest=sha256_of(folder / "model.bin"),
                size_bytes=len(model),
            ),
        ),
        inputs=(TensorSpec(name="image", shape=(1, 1, 8, 8)),),
        outputs=(TensorSpec(name="mask", shape=(1, 1, 8, 8)),),
        preprocessing=(),
        postprocessing=(),
        recipe="static_wi8_ai8",
    )
    (folder / VARIANT_FILE).write_bytes(encode_variant(variant))
    return folder


def add_release(
    releases: Path,
    version: str = "1.0.0",
    *,
    targets: Iterable[str] = (LITERT,),
    model: bytes | None = None,
    security_counter: int = 1,
) -> Layout:
    """Add a release with one made-up variant a target to the layout in ``releases``."""
    layout = Layout.create(releases)
    folders = {
        target: write_variant(
            releases.parent / f"variants-{version}" / target,
            target,
            model=model or f"model {version} {target}".encode(),
        )
        for target in targets
    }
    layout.add_release(version, folders, security_counter=security_counter)
    return layout


def add_signed_release(
    releases: Path,
    version: str = "1.0.0",
    *,
    targets: Iterable[str] = (LITERT,),
    model: bytes | None = None,
    security_counter: int = 1,
) -> Layout:
    """Add a release and sign it with the keys in ``keys`` beside the release folder."""
    layout = add_release(
        releases, version, targets=targets, model=model, security_counter=security_counter
    )
    ImageRepository(releases, releases.parent / "keys").sign(layout, version)
    return layout
