"""Model and firmware go back together, whichever of the two failed."""

from __future__ import annotations

from pathlib import Path

from asdic.contract.messages import UpdateState
from tests.support.boards import FIRST, Board, digest_of_image
from tests.support.dock import Dock, docked
from tests.support.firmware_yard import MORE, Cable
from tests.support.yard import Yard


def test_firmware_that_does_not_come_up_leaves_the_old_pair(dock: Dock, cable: Cable) -> None:
    dock.install("2.2.0")
    assert (dock.state, dock.code, dock.current) == (
        UpdateState.FAILED, "firmware-not-booted", "1.0.0"
    )  # fmt: skip
    assert (
        dock.reason
        == "the microcontroller did not come up with firmware 1.3.0; it runs 1.0.0 again"
    )
    assert cable.board.lasting == digest_of_image(FIRST)


def test_a_board_that_reports_another_version_is_not_believed(yard: Yard, tmp_path: Path) -> None:
    cable = Cable(Board(misreports="7.7.7"))
    with docked(Dock(yard, tmp_path, open_link=cable.opened)) as dock:
        dock.install("1.0.0")
        dock.install("2.0.0")
        assert (dock.state, dock.code) == (UpdateState.FAILED, "wrong-firmware")
        assert "given version 1.1.0 and says that it is 7.7.7" in dock.reason
        assert dock.current == "1.0.0"
        assert cable.board.lasting == digest_of_image(FIRST)


def test_a_model_that_fails_in_use_takes_the_firmware_back_with_it(
    dock: Dock, cable: Cable
) -> None:
    dock.program.follows = False
    dock.offer("2.0.0")
    dock.until_state(UpdateState.PROBATION)
    assert cable.board.running == digest_of_image(MORE)
    dock.program.errors, dock.program.follows = 1, True
    dock.until_state(UpdateState.ROLLING_BACK)
    dock.program.errors = 0
    dock.until_over()
    assert (dock.state, dock.code, dock.current) == (UpdateState.FAILED, "unhealthy", "1.0.0")
    assert cable.board.lasting == digest_of_image(FIRST)


def test_firmware_that_reverts_in_probation_takes_the_model_back_with_it(
    dock: Dock, cable: Cable
) -> None:
    dock.program.follows = False
    dock.offer("2.0.0")
    dock.until_state(UpdateState.PROBATION)
    cable.board.board.restart()  # its power was away
    dock.until_state(UpdateState.ROLLING_BACK)
    dock.program.follows = True
    dock.until_over()
    assert (dock.code, dock.current) == ("firmware-reverted", "1.0.0")
    assert dock.reason == "the microcontroller runs firmware 1.0.0 again, not 1.1.0"


def test_a_pair_goes_back_by_hand(dock: Dock, cable: Cable) -> None:
    dock.install("2.0.0")
    dock.update.send_back()
    dock.until_over()
    assert (dock.state, dock.code, dock.current) == (UpdateState.FAILED, "by-hand", "1.0.0")
    assert cable.board.lasting == digest_of_image(FIRST)


def test_a_damaged_journal_takes_both_back(dock: Dock, cable: Cable) -> None:
    dock.program.follows = False
    dock.offer("2.0.0")
    dock.until_state(UpdateState.PROBATION)
    dock.update.stop()
    dock.box.state.journal.write_bytes(b"{")
    dock.program.follows = True
    dock.start()
    dock.until_over()
    assert (dock.code, dock.current) == ("journal", "1.0.0")
    assert cable.board.lasting == digest_of_image(FIRST)


def test_a_microcontroller_that_is_gone_in_a_rollback_is_not_guessed_at(
    dock: Dock, cable: Cable
) -> None:
    dock.program.follows = False
    dock.offer("2.0.0")
    dock.until_state(UpdateState.PROBATION)
    cable.is_pulled = True
    dock.go_on(200.0)
    dock.until_state(UpdateState.ROLLING_BACK)
    dock.go_on(200.0)
    assert dock.current == "2.0.0"
    dock.until_state(UpdateState.INCONSISTENT)
