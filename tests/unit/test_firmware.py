"""The simulated microcontroller keeps MCUboot's rules."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from asdic.contract.errors import LinkError
from asdic.firmware_bridge.link import FirmwareLink, FirmwareRefusalError, SlotState
from asdic.firmware_bridge.simulator import UPLOAD_CHUNK_BYTES, Fault, SimulatedFirmware

IMAGE = bytes(range(256)) * 8


def board(*, can_test_boot: bool = True, faults: Iterable[Fault] = ()) -> SimulatedFirmware:
    ticks = iter(range(1_000))
    return SimulatedFirmware(
        clock=lambda: float(next(ticks)), can_test_boot=can_test_boot, faults=faults
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


def test_an_interrupted_upload_goes_on_where_it_stopped() -> None:
    link = board(faults=[Fault.LOST_ANSWER])
    with pytest.raises(LinkError, match="no answer"):
        link.upload(IMAGE, version="1.1.0")
    seen: list[int] = []
    link.upload(IMAGE, version="1.1.0", progress=lambda done, _total: seen.append(done))
    assert seen[0] == UPLOAD_CHUNK_BYTES
    assert seen[-1] == len(IMAGE)


def test_a_busy_board_refuses_by_name() -> None:
    with pytest.raises(FirmwareRefusalError, match="busy") as caught:
        board(faults=[Fault.BUSY]).info()
    assert caught.value.code == "busy"


def test_a_board_that_cannot_test_boot_says_so() -> None:
    link = board(can_test_boot=False)
    digest = link.upload(IMAGE, version="1.1.0")
    with pytest.raises(FirmwareRefusalError) as caught:
        link.mark_for_test(digest)
    assert caught.value.code == "not-supported"


def test_an_image_larger_than_the_slot_is_refused() -> None:
    with pytest.raises(FirmwareRefusalError) as caught:
        board().upload(bytes(257 << 10), version="1.1.0")
    assert caught.value.code == "no-space"
