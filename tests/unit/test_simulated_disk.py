"""The rules of the simulated disk, without which the table of faults would prove nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.disk import Entry, Model, SimulatedDisk, Tree, lay_out, read_tree

BEFORE: Tree = (
    Entry("a", "folder"),
    Entry("a/file", "file", b"old!", 1),
    Entry("b", "folder"),
)


@pytest.fixture
def disk(tmp_path: Path) -> SimulatedDisk:
    return SimulatedDisk(tmp_path / "disk", BEFORE)


def contents(disk: SimulatedDisk, model: Model, path: str) -> set[bytes | None]:
    """Return what a power cut may leave at ``path``; None: nothing."""
    return {
        next((one.content for one in tree if one.path == path), None) for tree in disk.trees(model)
    }


def test_what_was_there_at_the_beginning_is_durable(disk: SimulatedDisk) -> None:
    assert set(disk.trees("lost")) == {BEFORE}


def test_a_strict_disk_keeps_all_that_was_done(disk: SimulatedDisk) -> None:
    disk.write(disk.folder / "a" / "file", 0, b"new!")
    disk.make_folder(disk.folder / "c")
    (tree,) = disk.trees("strict")
    assert tree == read_tree(disk.folder)


def test_what_was_not_synced_may_be_lost(disk: SimulatedDisk) -> None:
    disk.write(disk.folder / "a" / "file", 0, b"new!")
    assert contents(disk, "lost", "a/file") == {b"old!", b"new!"}


def test_what_was_synced_is_there(disk: SimulatedDisk) -> None:
    disk.write(disk.folder / "a" / "file", 0, b"new!")
    disk.sync(disk.folder / "a" / "file")
    assert contents(disk, "lost", "a/file") == {b"new!"}


def test_a_later_write_may_last_without_an_earlier_one(disk: SimulatedDisk) -> None:
    disk.write(disk.folder / "a" / "file", 0, b"1")
    disk.write(disk.folder / "a" / "file", 3, b"2")
    assert contents(disk, "lost", "a/file") == {b"old!", b"1ld!", b"old2", b"1ld2"}


def test_a_synced_files_name_may_be_lost(disk: SimulatedDisk) -> None:
    disk.write(disk.folder / "b" / "new", 0, b"data")
    disk.sync(disk.folder / "b" / "new")
    assert contents(disk, "lost", "b/new") == {None, b"data"}


def test_a_durable_name_may_have_lost_its_content(disk: SimulatedDisk) -> None:
    disk.write(disk.folder / "b" / "new", 0, b"data")
    disk.sync_folder(disk.folder / "b")
    assert contents(disk, "lost", "b/new") == {b"", b"data"}


def test_a_rename_is_one_step(disk: SimulatedDisk) -> None:
    disk.create(disk.folder / "a" / "new", 0o644)
    disk.write(disk.folder / "a" / "new", 0, b"new!")
    disk.sync(disk.folder / "a" / "new")
    disk.rename(disk.folder / "a" / "new", disk.folder / "a" / "file")
    assert contents(disk, "lost", "a/file") == {b"old!", b"new!"}


def test_without_a_sync_a_renamed_file_may_be_empty(disk: SimulatedDisk) -> None:
    disk.create(disk.folder / "a" / "new", 0o644)
    disk.write(disk.folder / "a" / "new", 0, b"new!")
    disk.rename(disk.folder / "a" / "new", disk.folder / "a" / "file")
    disk.sync_folder(disk.folder / "a")
    assert contents(disk, "lost", "a/file") == {b"", b"new!"}


def test_a_file_that_moves_between_folders_is_never_in_neither(disk: SimulatedDisk) -> None:
    disk.rename(disk.folder / "a" / "file", disk.folder / "b" / "file")
    places = {
        frozenset(one.path for one in tree if one.kind == "file") for tree in disk.trees("lost")
    }
    assert places == {
        frozenset({"a/file"}),
        frozenset({"a/file", "b/file"}),
        frozenset({"b/file"}),
    }


def test_a_removed_file_may_be_there_again(disk: SimulatedDisk) -> None:
    disk.unlink(disk.folder / "a" / "file")
    assert contents(disk, "lost", "a/file") == {None, b"old!"}


def test_a_file_under_two_names_has_one_content(disk: SimulatedDisk) -> None:
    disk.link(disk.folder / "a" / "file", disk.folder / "b" / "link")
    disk.sync_folder(disk.folder / "b")
    disk.write(disk.folder / "b" / "link", 0, b"new!")
    disk.sync(disk.folder / "b" / "link")
    assert contents(disk, "lost", "a/file") == {b"new!"}


def test_the_last_write_may_be_torn(disk: SimulatedDisk) -> None:
    disk.write(disk.folder / "a" / "file", 0, b"new!")
    torn = contents(disk, "torn", "a/file")
    assert {b"\0\0\0\0", b"new!"[:2] + b"d!"} < torn
    assert len(torn) == 3


def test_only_the_last_write_is_torn(disk: SimulatedDisk) -> None:
    disk.write(disk.folder / "b" / "one", 0, b"1111")
    disk.write(disk.folder / "b" / "two", 0, b"2222")
    assert contents(disk, "torn", "b/one") == {b"1111"}


def test_what_was_synced_is_not_torn(disk: SimulatedDisk) -> None:
    disk.write(disk.folder / "a" / "file", 0, b"new!")
    disk.sync(disk.folder / "a" / "file")
    assert contents(disk, "torn", "a/file") == {b"new!"}


def test_after_a_failed_fsync_the_next_one_says_that_all_is_well_and_lies(
    disk: SimulatedDisk,
) -> None:
    path = disk.folder / "a" / "file"
    disk.write(path, 0, b"new!")
    disk.forget(path)
    disk.sync(path)
    assert path.read_bytes() == b"new!"
    assert contents(disk, "strict", "a/file") == {b"old!"}


def test_of_many_changes_each_one_is_lost_alone_and_kept_alone(disk: SimulatedDisk) -> None:
    names = [f"n{number}" for number in range(8)]
    for name in names:
        disk.make_folder(disk.folder / name)
    found = {
        frozenset(one.path for one in tree if one.path in names) for tree in disk.trees("lost")
    }
    alone = {frozenset({name}) for name in names}
    missing = {frozenset(names) - {name} for name in names}
    assert alone | missing | {frozenset(), frozenset(names)} <= found


def test_a_hook_that_stops_a_call_stops_it_before_it_is_done(disk: SimulatedDisk) -> None:
    def stop(_number: int, _name: str, _path: Path) -> None:
        raise OSError("stopped")

    disk.before = stop
    with pytest.raises(OSError, match="stopped"):
        disk.unlink(disk.folder / "a" / "file")
    assert (disk.folder / "a" / "file").exists()
    assert set(disk.trees("lost")) == {BEFORE}


def test_a_tree_that_is_laid_out_reads_as_it_was(tmp_path: Path) -> None:
    tree: Tree = (*BEFORE, Entry("link", "link", b"a/file"), Entry("twin", "file", b"old!", 1))
    lay_out(tree, tmp_path / "out")
    assert read_tree(tmp_path / "out") == tree
    assert (tmp_path / "out" / "twin").samefile(tmp_path / "out" / "a" / "file")
