"""Blobs, releases and pointers on a real disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from asdic.contract.errors import DigestError, ReleaseError
from asdic.contract.files import canonical_json
from asdic.contract.release import Descriptor, Layout, Manifest, parse_manifest
from asdic.contract.variant import read_variant
from asdic.device.update.storage import Storage
from asdic.device.update.store import Pointer, Store
from tests.support.fleet import LITERT, add_release


def stocked(folder: Path, version: str = "1.0.0") -> tuple[Store, str, Manifest]:
    """Return a store that holds all blobs of a release, its digest and its manifest."""
    layout = add_release(folder / "yard" / "releases", version)
    store = Store(folder / "box", Storage()).prepare()
    return store, *put_all(store, layout, version)


def put_all(store: Store, layout: Layout, version: str) -> tuple[str, Manifest]:
    digest = layout.release(version).variants[LITERT].digest
    store.put(layout.read_blob(digest))
    manifest = parse_manifest(layout.read_blob(digest))
    for blob in manifest.blobs:
        store.put(layout.read_blob(blob.digest))
    return digest, manifest


def model_of(manifest: Manifest) -> Descriptor:
    return manifest.layers[0]


def test_a_staged_release_is_a_variant_that_a_runner_opens(tmp_path: Path) -> None:
    store, digest, _ = stocked(tmp_path)
    store.stage(digest)
    assert read_variant(store.release_folder(digest)).target == LITERT


def test_staging_twice_is_no_change(tmp_path: Path) -> None:
    store, digest, _ = stocked(tmp_path)
    store.stage(digest)
    before = store.release_folder(digest).stat().st_ino
    store.stage(digest)
    assert store.release_folder(digest).stat().st_ino == before


def test_a_release_takes_no_space_beside_its_blobs(tmp_path: Path) -> None:
    store, digest, manifest = stocked(tmp_path)
    store.stage(digest)
    blob = store.blob_path(model_of(manifest).digest)
    assert (store.release_folder(digest) / "model.bin").samefile(blob)


def test_a_half_built_release_of_a_killed_agent_is_built_anew(tmp_path: Path) -> None:
    store, digest, _ = stocked(tmp_path)
    leftover = store.release_folder(digest).with_name(f".{store.release_folder(digest).name}.new")
    leftover.mkdir()
    (leftover / "model.bin").write_bytes(b"half")
    store.stage(digest)
    assert read_variant(store.release_folder(digest)).files[0].name == "model.bin"


def test_a_flipped_blob_is_refused_and_removed(tmp_path: Path) -> None:
    store, _, manifest = stocked(tmp_path)
    path = store.blob_path(model_of(manifest).digest)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(DigestError, match="has digest"):
        store.admit(model_of(manifest))
    assert store.missing(manifest) == (model_of(manifest),)


def test_a_truncated_blob_is_refused(tmp_path: Path) -> None:
    store, _, manifest = stocked(tmp_path)
    store.partial_path(model_of(manifest).digest).write_bytes(b"a")
    with pytest.raises(DigestError, match="has 1 bytes"):
        store.admit(model_of(manifest))


def test_a_fetched_blob_moves_into_the_store(tmp_path: Path) -> None:
    store, _, manifest = stocked(tmp_path)
    blob = model_of(manifest)
    store.blob_path(blob.digest).rename(store.partial_path(blob.digest))
    store.admit(blob)
    assert not store.missing(manifest)
    assert not store.partial_path(blob.digest).exists()


def test_a_file_name_that_leaves_its_folder_is_refused(tmp_path: Path) -> None:
    store, _, manifest = stocked(tmp_path)
    data = canonical_json(manifest).replace(b'"model.bin"', b'"../../current"')
    with pytest.raises(ReleaseError, match="may not leave its folder"):
        store.stage(store.put(data))
    assert not list((tmp_path / "box" / "releases").iterdir())


def test_a_pointer_names_a_release(tmp_path: Path) -> None:
    store, digest, _ = stocked(tmp_path)
    store.stage(digest)
    store.point(Pointer.CURRENT, digest)
    assert store.pointer(Pointer.CURRENT) == digest
    assert read_variant(tmp_path / "box" / "current").target == LITERT


def test_a_removed_pointer_names_nothing(tmp_path: Path) -> None:
    store, digest, _ = stocked(tmp_path)
    store.point(Pointer.CURRENT, digest)
    store.point(Pointer.CURRENT, None)
    assert store.pointers().current is None


def test_switching_a_pointer_leaves_nothing_behind(tmp_path: Path) -> None:
    store, digest, _ = stocked(tmp_path)
    before = set((tmp_path / "box").iterdir())
    store.point(Pointer.CURRENT, digest)
    store.point(Pointer.CURRENT, f"sha256:{'0' * 64}")
    assert set((tmp_path / "box").iterdir()) - before == {tmp_path / "box" / "current"}


def test_what_no_pointer_names_is_collected(tmp_path: Path) -> None:
    store, digest, _ = stocked(tmp_path)
    store.stage(digest)
    store.partial_path(f"sha256:{'1' * 64}").write_bytes(b"part")
    store.collect()
    left = [path for path in (tmp_path / "box").rglob("*") if path.is_file()]
    assert [path.name for path in left] == ["schema.json"]


def test_what_a_pointer_names_is_kept(tmp_path: Path) -> None:
    store, digest, manifest = stocked(tmp_path)
    store.stage(digest)
    store.point(Pointer.PREVIOUS, digest)
    store.collect()
    assert not store.missing(manifest)
    assert store.release(digest).version == "1.0.0"


def test_collecting_one_release_keeps_the_blobs_that_another_shares(tmp_path: Path) -> None:
    yard = tmp_path / "yard" / "releases"
    store = Store(tmp_path / "box", Storage()).prepare()
    first, _ = put_all(store, add_release(yard, "1.0.0", model=b"same"), "1.0.0")
    second, manifest = put_all(store, add_release(yard, "1.1.0", model=b"same"), "1.1.0")
    for digest in (first, second):
        store.stage(digest)
    store.point(Pointer.CURRENT, second)
    store.collect()
    assert not store.missing(manifest)
    assert not store.release_folder(first).exists()


def test_a_release_with_a_changed_description_is_not_handed_out(tmp_path: Path) -> None:
    store, digest, _ = stocked(tmp_path)
    store.stage(digest)
    path = store.release_folder(digest) / "variant.json"
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data.replace(b"segmentation", b"classif_cat_"))
    with pytest.raises(DigestError, match=r"variant\.json has digest"):
        store.release(digest)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    store, _, _ = stocked(tmp_path)
    with pytest.raises(DigestError, match="is missing in the store"):
        store.manifest(f"sha256:{'2' * 64}")
