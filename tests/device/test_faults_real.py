"""Rows 5 and 9 of the faults, a few points of each, and proof that their tools bite.

All points: ``python -m tests.faults --row kill``, and ``--row powercut``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.faults import kill, powercut
from tests.faults.powercut import FLAGS, Disk
from tests.faults.row import Outcome, Row
from tests.faults.traced import lacks_tracing, traced

Attempt = Callable[[int], Outcome]

CHANGES = """
import os
with open("new", "w") as file:
    file.write("text")
    file.flush()
    os.fsync(file.fileno())
os.rename("new", "old")
os.listdir(".")
open("/dev/null", "w").write("elsewhere")
os.unlink("old")
"""


@contextmanager
def sampled(row: Row, folder: Path) -> Iterator[Attempt]:
    """Yield what tries the nth point of the row's sample, which lies evenly spread."""
    if reason := row.lacks():
        pytest.skip(reason)
    points = list(row.points())
    with row.open(folder) as try_one:
        yield lambda nth: try_one(points[(2 * nth + 1) * len(points) // (2 * row.sample)])


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attempt]:
    with sampled(kill.ROW, tmp_path_factory.mktemp("kill")) as attempt:
        yield attempt


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attempt]:
    with sampled(powercut.ROW, tmp_path_factory.mktemp("powercut")) as attempt:
        yield attempt


@pytest.mark.parametrize("nth", range(kill.ROW.sample))
def test_a_box_whose_agent_was_killed_ends_on_a_whole_release(killed: Attempt, nth: int) -> None:
    outcome = killed(nth)
    assert outcome.end in {"old", "new"}
    assert not outcome.forbidden, outcome


@pytest.mark.parametrize("nth", range(powercut.ROW.sample))
def test_a_box_that_lost_its_power_ends_on_a_whole_release(cut: Attempt, nth: int) -> None:
    outcome = cut(nth)
    assert outcome.end in {"old", "new"}
    assert not outcome.forbidden, outcome


@pytest.fixture
def program(tmp_path: Path) -> tuple[list[str], Path]:
    """A program that changes its own folder and one other file, and the folder."""
    if reason := lacks_tracing():
        pytest.skip(reason)
    folder = tmp_path / "watched"
    folder.mkdir()
    script = tmp_path / "program.py"
    script.write_text(f"import os\nos.chdir({str(folder)!r})\n{CHANGES}", "utf-8")
    return [sys.executable, str(script)], folder


def test_a_traced_process_stops_before_each_change_of_its_folder(
    program: tuple[list[str], Path], tmp_path: Path
) -> None:
    command, folder = program
    with traced(command, folder=folder, log=tmp_path / "log") as process:
        changes = [(change.call, change.path) for change in process.changes()]
    assert changes == [
        ("openat", "new"),
        ("write", "new"),
        ("fsync", "new"),
        ("rename", "old"),
        ("unlink", "old"),
    ]
    assert process.status == 0


def test_a_process_killed_before_a_change_has_made_all_changes_before_it(
    program: tuple[list[str], Path], tmp_path: Path
) -> None:
    command, folder = program
    with traced(command, folder=folder, log=tmp_path / "log") as process:
        for change in process.changes():
            if change.call == "rename":
                process.kill()
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert (folder / "new").read_text("utf-8") == "text"


def test_a_power_cut_takes_what_was_not_synced(tmp_path: Path) -> None:
    if reason := powercut.lacks():
        pytest.skip(reason)
    disk = Disk(tmp_path / "image", tmp_path / "disk")
    disk.make()
    with disk.mounted() as folder:
        with (folder / "synced").open("w", encoding="utf-8") as file:
            file.write("text")
            file.flush()
            os.fsync(file.fileno())
        (folder / "lost").write_text("text", encoding="utf-8")
        disk.cut_power(FLAGS["nologflush"])
    with disk.mounted() as folder:
        assert (folder / "synced").read_text("utf-8") == "text"
        assert not (folder / "lost").exists()
    assert disk.damage() == ""
