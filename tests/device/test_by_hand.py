"""``asdic-agent rollback`` and ``install --now``: what a person at the box may say."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from asdic.contract.errors import ConfigError, InstallError
from asdic.contract.messages import UpdateState
from asdic.device.application import Application
from asdic.device.by_hand import Requests
from asdic.device.update.journal import Journal
from asdic.device.update.storage import Storage
from tests.faults.disk import PowerCut
from tests.support.boxes import AGENT, PATIENCE_S, Box, runs
from tests.support.dock import Dock
from tests.support.yard import Yard

OLD = "1.0.0"
NEW = "1.1.0"
NO_WAY_BACK = "there is no earlier release on this box that it may go back to"


@pytest.fixture
def box(updated_box: Box) -> Box:
    return updated_box


def says(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line with which a verb ends, without the log before it."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [one for one in done.stderr.splitlines() if one.startswith("asdic-agent: ")]
    return line


def check_went_back(box: Box) -> None:
    status = box.status
    assert status.report is not None
    assert status.report.state is UpdateState.FAILED
    assert status.report.refusal is not None
    assert status.report.refusal.code == "by-hand"
    assert status.report.loaded is not None
    assert status.report.loaded.version == OLD
    assert status.report.loaded.manifest == status.current


def test_a_box_without_an_agent_goes_back_and_reports_it(box: Box) -> None:
    done = box.call("rollback")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{OLD} runs; {NEW} comes back with another rollout")
    check_went_back(box)


def test_a_running_agent_goes_back_and_install_brings_the_newer_one_again(
    box: Box, yard: Yard
) -> None:
    with box:
        box.start()
        box.wait_until_runs(NEW)
        done = box.call("rollback", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["version"], told["left"], told["device"]) == (OLD, NEW, "box1")
        assert re.search("asdic.rollback: the update is", done.stderr)
        check_went_back(box)
        assert box.is_running
        assert box.stop() == 0
    done = box.install(yard.stick(NEW))
    assert done.returncode == 0, done.stderr
    assert runs(box.status) == NEW


def test_an_exam_holds_the_way_back_and_now_overrides_it(box: Box) -> None:
    with box:
        box.start()
        box.wait_until_runs(NEW)
        with Application.connect(box.state.path) as program:
            program.busy(3600.0)
        asking = subprocess.Popen(
            [*AGENT, "rollback", "--state", str(box.state.path)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        box.wait_for_state(UpdateState.ROLLING_BACK)
        assert asking.stderr is not None
        lines = iter(asking.stderr.readline, "")
        assert any("an exam holds it back" in line for line in lines)
        assert runs(box.status) == NEW
        done = box.call("rollback", "--now")
        assert done.returncode == 0, done.stderr
        assert asking.wait(PATIENCE_S) == 0
        asking.stderr.close()
        check_went_back(box)
        assert box.stop() == 0


def test_now_overrides_an_exam_on_a_box_without_an_agent(box: Box, yard: Yard) -> None:
    with box:
        box.start()
        box.wait_until_runs(NEW)
        with Application.connect(box.state.path) as program:
            program.busy(3600.0)
        assert box.stop() == 0
    done = box.call("rollback", "--now")
    assert done.returncode == 0, done.stderr
    check_went_back(box)
    done = box.install(yard.stick(NEW), "--now")
    assert done.returncode == 0, done.stderr
    assert runs(box.status) == NEW


def test_nothing_to_go_back_to_is_one_clear_line(yard: Yard, tmp_path: Path) -> None:
    box = Box.make(tmp_path / "box1", roots=yard.roots)
    assert NO_WAY_BACK in says(box.call("rollback"))
    with box:
        box.start()
        box.wait_for(lambda status: status.report is not None)
        assert NO_WAY_BACK in says(box.call("rollback"))


def test_a_damaged_earlier_release_is_no_model_and_said_to_be_that(box: Box) -> None:
    model = (box.state.path / "previous").resolve() / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    line = says(box.call("rollback"))
    assert "the earlier release is damaged on this disk, so no model runs" in line
    report = box.status.report
    assert report is not None
    assert report.loaded is None


@pytest.fixture
def dock(box: Box, yard: Yard) -> Dock:
    """An update in this process on a box that runs the new release."""
    made = Dock.with_trial(yard, box.state.path.parent)
    made.program.infer(yard.manifest(NEW))
    made.until_over()
    return made


def go_back(dock: Dock) -> None:
    dock.update.send_back()
    dock.program.infer(dock.yard.manifest(OLD))
    dock.until_over()
    dock.states.clear()


def test_the_offer_that_brought_it_does_not_bring_it_again_by_itself(dock: Dock) -> None:
    offer = dock.box.state.offer.read_bytes()
    go_back(dock)
    dock.update.take_offer(offer)
    dock.until_over()
    assert dock.states == []


def test_a_new_copy_of_that_offer_does_not_bring_it_again_either(dock: Dock) -> None:
    go_back(dock)
    dock.offer(NEW)
    dock.until_over()
    assert dock.states == []


def test_another_rollout_brings_it_again(dock: Dock) -> None:
    go_back(dock)
    dock.offer(NEW, rollout="another")
    dock.until_state(UpdateState.PROBATION)


def test_going_back_by_hand_is_no_failed_probation(dock: Dock) -> None:
    go_back(dock)
    (ended,) = [
        one for one in dock.update.journal.finished if one.manifest == dock.yard.manifest(NEW)
    ]
    assert (ended.state, ended.was_tried) == (UpdateState.FAILED, False)


def test_a_higher_security_counter_closes_the_way_back(dock: Dock, yard: Yard) -> None:
    if "2.1.0" not in yard.layout.versions():
        yard.add("2.1.0", offset=0.5, security_counter=3)
    dock.commit("2.1.0")
    dock.update.stop()
    assert NO_WAY_BACK in says(dock.box.call("rollback"))


class UntilCommitted(Storage):
    """A disk whose power goes as soon as the journal says that a release is committed."""

    def write(self, path: Path, data: bytes, *, mode: int = 0o644, urgent: bool = False) -> None:
        super().write(path, data, mode=mode, urgent=urgent)
        if path.name != "journal.json":
            return
        if msgspec.json.decode(data.split(b"\n")[0], type=Journal).state is UpdateState.COMMITTED:
            raise PowerCut


def test_a_request_in_the_very_first_moment_finds_that_way_closed_too(
    dock: Dock, yard: Yard
) -> None:
    if "2.1.0" not in yard.layout.versions():
        yard.add("2.1.0", offset=0.5, security_counter=3)
    dock.update.stop()
    dock.storage = UntilCommitted()
    dock.start()
    dock.offer("2.1.0")
    dock.until_state(UpdateState.PROBATION)
    dock.program.infer(yard.manifest("2.1.0"))
    with pytest.raises(PowerCut):
        dock.turn()
    dock.storage = Storage()
    dock.start()
    assert dock.state is UpdateState.COMMITTED
    with pytest.raises(InstallError, match=NO_WAY_BACK):
        dock.update.send_back()


def test_a_request_that_an_earlier_agent_left_is_forgotten(dock: Dock) -> None:
    state, storage = dock.box.state, Storage()
    storage.make_folder(state.order.parent)
    storage.write(state.order, b'{"id":"yesterday"}')
    Requests(state, dock.update, storage).tick()
    assert dock.state is UpdateState.COMMITTED


@pytest.mark.parametrize("data", [b"", b"[]", bytes(1 << 16)])
def test_a_request_that_is_none_is_named_once_and_gone(dock: Dock, data: bytes) -> None:
    state, storage = dock.box.state, Storage()
    requests = Requests(state, dock.update, storage)
    storage.make_folder(state.order.parent)
    storage.write(state.order, data)
    with pytest.raises(ConfigError, match=re.escape(str(state.order))):
        requests.tick()
    requests.tick()
    assert dock.state is UpdateState.COMMITTED
