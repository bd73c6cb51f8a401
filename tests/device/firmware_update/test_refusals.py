"""What a release with firmware or needs is refused for, before anything is downloaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from asdic.contract.messages import UpdateState
from asdic.device.config import FirmwareConfig
from asdic.firmware_bridge.simulated_board import Boots
from tests.support.boards import BOARD, FIRST, Board, digest_of_image
from tests.support.dock import Dock, docked
from tests.support.firmware_yard import MORE, RE_UPLOAD, Cable
from tests.support.yard import Yard


def on_trial() -> Board:
    board = Board()
    board.upload(b"foreign", version="9.0.0")
    board.mark_for_test(board.info().slots[1].digest or "")
    return board


def small_slot() -> Board:
    board = Board()
    board.board.slot_bytes = 1_000
    return board


def named(board: str = BOARD, version: str | None = None) -> Board:
    made = Board()
    made.board.name = board
    if version is not None:
        made.board.claim(version)
    return made


@pytest.mark.parametrize(
    ("version", "board", "code", "sentence"),
    [
        ("2.0.0", None, "no-firmware-link", "this box knows none"),
        ("3.0.0", None, "no-firmware-link", "name its address as `link`"),
        ("3.1.0", Board(), "wrong-firmware", "needs firmware >=1.1.0, the microcontroller runs 1"),
        ("3.2.0", Board(), "wrong-board", "'another', the microcontroller is 'nucleo_h743zi'"),
        ("2.0.0", named("another"), "wrong-board", "'nucleo_h743zi', the microcontroller is 'anot"),
        ("2.0.0", named(""), "board-unknown", "does not say what it is"),
        ("3.1.0", named(version="main-abc"), "firmware-unknown", "'main-abc', which is no version"),
        ("2.0.0", small_slot(), "firmware-too-large", "1500 bytes, a slot of nucleo_h743zi has 10"),
        ("2.0.0", on_trial(), "firmware-on-trial", "confirm or revert it"),
        ("2.0.0", Board(boots=Boots.UPLOADED), "no-test-boot", '`without_test_boot = "re-upload"`'),
        ("2.0.0", Board(tells_mode=False), "no-way-back", "has not said that it reverts"),
        ("3.3.0", Board(), "no-frame-ring", "this box knows no frame ring"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_any_download(
    yard: Yard, tmp_path: Path, version: str, board: Board | None, code: str, sentence: str
) -> None:
    link = Cable(board).opened if board is not None else None
    with docked(Dock(yard, tmp_path, open_link=link)) as dock:
        dock.install(version)
        assert dock.states == [UpdateState.OFFERED, UpdateState.REJECTED]
        assert dock.code == code
        assert sentence in dock.reason
        assert dock.stick.followed == []


def test_without_a_boot_on_trial_there_must_be_a_way_back(yard: Yard, tmp_path: Path) -> None:
    cable = Cable(Board(boots=Boots.UPLOADED))
    with docked(Dock(yard, tmp_path, open_link=cable.opened, firmware=RE_UPLOAD)) as dock:
        dock.install("2.0.0")
        assert dock.code == "no-way-back"
        assert "install a release that brings that firmware first" in dock.reason
        dock.install("1.0.1")
        dock.install("2.0.0")
        assert (dock.state, dock.current) == (UpdateState.COMMITTED, "2.0.0"), dock.reason
        assert cable.board.lasting == digest_of_image(MORE)


@pytest.mark.parametrize(
    ("policy", "code", "firmware"),
    [(FirmwareConfig(patience_s=60.0), "no-test-boot", FIRST), (RE_UPLOAD, "", MORE)],
)
def test_a_board_may_say_only_when_asked_to_that_it_cannot_boot_on_trial(
    yard: Yard, tmp_path: Path, policy: FirmwareConfig, code: str, firmware: str
) -> None:
    cable = Cable(Board(boots=Boots.UPLOADED, tells_mode=False))
    with docked(Dock(yard, tmp_path, open_link=cable.opened, firmware=policy)) as dock:
        dock.install("1.0.1")
        dock.install("2.0.0")
        assert dock.code == code
        assert dock.current == ("1.0.1" if code else "2.0.0")
        assert cable.board.lasting == digest_of_image(firmware)


def test_nothing_leads_back_on_a_board_that_boots_the_highest_version(
    yard: Yard, tmp_path: Path
) -> None:
    cable = Cable(Board(boots=Boots.HIGHEST))
    with docked(Dock(yard, tmp_path, open_link=cable.opened, firmware=RE_UPLOAD)) as dock:
        dock.install("1.0.1")
        dock.install("2.0.0")
        assert dock.code == "no-way-back"
        assert "boots the highest version" in dock.reason


def test_a_silent_microcontroller_is_asked_until_the_deadline(dock: Dock, cable: Cable) -> None:
    cable.is_pulled = True
    dock.offer("3.0.0")
    dock.until(lambda: dock.update._work.visit.trouble is not None)
    assert dock.state is UpdateState.OFFERED
    dock.go_on(130.0)
    assert (dock.state, dock.code) == (UpdateState.FAILED, "firmware-silent")
    assert dock.reason == "the microcontroller does not answer: no answer from 192.0.2.7"
    assert dock.stick.followed == []


def test_a_microcontroller_that_answers_in_time_is_enough(dock: Dock, cable: Cable) -> None:
    cable.is_pulled = True
    dock.offer("3.0.0")
    dock.until(lambda: dock.update._work.visit.trouble is not None)
    cable.is_pulled = False
    dock.until_over()
    assert (dock.state, dock.current) == (UpdateState.COMMITTED, "3.0.0"), dock.reason


def test_a_box_whose_firmware_somebody_changed_says_so(dock: Dock, cable: Cable) -> None:
    dock.install("2.0.0")
    cable.board.upload(b"by hand", version="5.0.0")
    cable.board.mark_for_test(cable.board.info().slots[1].digest or "")
    cable.board.reset()
    cable.board.confirm()
    dock.offer("2.0.0", rollout="again")
    dock.until_over()
    assert (dock.state, dock.code) == (UpdateState.REJECTED, "firmware-differs")
    assert "firmware 5.0.0 instead of its 1.1.0" in dock.reason
