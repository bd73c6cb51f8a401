"""A flash sees an exam as the agent does: by what the program on the box has said."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from asdic.device.application import Application, CurrentRelease
from asdic.device.application_socket import ApplicationSocket
from asdic.device.config import StateFolder
from asdic.fleet.flash.on_box import activate, own


def test_an_exam_lasts_until_its_time_is_over_or_the_machine_starts_anew(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "box")
    state.path.mkdir()
    socket = ApplicationSocket(state.application, CurrentRelease)
    socket.start()
    with closing(socket), Application.connect(state.path) as program:
        program.busy(600.0)
    order = {"state": str(state.path), "now": False}
    assert 590 < own.busy_s(state.path) <= 600
    assert activate.is_disturbed(order)
    assert not activate.is_disturbed({**order, "now": True})
    busy = state.application / "busy.json"
    busy.write_text(busy.read_text().replace('"boot":"', '"boot":"0'))
    assert (own.busy_s(state.path), activate.is_disturbed(order)) == (0, False)
