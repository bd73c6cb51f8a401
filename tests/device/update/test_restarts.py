"""What an update survives: restarts of the agent, a damaged journal, a full disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from asdic.contract.messages import UpdateState
from asdic.device.update.disk import Space
from asdic.device.update.storage import Storage
from tests.support.dock import Dock
from tests.support.yard import Yard


@pytest.mark.parametrize(
    "state",
    [UpdateState.FETCHING, UpdateState.GATING, UpdateState.PROBATION],
)
def test_a_restart_goes_on_from_the_journal(dock: Dock, state: UpdateState) -> None:
    dock.offer("1.0.0")
    dock.until_state(state)
    stick = dock.stick
    dock.update.stop()
    dock.start(stick)
    dock.until_state(UpdateState.PROBATION)
    dock.program.infer(dock.yard.manifest("1.0.0"))
    dock.until_over()
    assert dock.state is UpdateState.COMMITTED


def test_a_gate_that_takes_the_agent_down_again_and_again_is_left(dock: Dock) -> None:
    dock.offer("1.0.0")
    for _ in range(5):
        dock.until_state(UpdateState.GATING)
        dock.update.stop()
        dock.start()
    dock.until_over()
    assert (dock.state, dock.code) == (UpdateState.FAILED, "device")


def test_a_damaged_journal_after_an_activation_goes_back(running: Dock) -> None:
    running.offer("1.1.0")
    running.until_state(UpdateState.PROBATION)
    running.update.stop()
    running.box.state.journal.write_bytes(b"{")
    running.start()
    running.program.infer(running.yard.manifest("1.0.0"))
    running.until_over()
    assert running.state is UpdateState.FAILED
    assert running.current == "1.0.0"


def test_a_damaged_journal_of_an_idle_box_changes_nothing(running: Dock) -> None:
    running.update.stop()
    running.box.state.journal.write_bytes(b"{")
    running.start()
    running.until_over()
    assert running.state is UpdateState.IDLE
    assert running.current == "1.0.0"


class NearlyFullDisk(Storage):
    """A disk that says honestly that there is no room."""

    def space(self, folder: Path) -> Space:  # noqa: ARG002
        return Space(bytes=1 << 20, files=1 << 20)


class FillingDisk(Storage):
    """A disk that somebody else fills while a blob is being written."""

    def write_at(self, path: Path, offset: int, data: bytes) -> None:  # noqa: ARG002
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_a_full_disk_is_refused_before_anything_is_fetched(yard: Yard, tmp_path: Path) -> None:
    dock = Dock.with_trial(yard, tmp_path, storage=NearlyFullDisk())
    dock.offer("1.0.0")
    dock.until_over()
    assert (dock.state, dock.code) == (UpdateState.REJECTED, "no-space")
    assert list((dock.box.state.path / "store" / "partial").iterdir()) == []


def test_a_disk_that_fills_up_ends_the_update_and_nothing_stays(yard: Yard, tmp_path: Path) -> None:
    dock = Dock.with_trial(yard, tmp_path, storage=FillingDisk())
    dock.offer("1.0.0")
    dock.until_over()
    assert (dock.state, dock.code) == (UpdateState.FAILED, "no-space")
    assert list((dock.box.state.path / "store" / "blobs").iterdir()) == []
    assert list((dock.box.state.path / "store" / "partial").iterdir()) == []
