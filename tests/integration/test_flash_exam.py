"""A flash sees an exam as the agent does: by what the program on the box has said."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from asdic.device.application import Application, CurrentRelease
from asdic.device.application_socket import ApplicationSocket
from asdic.device.config import StateFolder
from asdic.fleet.flash.on_box import activate, probe


def test_an_exam_lasts_until_its_time_is_over_or_the_machine_starts_anew(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "box")
    state.path.mkdir()
    socket = ApplicationSocket(state.application, CurrentRelease)
    socket.start()
    with closing(socket), Application.connect(state.path) as program:
        program.busy(600.0)
    order = {"state": str(state.path), "now": False}
    assert 590 < activate.busy_s(order) <= 600
    assert 590 < probe.busy_s(state.path) <= 600
    assert activate.busy_s({**order, "now": True}) == 0
    busy = state.application / "busy.json"
    busy.write_text(busy.read_text().replace('"boot":"', '"boot":"0'))
    assert (activate.busy_s(order), probe.busy_s(state.path)) == (0, 0)
