"""The simulated microcontroller keeps MCUboot's rules."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from asdic.contract.errors import LinkError
from asdic.firmware_bridge.image import FirmwareImageError, parse_image
from asdic.firmware_bridge.link import (
    FirmwareLink,
    FirmwareRefusalError,
    SlotState,
    WrongFirmwareError,
    is_same_version,
)
from asdic.firmware_bridge.restart import SETTLE_S, restart
from asdic.firmware_bridge.simulated_board import Boots
from asdic.firmware_bridge.simulator import UPLOAD_CHUNK_BYTES, Fault, SimulatedFirmware
from tests.support.firmware import Ticks, firmware_image

IMAGE = bytes(range(256)) * 8


def board(
    *,
    can_test_boot: bool = True,
    faults: Iterable[Fault] = (),
    boots: Boots | None = None,
    misreports: str | None = None,
) -> SimulatedFirmware:
    return SimulatedFirmware(
        clock=Ticks(),
        can_test_boot=can_test_boot,
        faults=faults,
        boots=boots,
        misreports=misreports,
    )


def test_the_simulator_is_a_firmware_link() -> None:
    link: FirmwareLink = board()
    assert link.info().version == "1.0.0"


def test_a_tested_image_runs_after_a_reset_and_stays_once_confirmed() -> None:
    link = board()
    link.mark_for_test(link.upload(IMAGE, version="1.1.0"))
    link.reset()
    assert link.info().slots[0].state is SlotState.TESTING
    link.confirm()
    link.reset()
    assert link.info().version == "1.1.0"


def test_an_unconfirmed_image_is_reverted_by_the_next_reset() -> None:
    link = board()
    link.mark_for_test(link.upload(IMAGE, version="1.1.0"))
    link.reset()
    link.reset()
    assert link.info().version == "1.0.0"


def test_a_reset_without_a_mark_changes_nothing() -> None:
    link = board()
    link.upload(IMAGE, version="1.1.0")
    link.reset()
    assert link.info().version == "1.0.0"


def test_an_interrupted_upload_goes_on_where_it_stopped() -> None:
    link = board(faults=[Fault.NONE, Fault.LOST_ANSWER])
    with pytest.raises(LinkError, match="no answer"):
        link.upload(IMAGE, version="1.1.0")
    seen: list[int] = []
    link.upload(IMAGE, version="1.1.0", progress=lambda done, _total: seen.append(done))
    assert seen[0] == UPLOAD_CHUNK_BYTES
    assert seen[-1] == len(IMAGE)


def test_an_upload_may_begin_anew() -> None:
    link = board(faults=[Fault.NONE, Fault.NONE, Fault.LOST_ANSWER])
    with pytest.raises(LinkError):
        link.upload(IMAGE, version="1.1.0")
    seen: list[int] = []
    link.upload(
        IMAGE, version="1.1.0", progress=lambda done, _total: seen.append(done), resume=False
    )
    assert seen[0] == UPLOAD_CHUNK_BYTES
    assert len(seen) == len(IMAGE) // UPLOAD_CHUNK_BYTES


def test_a_restart_in_mid_upload_forgets_it() -> None:
    link = board(faults=[Fault.NONE, Fault.NONE, Fault.RESET])
    with pytest.raises(LinkError):
        link.upload(IMAGE, version="1.1.0")
    seen: list[int] = []
    link.upload(IMAGE, version="1.1.0", progress=lambda done, _total: seen.append(done))
    assert seen[0] == UPLOAD_CHUNK_BYTES


def test_a_mark_whose_answer_was_lost_is_there() -> None:
    link = board()
    digest = link.upload(IMAGE, version="1.1.0")
    link = with_faults(link, Fault.LOST_ANSWER)
    with pytest.raises(LinkError):
        link.mark_for_test(digest)
    assert link.info().slots[1].state is SlotState.PENDING


def with_faults(link: SimulatedFirmware, *faults: Fault) -> SimulatedFirmware:
    again = board(faults=faults)
    again.board = link.board
    return again


@pytest.mark.parametrize(
    ("fault", "code"), [(Fault.BUSY, "busy"), (Fault.NO_SPACE, "no-space")], ids=str
)
def test_a_no_has_a_name(fault: Fault, code: str) -> None:
    with pytest.raises(FirmwareRefusalError) as caught:
        board(faults=[fault]).info()
    assert caught.value.code == code


def test_an_answer_that_makes_no_sense_is_a_broken_link() -> None:
    with pytest.raises(LinkError, match="makes no sense"):
        board(faults=[Fault.GARBAGE]).heartbeat()


def test_a_board_that_cannot_test_boot_says_so() -> None:
    link = board(can_test_boot=False)
    digest = link.upload(IMAGE, version="1.1.0")
    with pytest.raises(FirmwareRefusalError) as caught:
        link.mark_for_test(digest)
    assert caught.value.code == "not-supported"
    assert not link.info().can_test_boot


def test_a_board_that_cannot_test_boot_runs_what_was_uploaded_for_good() -> None:
    link = board(can_test_boot=False)
    for version in ("1.1.0", "0.9.0"):
        link.upload(IMAGE + version.encode(), version=version)
        link.reset()
        link.reset()
        assert link.info().version == version


@pytest.mark.parametrize(("version", "runs"), [("1.1.0", "1.1.0"), ("0.9.0", "1.0.0")])
def test_a_board_that_runs_from_ram_boots_the_higher_version(version: str, runs: str) -> None:
    link = board(boots=Boots.HIGHEST)
    link.upload(IMAGE, version=version)
    link.reset()
    assert link.info().version == runs


def test_an_image_larger_than_the_slot_is_refused() -> None:
    with pytest.raises(FirmwareRefusalError) as caught:
        board().upload(bytes(257 << 10), version="1.1.0")
    assert caught.value.code == "no-space"


def test_nothing_is_uploaded_while_an_image_is_tried() -> None:
    link = board()
    link.mark_for_test(link.upload(IMAGE, version="1.1.0"))
    link.reset()
    with pytest.raises(FirmwareRefusalError) as caught:
        link.upload(b"another", version="1.2.0")
    assert caught.value.code == "no-free-slot"


def test_a_board_that_says_another_version_is_not_believed() -> None:
    with pytest.raises(WrongFirmwareError, match=r"given version 1\.1\.0 and says that it is 7"):
        board(misreports="7.0.0").upload(IMAGE, version="1.1.0")


def test_an_image_is_known_as_the_bootloader_knows_it() -> None:
    image = firmware_image("1.1.0+7")
    assert board().upload(image, version="1.1.0+7") == parse_image(image).digest


def test_an_image_of_another_version_than_was_said_is_refused() -> None:
    with pytest.raises(FirmwareImageError, match=r"version 1\.1\.0, not 1\.2\.0"):
        board().upload(firmware_image("1.1.0"), version="1.2.0")


def test_a_heartbeat_begins_anew_with_a_reset() -> None:
    link = board()
    before = [link.heartbeat() for _ in range(5)][-1]
    link.reset()
    assert link.heartbeat() < before


def test_a_restart_ends_when_the_board_is_back() -> None:
    clock = Ticks()
    faults = [Fault.NONE, Fault.NONE, Fault.LOST_ANSWER, Fault.GARBAGE]
    link = SimulatedFirmware(clock=clock, faults=faults)
    link.mark_for_test(link.upload(b"x", version="1.1.0"))
    assert restart(link, clock=clock, sleep=clock.sleep).version == "1.1.0"


def test_what_is_said_before_the_restart_is_not_believed() -> None:
    """A board answers, and resets a little later: here between two questions."""
    clock = Ticks()
    link = SimulatedFirmware(clock=clock)
    link.mark_for_test(link.upload(b"x", version="1.1.0"))
    clock.sleep(100)
    late = with_faults(link)
    answers = iter(range(100))
    heartbeat = late.heartbeat

    def restarting_heartbeat() -> float:
        if next(answers) == 1:
            link.board.restart()
        return heartbeat()

    late.reset = lambda: None  # type: ignore[method-assign]
    late.heartbeat = restarting_heartbeat  # type: ignore[method-assign]
    assert restart(late, clock=clock, sleep=clock.sleep).version == "1.1.0"


def test_a_board_without_an_uptime_is_given_time_to_settle() -> None:
    clock = Ticks()
    mute = SimulatedFirmware(clock=clock)
    mute.heartbeat = lambda: 0.0  # type: ignore[method-assign]
    restart(mute, clock=clock, sleep=clock.sleep)
    assert SETTLE_S <= clock.now_s < SETTLE_S + 1


def test_a_restart_that_does_not_happen_is_no_restart() -> None:
    clock = Ticks()
    link = SimulatedFirmware(clock=clock, faults=[])
    clock.sleep(100)
    deaf = with_faults(link)
    deaf.reset = lambda: None  # type: ignore[method-assign]
    with pytest.raises(LinkError, match="without a restart"):
        restart(deaf, clock=clock, sleep=clock.sleep, patience_s=10)


def test_a_board_that_stays_away_is_not_waited_for_for_ever() -> None:
    clock = Ticks()
    link = SimulatedFirmware(clock=clock, faults=[Fault.NONE] + [Fault.LOST_ANSWER] * 100)
    with pytest.raises(LinkError, match="not back within 5 s: no answer"):
        restart(link, clock=clock, sleep=clock.sleep, patience_s=5)
    assert clock.now_s < 10


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("1.2.0", "1.2.0+0", True),
        ("1.2.0.7", "1.2.0+7", True),
        ("1.2.0", "1.2.1", False),
        ("", "1.2.0", False),
        ("odd", "odd", True),
    ],
)
def test_versions_are_compared_as_mcuboot_counts(one: str, other: str, *, same: bool) -> None:
    assert is_same_version(one, other) is same
