"""``kill -9`` of the agent in every state: a restart ends with the old or the new release running.

The agent dies by its own disk (``tests.support.dying_agent``), so it dies at exactly the chosen
point. Then a whole agent with a real runner goes on from what is left.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from asdic.contract.messages import UpdateState
from asdic.device.application import Application
from tests.support.boxes import PATH_TO_COMMIT, PATIENCE_S, Box, runs
from tests.support.yard import Yard

NEW = "1.1.0"
OLD = "1.0.0"

PATH_TO_ROLLBACK = (
    UpdateState.ROLLING_BACK,
    UpdateState.ROLLED_BACK,
    UpdateState.FAILED,
)


@pytest.fixture(scope="module")
def template(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a box that runs the old release."""
    box = Box.make(tmp_path_factory.mktemp("killed") / "box1", roots=yard.roots)
    assert box.install(yard.stick(OLD)).returncode == 0
    return box.state.path


def copy_of(template: Path, folder: Path) -> Box:
    shutil.copytree(
        template,
        folder / "box1",
        symlinks=True,
        ignore=lambda _folder, names: {name for name in names if name.endswith(".sock")},
    )
    return Box(folder / "box1")


def die(box: Box, when: str, state: UpdateState, stick: Path) -> None:
    """Install from ``stick`` until the agent is killed when the journal says ``state``."""
    command = [sys.executable, "-m", "tests.support.dying_agent", when, state.value, str(stick)]
    done = subprocess.run(
        [*command, "--state", str(box.state.path)],
        timeout=PATIENCE_S,
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


def check_whole(box: Box) -> None:
    """Check that what runs is what ``current`` names, and that nothing is left over."""
    status = box.status
    assert status.report is not None
    assert status.report.loaded is not None
    assert status.report.loaded.manifest == status.current
    assert status.candidate is None
    assert list((box.state.path / "store" / "partial").iterdir()) == []
    releases = {path.name for path in (box.state.path / "releases").iterdir()}
    named = {d.removeprefix("sha256:") for d in (status.current, status.previous) if d}
    assert releases == named


@pytest.mark.parametrize(
    ("when", "state"),
    [
        *(("after", state) for state in PATH_TO_COMMIT),
        # The effect of the state before is done, and the journal does not say so.
        ("before", UpdateState.FETCHING),
        ("before", UpdateState.STAGED),
        ("before", UpdateState.PROBATION),
    ],
)
def test_a_killed_update_is_finished_by_the_next_agent(
    yard: Yard, template: Path, tmp_path: Path, state: UpdateState, when: str
) -> None:
    box = copy_of(template, tmp_path)
    stick = yard.stick(NEW)
    die(box, when, state, stick)
    done = box.install(stick)
    assert done.returncode == 0, done.stderr
    assert runs(box.status) == NEW
    check_whole(box)


@pytest.mark.parametrize("state", PATH_TO_ROLLBACK)
def test_a_killed_rollback_ends_on_the_old_release(
    yard: Yard, template: Path, tmp_path: Path, state: UpdateState
) -> None:
    if "1.3.0" not in yard.layout.versions():
        yard.add("1.3.0", offset=0.4)
    box = copy_of(template, tmp_path)
    stick = yard.stick("1.3.0")
    # It passes the gate; what was activated is then taken away under the runner.
    die(box, "after", UpdateState.PROBATION, stick)
    model = next((box.state.path / "current").resolve().glob("model.*"))
    model.unlink()
    die(box, "after", state, stick)
    box.start()
    box.wait_until_runs(OLD)
    status = box.wait_for(
        lambda status: status.journal.state is UpdateState.FAILED and status.candidate is None
    )
    assert box.stop() == 0
    assert status.journal.refusal is not None
    assert status.journal.refusal.code == "unhealthy"
    check_whole(box)


def test_an_update_killed_while_an_exam_holds_it_back_goes_on_after_it(
    yard: Yard, template: Path, tmp_path: Path
) -> None:
    box = copy_of(template, tmp_path)
    stick = yard.stick(NEW)
    box.start()
    box.wait_until_runs(OLD)
    with Application.connect(box.state.path) as program:
        program.busy(3600.0)
    assert box.stop() == 0
    die(box, "after", UpdateState.DEFERRED, stick)
    box.start()
    box.wait_until_runs(OLD)
    with Application.connect(box.state.path) as program:
        program.busy(0.0)
    box.wait_until_runs(NEW)
    box.wait_for_state(UpdateState.COMMITTED)
    assert box.stop() == 0
    check_whole(box)


def test_a_box_killed_when_it_has_refused_an_offer_runs_on(
    yard: Yard, template: Path, tmp_path: Path
) -> None:
    box = copy_of(template, tmp_path)
    stranger = Yard(tmp_path / "stranger")
    stranger.add(NEW)
    die(box, "after", UpdateState.REJECTED, stranger.stick(NEW))
    box.start()
    box.wait_until_runs(OLD)
    assert box.stop() == 0
    check_whole(box)


def test_a_box_killed_at_rest_runs_what_it_ran(yard: Yard, template: Path, tmp_path: Path) -> None:
    box = copy_of(template, tmp_path)
    box.start()
    box.wait_until_runs(OLD)
    box.kill()
    box.start()
    box.wait_until_runs(OLD)
    assert box.stop() == 0
    check_whole(box)


def test_no_process_outlives_a_killed_agent(yard: Yard, template: Path, tmp_path: Path) -> None:
    box = copy_of(template, tmp_path)
    box.start()
    box.wait_until_runs(OLD)
    report = box.status.report
    assert report is not None
    assert report.loaded is not None
    box.kill()
    runner = report.loaded.pid
    psutil.wait_procs(
        [process for process in psutil.process_iter() if process.pid == runner], timeout=PATIENCE_S
    )
    assert not psutil.pid_exists(runner)


def test_report_numbers_grow_over_a_kill(yard: Yard, template: Path, tmp_path: Path) -> None:
    box = copy_of(template, tmp_path)
    before = box.status.report
    assert before is not None
    die(box, "after", UpdateState.GATING, yard.stick(NEW))
    after = box.status.report
    assert after is not None
    assert after.number > before.number
