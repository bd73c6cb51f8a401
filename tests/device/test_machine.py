"""A real agent on a machine that has changed since its release passed the gate."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from asdic.contract.messages import UpdateState
from asdic.device.update.machine import Machine, system_fingerprint
from tests.support.boxes import PATIENCE_S, Box
from tests.support.yard import Yard

VERSION = "1.0.0"


@pytest.fixture(scope="module")
def template(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a box that has committed a release."""
    box = Box.make(tmp_path_factory.mktemp("machine") / "box1", roots=yard.roots)
    assert box.install(yard.stick(VERSION)).returncode == 0
    return box.state.path


@pytest.fixture
def box(template: Path, tmp_path: Path) -> Iterator[Box]:
    """That box, whose release was gated on another system."""
    no_sockets = shutil.ignore_patterns("*.sock")
    shutil.copytree(template, tmp_path / "box1", symlinks=True, ignore=no_sockets)
    with Box(tmp_path / "box1") as made:
        change_system(made)
        yield made


def gated_on(box: Box) -> Machine:
    (path,) = (box.state.path / "gated").glob("*/machine.json")
    return msgspec.json.decode(path.read_bytes(), type=Machine)


def change_system(box: Box) -> None:
    (path,) = (box.state.path / "gated").glob("*/machine.json")
    path.write_bytes(msgspec.json.encode(msgspec.structs.replace(gated_on(box), system="old")))


def wait_for_report(box: Box, state: UpdateState, *, after: int) -> int:
    """Return the number of a later report that says ``state``."""
    status = box.wait_for(
        lambda status: (
            status.report is not None
            and status.report.number > after
            and status.report.state is state
        )
    )
    assert status.report is not None
    return status.report.number


def test_a_changed_system_is_reported_as_gating_then_committed_again(box: Box) -> None:
    before = box.status
    assert before.report is not None
    box.start()
    gating = wait_for_report(box, UpdateState.GATING, after=before.report.number)
    wait_for_report(box, UpdateState.COMMITTED, after=gating)
    box.wait_until_runs(VERSION)
    assert box.stop() == 0
    assert box.status.current == before.current
    assert box.status.journal.rollout == before.journal.rollout
    assert gated_on(box).system == system_fingerprint()


def test_the_runner_says_what_the_trial_said_so_nothing_is_gated_twice(box: Box) -> None:
    box.start()
    box.wait_for_state(UpdateState.GATING)
    box.wait_for_state(UpdateState.COMMITTED)
    box.wait_until_runs(VERSION)
    assert box.stop() == 0
    assert box.words.count("the machine is not the one") == 1


@pytest.mark.parametrize("state", [UpdateState.STAGED, UpdateState.GATING])
def test_a_box_killed_in_another_gate_ends_it_at_the_next_start(
    yard: Yard, box: Box, state: UpdateState
) -> None:
    command = [sys.executable, "-m", "tests.support.dying_agent", "after", state.value]
    done = subprocess.run(
        [*command, str(yard.stick(VERSION, rollout="again")), "--state", str(box.state.path)],
        timeout=PATIENCE_S,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert box.status.journal.state is state
    assert gated_on(box).system == "old"
    box.start()
    box.wait_for_state(UpdateState.COMMITTED)
    box.wait_until_runs(VERSION)
    assert box.stop() == 0
    assert gated_on(box).system == system_fingerprint()
    assert box.status.candidate is None
