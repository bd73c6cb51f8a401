"""Real agents on a box whose model is damaged, and on one that a newer agent has worked on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asdic.contract.files import canonical_json
from asdic.contract.messages import Report, UpdateState
from asdic.device.reports import read_last_report
from asdic.device.update.sealed import SCHEMA, seal_line, unseal_line
from tests.support.boxes import PATIENCE_S, POLL_S, Box, runs
from tests.support.yard import Yard

OLD = "1.0.0"
NEW = "1.1.0"


@pytest.fixture
def box(updated_box: Box) -> Box:
    return updated_box


def flip_a_byte(release: Path) -> None:
    """Damage the model of a release under all its names."""
    path = release.resolve() / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def reports_of(box: Box) -> Iterator[Report]:
    """Yield the reports of the agent that runs now, as they come, but for those that come at once.

    Raises:
        AssertionError: None came for too long.
    """
    before = last = read_last_report(box.state)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        report = read_last_report(box.state)
        if report not in {before, last} and report is not None:
            yield report
            last = report
        time.sleep(POLL_S)
    raise AssertionError(f"no more reports after {last}\n{box.words}")


def test_a_damaged_model_never_runs_and_the_box_goes_back_and_says_why(
    box: Box, yard: Yard
) -> None:
    flip_a_byte(box.state.path / "current")
    box.start()
    ran: list[str | None] = []
    for report in reports_of(box):
        ran.append(report.loaded.version if report.loaded else None)
        if report.state is UpdateState.FAILED:
            break
    assert set(ran) == {None, OLD}
    assert ran[-1] == OLD
    assert report.refusal is not None
    assert report.refusal.code == "damaged"
    assert "the current model is damaged on this disk" in report.refusal.message
    box.wait_for_state(UpdateState.FETCHING)
    assert box.stop() == 0
    done = box.install(yard.stick(NEW))
    assert done.returncode == 0, done.stderr
    assert runs(box.status) == NEW


def test_an_older_agent_leaves_the_model_running_and_all_else_alone(box: Box, yard: Yard) -> None:
    content = json.loads(unseal_line(box.state.journal.read_bytes(), what="journal"))
    changed = {**content, "schema": SCHEMA + 1, "state": "levitating"}
    box.state.journal.write_bytes(seal_line(canonical_json(changed)))
    before = box.state.journal.read_bytes()
    box.start()
    for report in reports_of(box):
        if report.loaded is not None:
            break
    assert report.loaded is not None
    assert report.loaded.version == NEW
    assert report.refusal is not None
    assert report.refusal.code == "newer-schema"
    assert box.stop() == 0
    done = box.install(yard.stick(OLD))
    assert done.returncode == 1
    assert f"is of schema {SCHEMA + 1}, this agent knows {SCHEMA}" in done.stderr
    assert box.state.journal.read_bytes() == before
    assert (box.state.path / "current").readlink().name in yard.manifest(NEW)
