"""Durable operations: there after any power cut as soon as they return, and never half there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from asdic.device.update import storage as storage_module
from asdic.device.update.disk import RealDisk
from asdic.device.update.storage import RESERVE_BYTES, Storage
from tests.faults.disk import Hook, SimulatedDisk, read_tree
from tests.faults.operations import BEFORE, OPERATIONS, fleeting, halved, readable
from tests.faults.surgery import Site, calls, sites_in, without

FSYNCS = tuple(sites_in(storage_module, lambda one: calls(one, "sync", "sync_folder")))
CERTAINTY = "Storage.sync_folder"
"""It is for a name of which an earlier operation that failed was not certain."""


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_operation_is_durable_when_it_returns(tmp_path: Path) -> None:
    assert list(fleeting(tmp_path)) == []


@pytest.mark.parametrize(
    "site",
    [site for site in FSYNCS if site.function != CERTAINTY],
    ids=lambda site: f"{site.function}-{site.text}",
)
def test_without_one_of_its_fsyncs_it_is_not(tmp_path: Path, site: Site) -> None:
    with without(site):
        assert [*fleeting(tmp_path), *halved(tmp_path)] != []


def test_a_power_cut_leaves_all_of_an_operation_or_nothing(tmp_path: Path) -> None:
    assert list(halved(tmp_path)) == []


def test_a_sure_name_is_durable(tmp_path: Path) -> None:
    disk = SimulatedDisk(tmp_path / "disk", BEFORE)
    disk.rename(disk.folder / "link", disk.folder / "other")
    Storage(disk).sync_folder(disk.folder)
    assert set(disk.trees("lost")) == set(disk.trees("strict"))


@pytest.mark.parametrize("name", ["write", "point"])
def test_a_failed_call_leaves_the_old_one(tmp_path: Path, name: str) -> None:
    whole = SimulatedDisk(tmp_path / "whole", BEFORE)
    OPERATIONS[name](Storage(whole), whole.folder)
    for number in range(whole.calls - 1):
        disk = SimulatedDisk(tmp_path / "disk", BEFORE, before=_fails_at(number))
        with pytest.raises(OSError, match="broken"):
            OPERATIONS[name](Storage(disk), disk.folder)
        assert readable(read_tree(disk.folder)) == readable(BEFORE)


def _fails_at(number: int) -> Hook:
    def fail(call: int, _name: str, _path: Path) -> None:
        if call == number:
            raise OSError(errno.EIO, "broken")

    return fail


def test_a_failed_write_cleans_up_after_itself(tmp_path: Path) -> None:
    disk = SimulatedDisk(tmp_path / "disk", BEFORE, before=_fails_at(2))
    with pytest.raises(OSError, match="broken"):
        Storage(disk).write(disk.folder / "a" / "file", b"new")
    assert names_in(disk.folder / "a") == ["file"]


def test_what_unfinished_operations_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".journal.json.new").write_bytes(b"half")
    (tmp_path / ".current.new").symlink_to("releases/none")
    (tmp_path / "journal.json").write_bytes(b"whole")
    Storage().sweep(tmp_path)
    assert names_in(tmp_path) == ["journal.json"]


def test_sweeping_a_folder_that_is_not_there_is_no_error(tmp_path: Path) -> None:
    Storage().sweep(tmp_path / "none")


@pytest.mark.parametrize("name", ["built", "removed"])
def test_half_a_folder_of_an_earlier_operation_is_in_nobodys_way(tmp_path: Path, name: str) -> None:
    half = tmp_path / f".built.{'new' if name == 'built' else 'removed'}"
    (half / "folder").mkdir(parents=True)
    (half / "folder" / "file").touch()
    (tmp_path / "file").touch()
    storage = Storage()
    storage.build_folder(tmp_path / "built", {"name": tmp_path / "file"})
    storage.remove_folder(tmp_path / "built")
    assert names_in(tmp_path) == ["file"]


class FullDisk(RealDisk):
    """A disk that takes nothing new while its reserve is there."""

    def __init__(self, reserve: Path, number: int = errno.ENOSPC) -> None:
        self.reserve = reserve
        self.number = number
        self.is_full = False

    def write(self, path: Path, offset: int, data: bytes) -> None:
        self._check(path)
        super().write(path, offset, data)

    def symlink(self, path: Path, destination: str) -> None:
        self._check(path)
        super().symlink(path, destination)

    def _check(self, path: Path) -> None:
        if self.is_full and self.reserve.exists():
            raise OSError(self.number, os.strerror(self.number), str(path))


@pytest.fixture
def full(tmp_path: Path) -> FullDisk:
    """A disk that is full but for its reserve."""
    disk = FullDisk(tmp_path / "reserve")
    Storage(disk).keep_reserve(disk.reserve)
    assert disk.reserve.stat().st_size == RESERVE_BYTES
    return disk


def storage_on(disk: FullDisk) -> Storage:
    storage = Storage(disk)
    storage.keep_reserve(disk.reserve)
    disk.is_full = True
    return storage


def test_a_full_disk_gives_its_reserve_for_an_urgent_write(full: FullDisk, tmp_path: Path) -> None:
    storage_on(full).write(tmp_path / "journal", b"data", urgent=True)
    assert (tmp_path / "journal").read_bytes() == b"data"
    assert not full.reserve.exists()


def test_a_full_disk_gives_its_reserve_for_a_pointer(full: FullDisk, tmp_path: Path) -> None:
    storage_on(full).point(tmp_path / "current", "releases/old")
    assert (tmp_path / "current").is_symlink()
    assert not full.reserve.exists()


def test_a_full_disk_keeps_its_reserve_from_any_other_write(full: FullDisk, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        storage_on(full).write(tmp_path / "blob", b"data")
    assert full.reserve.exists()


def test_a_broken_disk_keeps_its_reserve(full: FullDisk, tmp_path: Path) -> None:
    full.number = errno.EIO
    with pytest.raises(OSError, match="error"):
        storage_on(full).write(tmp_path / "journal", b"data", urgent=True)
    assert full.reserve.exists()


def test_a_reserve_that_was_given_up_is_kept_again(full: FullDisk, tmp_path: Path) -> None:
    storage = storage_on(full)
    storage.write(tmp_path / "journal", b"data", urgent=True)
    storage.keep_reserve(full.reserve)
    assert full.reserve.stat().st_size == RESERVE_BYTES


def test_a_reserve_takes_up_real_room(full: FullDisk) -> None:
    assert full.reserve.stat().st_blocks * 512 >= RESERVE_BYTES


def test_where_there_is_no_room_for_a_reserve_there_is_none(tmp_path: Path) -> None:
    disk = SimulatedDisk(tmp_path / "disk", before=_fails_at(1))
    storage = Storage(disk)
    storage.keep_reserve(disk.folder / "reserve")
    storage.write(disk.folder / "journal", b"data", urgent=True)
    assert names_in(disk.folder) == ["journal"]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.write_bytes(b"precious")
    return path


def test_nothing_is_written_through_a_link_in_the_place_of_a_temporary_file(
    tmp_path: Path, target: Path
) -> None:
    (tmp_path / ".file.new").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        Storage().write(tmp_path / "file", b"new")
    assert target.read_bytes() == b"precious"


def test_nothing_is_written_at_a_place_through_a_link(tmp_path: Path, target: Path) -> None:
    (tmp_path / "file").symlink_to(target)
    with pytest.raises(OSError, match="symbolic links"):
        Storage().write_at(tmp_path / "file", 0, b"new")
    assert target.read_bytes() == b"precious"


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path, target: Path) -> None:
    (tmp_path / "file").symlink_to(target)
    Storage().write(tmp_path / "file", b"new")
    assert not (tmp_path / "file").is_symlink()
    assert target.read_bytes() == b"precious"


def test_removing_a_folder_follows_no_link_out_of_it(tmp_path: Path, target: Path) -> None:
    (tmp_path / "outside").mkdir()
    target.rename(tmp_path / "outside" / "target")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "outside")
    Storage().remove_folder(tmp_path / "folder")
    assert (tmp_path / "outside" / "target").read_bytes() == b"precious"


def test_a_mode_holds_whatever_the_umask_says(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        Storage().write(tmp_path / "file", b"", mode=0o644)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
