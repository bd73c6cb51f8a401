"""The release on disk: the same bytes every time, and no way out of its folder."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from asdic.contract.errors import ConfigError, DigestError, ReleaseError
from asdic.contract.files import canonical_json
from asdic.contract.release import FILE_NAME, Layout, check_version, digest_of, parse_manifest
from asdic.contract.variant import VARIANT_FILE, read_variant
from asdic.fleet.releases import describe_release, export_release, variant_folders
from tests.support.fleet import LITERT, OPENVINO, add_release, add_signed_release, write_variant


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_variants_give_the_same_bytes(tmp_path: Path) -> None:
    first = add_release(tmp_path / "one" / "releases", targets=(LITERT, OPENVINO))
    second = add_release(tmp_path / "two" / "releases", targets=(OPENVINO, LITERT))
    assert content(first.folder) == content(second.folder)


def test_a_release_is_an_oci_image_layout(tmp_path: Path) -> None:
    layout = add_release(tmp_path / "releases")
    assert (layout.folder / "oci-layout").read_bytes() == b'{"imageLayoutVersion":"1.0.0"}'
    for path in (layout.folder / "blobs" / "sha256").iterdir():
        assert digest_of(path.read_bytes()) == f"sha256:{path.name}"


def test_a_variant_comes_back_as_it_went_in(tmp_path: Path) -> None:
    layout = add_release(tmp_path / "releases")
    packed = layout.variant(layout.release("1.0.0"), LITERT)
    assert packed == read_variant(tmp_path / "variants-1.0.0" / LITERT)


def test_packing_again_is_no_change(tmp_path: Path) -> None:
    layout = add_release(tmp_path / "releases")
    before = content(layout.folder)
    layout.add_release("1.0.0", variant_folders(tmp_path / "variants-1.0.0"))
    assert content(layout.folder) == before


def test_a_version_never_changes_its_variants(tmp_path: Path) -> None:
    layout = add_release(tmp_path / "releases")
    other = write_variant(tmp_path / "other" / LITERT, model=b"another model")
    with pytest.raises(ConfigError, match=r"release 1\.0\.0 exists with other variants"):
        layout.add_release("1.0.0", {LITERT: other})


def test_a_member_that_escapes_its_folder_is_refused(tmp_path: Path) -> None:
    layout = add_release(tmp_path / "releases")
    manifest = layout.manifest(layout.release("1.0.0"), LITERT)
    for name in ("../../etc/passwd", "/etc/passwd", "..", ".hidden", "a/b", "", "a\0b"):
        layer = msgspec.structs.replace(manifest.layers[0], annotations={FILE_NAME: name})
        evil = msgspec.structs.replace(manifest, layers=(layer,))
        with pytest.raises(ReleaseError, match="may not leave its folder"):
            parse_manifest(canonical_json(evil))


def test_a_digest_that_is_a_path_is_refused(tmp_path: Path) -> None:
    layout = add_release(tmp_path / "releases")
    manifest = layout.manifest(layout.release("1.0.0"), LITERT)
    layer = msgspec.structs.replace(manifest.layers[0], digest="sha256:../../x")
    evil = msgspec.structs.replace(manifest, layers=(layer,))
    with pytest.raises(ReleaseError, match="is not a digest"):
        parse_manifest(canonical_json(evil))


def test_a_description_that_names_other_files_than_the_manifest_is_refused(tmp_path: Path) -> None:
    layout = add_release(tmp_path / "releases")
    release = layout.release("1.0.0")
    manifest = layout.manifest(release, LITERT)
    evil = msgspec.structs.replace(manifest, layers=())
    data = canonical_json(evil)
    layout.add_bytes(data)
    entry = msgspec.structs.replace(release.variants[LITERT], digest=digest_of(data))
    forged = msgspec.structs.replace(release, variants={LITERT: entry})
    with pytest.raises(ReleaseError, match="names other files"):
        layout.variant(forged, LITERT)


def test_a_truncated_blob_is_named(tmp_path: Path) -> None:
    layout = add_release(tmp_path / "releases")
    digest = layout.variant(layout.release("1.0.0"), LITERT).files[0].digest
    layout.blob_path(digest).write_bytes(b"mo")
    assert describe_release(layout, "1.0.0").damaged == (
        f"{digest.removeprefix('sha256:')} has 2 bytes, 27 were signed",
    )


def test_a_damaged_document_is_named(tmp_path: Path) -> None:
    layout = add_release(tmp_path / "releases")
    digest = layout.release("1.0.0").variants[LITERT].digest
    layout.blob_path(digest).write_bytes(b"{}")
    with pytest.raises(DigestError, match=f"blob {digest} .* is damaged"):
        layout.manifest(layout.release("1.0.0"), LITERT)


def test_a_variant_whose_file_changed_is_not_packed(tmp_path: Path) -> None:
    folder = write_variant(tmp_path / "variants" / LITERT)
    (folder / "model.bin").write_bytes(b"a modem")
    layout = Layout.create(tmp_path / "releases")
    with pytest.raises(DigestError, match=r"model\.bin has digest"):
        layout.add_release("1.0.0", {LITERT: folder})
    assert layout.versions() == ()


def test_an_unknown_release_lists_those_that_exist(tmp_path: Path) -> None:
    layout = add_release(tmp_path / "releases")
    with pytest.raises(ConfigError, match=r"no release '2\.0\.0'; it holds: 1\.0\.0"):
        layout.release("2.0.0")


def test_a_folder_without_a_layout_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no OCI image layout"):
        Layout.open(tmp_path)


@pytest.mark.parametrize("version", ["1", "v1.0", "1.0/..", "1.0 0", "", "1." * 40])
def test_odd_versions_are_refused(version: str) -> None:
    with pytest.raises(ConfigError, match="is not a version"):
        check_version(version)


def test_a_folder_without_variants_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"expected sub-folders with a {VARIANT_FILE}"):
        variant_folders(tmp_path)


def test_two_variants_for_one_target_are_refused(tmp_path: Path) -> None:
    write_variant(tmp_path / "a")
    write_variant(tmp_path / "b")
    with pytest.raises(ConfigError, match=f"are both for {LITERT}"):
        variant_folders(tmp_path)


def test_a_wanted_target_that_is_not_there_is_named(tmp_path: Path) -> None:
    write_variant(tmp_path / "a")
    with pytest.raises(ConfigError, match=f"has no variant for {OPENVINO}"):
        variant_folders(tmp_path, (OPENVINO,))


def test_an_export_holds_one_release_and_the_offers(tmp_path: Path) -> None:
    add_signed_release(tmp_path / "releases", "1.0.0")
    layout = add_signed_release(tmp_path / "releases", "1.1.0")
    out = tmp_path / "stick" / "releases"
    export_release(layout, "1.1.0", {"box": "{}"}, out)
    copy = Layout.open(out)
    assert copy.versions() == ("1.1.0",)
    assert copy.release("1.1.0") == layout.release("1.1.0")
    assert not describe_release(copy, "1.1.0").damaged
    assert (out / "offers" / "box.json").read_text() == "{}"


def test_an_export_never_replaces_something_else(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases")
    (tmp_path / "stick").mkdir()
    (tmp_path / "stick" / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something else"):
        export_release(layout, "1.0.0", {}, tmp_path / "stick")
    assert (tmp_path / "stick" / "thesis.txt").exists()


def test_an_export_of_a_damaged_release_leaves_nothing_behind(tmp_path: Path) -> None:
    layout = add_signed_release(tmp_path / "releases")
    digest = layout.variant(layout.release("1.0.0"), LITERT).files[0].digest
    layout.blob_path(digest).write_bytes(b"mo")
    with pytest.raises(DigestError):
        export_release(layout, "1.0.0", {}, tmp_path / "stick" / "releases")
    assert list((tmp_path / "stick").iterdir()) == []
