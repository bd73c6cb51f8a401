"""Model and firmware as one update, on a real disk: the way, each refusal, and what goes wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from asdic.contract.errors import LinkError
from asdic.contract.messages import UpdateState
from asdic.contract.variant import FrameFormat, Requirements
from asdic.device.config import FirmwareConfig
from asdic.firmware_bridge.connect import open_link
from asdic.firmware_bridge.frame_writer import FrameWriter
from asdic.firmware_bridge.image import parse_image
from asdic.firmware_bridge.link import FirmwareLink
from asdic.firmware_bridge.simulated_board import Boots
from asdic.firmware_bridge.simulator import Fault
from asdic.firmware_bridge.smp_server import SmpServer
from asdic.fleet.needs import FirmwareFile
from tests.support.boards import BOARD, FIRST, Board, Wire, digest_of_image, firmware_file
from tests.support.dock import Dock, docked
from tests.support.firmware import firmware_image, simulated_board
from tests.support.yard import Yard

SMALL = FrameFormat(height=8, width=16)
LARGE = FrameFormat(height=16, width=16)
MORE = "1.1.0"
DEAD = "1.3.0"
RE_UPLOAD = FirmwareConfig(without_test_boot="re-upload", patience_s=60.0)


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    made = Yard(tmp_path_factory.mktemp("yard"))
    firmware = {
        version: firmware_file(made.folder.parent, version) for version in (FIRST, MORE, DEAD)
    }
    needs = Requirements
    made.add("1.0.0")
    made.add("1.0.1", firmware=firmware[FIRST])
    made.add("2.0.0", firmware=firmware[MORE])
    made.add("2.1.0", firmware=firmware[MORE], requires=needs(frames=LARGE))
    made.add("2.2.0", firmware=firmware[DEAD])
    made.add("3.0.0", requires=needs(firmware=">=1.0.0,<2.0.0", board=BOARD))
    made.add("3.1.0", requires=needs(firmware=">=1.1.0"))
    made.add("3.2.0", requires=needs(board="another"))
    made.add("3.3.0", requires=needs(frames=SMALL))
    return made


class Cable:
    """The link to a board, which may be pulled."""

    def __init__(self, board: Board | None) -> None:
        self.wire = Wire(board) if board is not None else None
        self.is_pulled = board is None

    @property
    def board(self) -> Board:
        assert self.wire is not None
        return self.wire.board

    @contextmanager
    def opened(self) -> Iterator[FirmwareLink]:
        if self.is_pulled or self.wire is None:
            raise LinkError("no answer from 192.0.2.7")
        yield self.wire


@pytest.fixture
def cable() -> Cable:
    return Cable(Board(dead=[DEAD]))


@pytest.fixture
def dock(yard: Yard, cable: Cable, tmp_path: Path) -> Iterator[Dock]:
    with docked(Dock(yard, tmp_path, open_link=cable.opened)) as made:
        made.install("1.0.0")
        made.states.clear()
        made.stick.followed.clear()
        yield made


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


@pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.GARBAGE, Fault.BUSY, Fault.RESET])
def test_an_upload_that_fails_goes_on(dock: Dock, cable: Cable, fault: Fault) -> None:
    dock.until_state(UpdateState.COMMITTED)
    cable.board.fail_next(*[Fault.NONE] * 5, fault)
    dock.install("2.0.0")
    assert (dock.state, dock.current) == (UpdateState.COMMITTED, "2.0.0"), dock.reason


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


def test_a_box_whose_firmware_somebody_changed_says_so(dock: Dock, cable: Cable) -> None:
    dock.install("2.0.0")
    cable.board.upload(b"by hand", version="5.0.0")
    cable.board.mark_for_test(cable.board.info().slots[1].digest or "")
    cable.board.reset()
    cable.board.confirm()
    dock.offer("2.0.0", rollout="again")
    dock.turn()
    dock.until_over()
    assert (dock.state, dock.code) == (UpdateState.REJECTED, "firmware-differs")
    assert "firmware 5.0.0 instead of its 1.1.0" in dock.reason


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


Frames = Callable[[FrameFormat], None]


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    return tmp_path / "ring"


@pytest.fixture
def play(ring: Path) -> Iterator[Frames]:
    """Returns what begins to write frames of a format, in the place of others."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def write(frames: FrameFormat) -> None:
        with FrameWriter(ring, frames, slots=4) as writer:
            pixels = np.zeros((frames.height, frames.width), np.uint8)
            while not stop.wait(0.01):
                writer.write(pixels, time.monotonic())

    def begin(frames: FrameFormat) -> None:
        end()
        stop.clear()
        threads.append(threading.Thread(target=write, args=(frames,)))
        threads[-1].start()

    def end() -> None:
        stop.set()
        for thread in threads:
            thread.join()

    yield begin
    end()


@pytest.fixture
def with_ring(yard: Yard, cable: Cable, ring: Path, tmp_path: Path) -> Iterator[Dock]:
    with docked(Dock(yard, tmp_path, open_link=cable.opened, ring=ring)) as made:
        made.install("1.0.0")
        yield made


def test_a_ring_that_carries_other_frames_is_a_refusal(with_ring: Dock, play: Frames) -> None:
    play(LARGE)
    with_ring.offer("3.3.0")
    with_ring.turn()
    with_ring.until_over()
    assert (with_ring.state, with_ring.code) == (UpdateState.REJECTED, "wrong-frames")
    assert with_ring.reason == (
        "the model needs frames of 8 x 16 uint8 grey, the ring carries 16 x 16 uint8 grey"
    )


def test_a_ring_that_is_not_there_yet_is_waited_for(with_ring: Dock, play: Frames) -> None:
    with_ring.offer("3.3.0")
    with_ring.until(lambda: with_ring.update._work.visit.trouble is not None)
    assert with_ring.state is UpdateState.OFFERED
    play(SMALL)
    with_ring.until_over()
    assert with_ring.current == "3.3.0", with_ring.reason


def test_a_ring_that_never_comes_is_named(with_ring: Dock) -> None:
    with_ring.offer("3.3.0")
    with_ring.until(lambda: with_ring.update._work.visit.trouble is not None)
    with_ring.go_on(130.0)
    assert (with_ring.state, with_ring.code) == (UpdateState.FAILED, "frames-silent")


def test_new_firmware_is_kept_once_frames_of_its_format_came(
    with_ring: Dock, cable: Cable, play: Frames
) -> None:
    play(SMALL)
    with_ring.offer("2.1.0")
    with_ring.until_state(UpdateState.PROBATION)
    play(LARGE)
    with_ring.until_over()
    assert with_ring.current == "2.1.0", with_ring.reason
    assert cable.board.lasting == digest_of_image(MORE)


@pytest.mark.parametrize(("frames", "code"), [(SMALL, "wrong-frames"), (None, "frames-silent")])
def test_new_firmware_without_its_frames_goes_back(
    with_ring: Dock, cable: Cable, play: Frames, frames: FrameFormat | None, code: str
) -> None:
    if frames is not None:
        play(frames)
    with_ring.offer("2.1.0")
    with_ring.until_state(UpdateState.PROBATION)
    with_ring.until(lambda: with_ring.update._work.visit.trouble is not None)
    with_ring.go_on(200.0)
    with_ring.until_over()
    assert (with_ring.code, with_ring.current) == (code, "1.0.0")
    assert cable.board.lasting == digest_of_image(FIRST)
