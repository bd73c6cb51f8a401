"""What a stick, a manifest or an archive may hold that leads elsewhere, never ends or bursts."""

from __future__ import annotations

import io
import os
import re
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
import numpy as np
import pytest

from asdic.contract.errors import AsdicError, DigestError, LinkError, ReleaseError
from asdic.contract.messages import Missing, UpdateState, chunk_count
from asdic.contract.release import (
    FILE_NAME,
    Descriptor,
    Manifest,
    digest_of,
    hex_of,
    parse_manifest,
)
from asdic.contract.trust import OFFER_LIMIT_BYTES
from asdic.contract.variant import read_variant
from asdic.device.link import ChunkArrived, FolderLink
from asdic.device.runner.golden import GOLDEN_FILE, read_golden
from asdic.device.update.storage import Storage
from asdic.device.update.store import Store
from tests.support.boxes import Box
from tests.support.models import make_tiny_variant
from tests.support.yard import JETSON, Yard

ZSTANDARD: Final = 93
"""The method's number in a zip archive. https://pkware.cachefly.net/webdocs/APPNOTE/ 4.4.5"""


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    made = Yard(tmp_path_factory.mktemp("yard"))
    made.add("1.0.0", ballast_bytes=600_000)
    return made


@pytest.fixture
def stick(yard: Yard, tmp_path: Path) -> Path:
    """A copy of the release folder with an offer of 1.0.0, to be damaged."""
    return Path(shutil.copytree(yard.stick("1.0.0"), tmp_path / "stick"))


@pytest.fixture
def manifest(yard: Yard) -> Manifest:
    return yard.layout.manifest(yard.layout.release("1.0.0"), JETSON)


@pytest.fixture
def blob(manifest: Manifest) -> Descriptor:
    """The blob that the tests replace: one of three chunks."""
    return max(manifest.blobs, key=lambda one: one.size)


@pytest.fixture
def path(stick: Path, blob: Descriptor) -> Path:
    """Where it lies on the stick."""
    return stick / "blobs" / "sha256" / hex_of(blob.digest)


def link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to("pipe")


def link_to_the_same_bytes(path: Path) -> None:
    shutil.copy(path, path.parent.parent / "elsewhere")
    path.unlink()
    path.symlink_to("../elsewhere")


IN_ITS_PLACE: Final[MappingProxyType[str, tuple[Callable[[Path], Any], str]]] = MappingProxyType(
    {
        "a link to a system file": (lambda path: path.symlink_to("/etc/passwd"), "a link"),
        "a link to itself": (lambda path: path.symlink_to(path.name), "a link"),
        "a link to a pipe": (link_to_a_pipe, "a link"),
        "a link to nothing": (lambda path: path.symlink_to("nothing"), "a link"),
        "a link to the same bytes": (link_to_the_same_bytes, "a link"),
        "a pipe": (os.mkfifo, "a pipe"),
        "a folder": (Path.mkdir, "a folder"),
    }
)


def put(path: Path, kind: str) -> str:
    """Put something else in a file's place; return what it should be called."""
    make, name = IN_ITS_PLACE[kind]
    if kind != "a link to the same bytes":
        path.unlink()
    make(path)
    return f"is {name}; a release folder holds plain files alone"


def chunks(link: FolderLink) -> Iterator[ChunkArrived]:
    while isinstance(arrival := link.receive(0.0), ChunkArrived):
        yield arrival


# A folder


@pytest.mark.parametrize("kind", IN_ITS_PLACE)
def test_what_is_no_plain_file_in_a_blobs_place_is_refused(stick, path, blob, kind):
    words = put(path, kind)
    with pytest.raises(LinkError, match=words):
        FolderLink(stick, "box1").follow(blob)


@pytest.mark.parametrize("name", ["index.json", "oci-layout", "offers/box1.json"])
def test_a_link_in_a_documents_place_is_refused(stick, name):
    words = put(stick / name, "a link to the same bytes")
    with pytest.raises(LinkError, match=words):
        FolderLink(stick, "box1")


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a link to itself"])
def test_an_offer_that_is_no_plain_file_is_refused(stick, kind):
    words = put(stick / "offers" / "box1.json", kind)
    with pytest.raises(LinkError, match=words):
        FolderLink(stick, "box1")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_a_device_in_a_blobs_place_is_refused(stick, path, blob):
    path.unlink()
    os.mknod(path, 0o20666, os.makedev(1, 5))  # /dev/zero
    with pytest.raises(LinkError, match="is no file; a release folder holds plain files alone"):
        FolderLink(stick, "box1").follow(blob)


def test_a_hard_link_is_a_file_like_any_other(stick, path, blob):
    os.link(path, stick / "another name")
    link = FolderLink(stick, "box1")
    link.follow(blob)
    assert len([*chunks(link)]) == chunk_count(blob.size)


def test_an_offer_of_a_gigabyte_is_not_read(stick):
    os.truncate(stick / "offers" / "box1.json", 1 << 30)
    with pytest.raises(ReleaseError, match=f"larger than the {OFFER_LIMIT_BYTES} bytes"):
        FolderLink(stick, "box1")


def test_a_blob_longer_than_was_signed_is_refused(stick, path, blob):
    os.truncate(path, 1 << 40)
    with pytest.raises(DigestError, match=f"has {1 << 40} bytes, {blob.size} were signed"):
        FolderLink(stick, "box1").follow(blob)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda path: put(path, "a pipe"), "is a pipe"),
        (lambda path: put(path, "a link to the same bytes"), "is a link"),
        (lambda path: os.truncate(path, 5), "changed while it was read"),
        (lambda path: os.truncate(path, 1 << 30), "changed while it was read"),
        (Path.unlink, "No such file"),
    ],
    ids=["a pipe", "a link", "shorter", "longer", "gone"],
)
def test_a_blob_that_changes_while_it_is_read_ends_the_transfer(stick, path, blob, change, words):
    link = FolderLink(stick, "box1")
    link.follow(blob)
    change(path)
    assert len([*chunks(link)]) < chunk_count(blob.size)
    missing = Missing(blob=hex_of(blob.digest), ranges=((0, 2),))
    with pytest.raises(LinkError, match=words):
        link.send_missing(missing)


@pytest.mark.parametrize("kind", ["a pipe", "a link to the same bytes"])
def test_the_agent_refuses_such_a_stick_and_writes_nowhere_else(
    yard, stick, path, blob, kind, tmp_path
):
    words = put(path, kind)
    box = Box.make(tmp_path / "box1", roots=yard.roots)
    before = {one: one.lstat().st_mtime_ns for one in tmp_path.rglob("*") if in_reach(box, one)}
    done = box.install(stick)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("asdic-agent: ")]
    assert words in line
    assert box.status.journal.state is UpdateState.FAILED
    after = {one: one.lstat().st_mtime_ns for one in tmp_path.rglob("*") if in_reach(box, one)}
    assert after == before


def in_reach(box: Box, path: Path) -> bool:
    """Whether a path lies where nobody may write: not in the state folder."""
    return not path.is_relative_to(box.state.path)


# A manifest


def with_names(manifest: Manifest, *names: str) -> bytes:
    """Return the manifest with other file names; more names than layers give one more layer."""
    layers = [
        msgspec.structs.replace(layer, annotations={FILE_NAME: name})
        for layer, name in zip([*manifest.layers, manifest.layers[0]], names, strict=False)
    ]
    return msgspec.json.encode(msgspec.structs.replace(manifest, layers=tuple(layers)))


NAMES: Final = (
    *("", ".", "..", "../agent.toml", "/etc/passwd", "a/b", "a\\b", ".hidden", "-rf", "a\0b"),
    *("a\nb", "a b", "x" * 300, "\u202eexe.xnno", "ﬁle"),
)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_that_is_not_plain_is_refused(manifest, name):
    with pytest.raises(DigestError, match="is not a plain file name"):
        parse_manifest(with_names(manifest, name, "b"))


@pytest.mark.parametrize("names", [("a", "a"), ("a", "variant.json")], ids=str)
def test_two_files_of_one_name_are_refused(manifest, names):
    with pytest.raises(ReleaseError, match=f"two files called '{names[1]}'"):
        parse_manifest(with_names(manifest, *names))


@pytest.mark.parametrize("names", [("../../out", "b"), ("a", "a"), ("/out", "b")], ids=str)
def test_the_store_stages_nothing_of_such_a_manifest(manifest, names, tmp_path):
    store = Store(tmp_path / "state", Storage()).prepare()
    data = with_names(manifest, *names)
    digest = store.put(data)
    assert digest == digest_of(data)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(AsdicError):
        store.stage(digest)
    assert sorted(tmp_path.rglob("*")) == before


# An archive


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def test_an_archive_packed_with_zstandard_is_refused(tmp_path):
    path = tmp_path / GOLDEN_FILE
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("input_0.npy", npy(np.zeros(9, np.uint8)))
    data = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        struct.pack_into("<H", data, data.index(mark) + at, ZSTANDARD)
    path.write_bytes(data)
    with pytest.raises(ReleaseError, match="packed by a method other than deflate"):
        read_golden(path)


def test_an_archive_that_names_a_member_twice_is_refused(tmp_path):
    path = tmp_path / GOLDEN_FILE
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("input_0.npy", npy(np.zeros(9, np.uint8)))
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("input_0.npy", npy(np.ones(9, np.uint8)))
    with pytest.raises(ReleaseError, match="names a member twice"):
        read_golden(path)


def test_a_golden_set_that_is_a_pipe_is_not_waited_for(tmp_path):
    folder = make_tiny_variant(tmp_path / "variant", target=JETSON)
    (folder / GOLDEN_FILE).unlink()
    os.mkfifo(folder / GOLDEN_FILE)
    with pytest.raises(DigestError, match=re.escape(f"{GOLDEN_FILE} is missing")):
        read_variant(folder)
