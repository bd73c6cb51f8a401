"""Model and firmware as one update: the way, its order, and what only interrupts it."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path

import pytest

from asdic.contract.messages import UpdateState
from asdic.firmware_bridge.connect import open_link
from asdic.firmware_bridge.image import parse_image
from asdic.firmware_bridge.simulator import Fault
from asdic.firmware_bridge.smp_server import SmpServer
from asdic.fleet.needs import FirmwareFile
from tests.support.boards import FIRST, digest_of_image
from tests.support.dock import Dock, docked
from tests.support.firmware import firmware_image, simulated_board
from tests.support.firmware_yard import MORE, Cable
from tests.support.yard import Yard


def test_model_and_firmware_go_live_together(dock: Dock, cable: Cable) -> None:
    dock.install("2.0.0")
    assert (dock.state, dock.current) == (UpdateState.COMMITTED, "2.0.0"), dock.reason
    assert cable.board.running == cable.board.lasting == digest_of_image(MORE)


def test_the_firmware_is_tried_before_the_model_is_switched_and_kept_after_it(
    dock: Dock, cable: Cable
) -> None:
    seen: list[tuple[str, str | None]] = []
    assert cable.wire is not None
    cable.wire.after = lambda _number, name: seen.append((name, dock.current))
    dock.install("2.0.0")
    done = [one for one in seen if one[0] in {"upload", "mark_for_test", "reset", "confirm"}]
    assert done == [
        ("upload", "1.0.0"),
        ("mark_for_test", "1.0.0"),
        ("reset", "1.0.0"),
        ("confirm", "2.0.0"),
    ]


def test_a_release_that_fits_the_firmware_asks_nothing_of_it(dock: Dock, cable: Cable) -> None:
    dock.install("3.0.0")
    assert (dock.state, dock.current) == (UpdateState.COMMITTED, "3.0.0"), dock.reason
    assert cable.wire is not None
    assert set(cable.wire.names) == {"info", "heartbeat"}


def test_firmware_that_runs_already_is_left_alone(dock: Dock, cable: Cable) -> None:
    dock.install("1.0.1")
    assert dock.state is UpdateState.COMMITTED, dock.reason
    assert cable.wire is not None
    assert set(cable.wire.names) == {"info", "heartbeat"}


@pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.GARBAGE, Fault.BUSY, Fault.RESET])
def test_an_upload_that_fails_goes_on(dock: Dock, cable: Cable, fault: Fault) -> None:
    dock.until_state(UpdateState.COMMITTED)
    cable.board.fail_next(*[Fault.NONE] * 5, fault)
    dock.install("2.0.0")
    assert (dock.state, dock.current) == (UpdateState.COMMITTED, "2.0.0"), dock.reason


def test_an_exam_keeps_the_microcontroller_from_a_reset(dock: Dock, cable: Cable) -> None:
    assert cable.wire is not None
    wire = cable.wire

    def exam(_number: int, name: str) -> None:
        dock.program.busy = dock.program.busy or name == "mark_for_test"

    wire.after = exam
    dock.offer("2.0.0")
    dock.until(lambda: dock.program.busy)
    dock.go_on(10_000.0)
    assert dock.state is UpdateState.ACTIVATING
    assert cable.board.running == digest_of_image(FIRST)
    wire.after = lambda _number, _name: None
    dock.program.busy = False
    dock.until_over()
    assert dock.current == "2.0.0", dock.reason


def test_an_exam_interrupts_an_upload_which_goes_on_later(dock: Dock, cable: Cable) -> None:
    assert cable.wire is not None
    begun = threading.Event()

    def slow(_number: int, name: str) -> None:
        if name == "chunk" and not begun.is_set():
            begun.set()
            stopped.wait(5.0)

    stopped = threading.Event()
    cable.wire.before = slow
    dock.offer("2.0.0")
    dock.until(begun.is_set)
    dock.program.busy = True
    dock.turn()
    stopped.set()
    dock.until(lambda: not dock.update._work.microcontroller._asked.is_open)  # type: ignore[union-attr]
    assert cable.board.info().slots[1].digest is None
    dock.program.busy = False
    dock.until_over()
    assert dock.current == "2.0.0", dock.reason
    assert cable.wire.names.count("upload") == 2


def test_the_whole_way_over_smp_with_a_real_image(tmp_path: Path) -> None:
    image = tmp_path / "firmware.bin"
    image.write_bytes(firmware_image("1.1.0"))
    digest = parse_image(image.read_bytes()).digest
    yard = Yard(tmp_path / "yard")
    yard.add("1.0.0")
    firmware = FirmwareFile(path=image, board="simulated", version="1.1.0", digest=digest)
    yard.add("2.0.0", firmware=firmware)
    with SmpServer(simulated_board()) as server:
        link = partial(open_link, server.address, timeout_s=0.5)
        with docked(Dock(yard, tmp_path, open_link=link)) as dock:
            dock.install("1.0.0")
            dock.install("2.0.0")
            assert (dock.state, dock.current) == (UpdateState.COMMITTED, "2.0.0"), dock.reason
            assert (server.board.version, server.board.slots()[0].digest) == ("1.1.0", digest)
            dock.update.send_back()
            dock.until_over()
        server.board.restart()
        assert (server.board.version, dock.code) == ("1.0.0", "by-hand")
