"""What holds for every firmware link: the one in memory, and SMP over a real socket.

``test_firmware_zephyr.py`` has the same questions for real firmware, as far as that goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from asdic.firmware_bridge.image import FirmwareImageError, parse_image
from asdic.firmware_bridge.link import (
    FirmwareLink,
    FirmwareRefusalError,
    SlotState,
    WrongFirmwareError,
)
from asdic.firmware_bridge.simulated_board import Boots
from asdic.firmware_bridge.simulator import SimulatedFirmware
from tests.support.firmware import (
    PROGRAM,
    SLOT_BYTES,
    Ticks,
    firmware_image,
    model_image,
    served,
    simulated_board,
)

Open = Callable[..., AbstractContextManager[FirmwareLink]]


@contextmanager
def in_memory(**facts: Any) -> Iterator[FirmwareLink]:
    yield SimulatedFirmware(**{"clock": Ticks(), "slot_bytes": SLOT_BYTES, **facts})


@contextmanager
def over_udp(**facts: Any) -> Iterator[FirmwareLink]:
    with served(simulated_board(**facts)) as (link, _):
        yield link


@pytest.fixture(params=[in_memory, over_udp], ids=["in-memory", "smp-over-udp"])
def opened(request: pytest.FixtureRequest) -> Open:
    found: Open = request.param
    return found


def test_info_says_what_runs(opened: Open) -> None:
    with opened() as link:
        found = link.info()
    assert (found.board, found.version, found.can_test_boot) == ("simulated", "1.0.0", True)
    assert (found.slots[0].number, found.slots[0].state) == (0, SlotState.CONFIRMED)
    assert found.boot_mode == "swap"
    assert {"image", "uptime"} <= set(found.capabilities)


def test_an_upload_is_there_afterwards_and_does_not_run(opened: Open) -> None:
    image, seen = firmware_image("1.1.0+7"), []
    with opened() as link:
        digest = link.upload(
            image, version="1.1.0+7", progress=lambda done, total: seen.append((done, total))
        )
        found = link.info()
    assert digest == parse_image(image).digest
    assert (found.slots[1].version, found.slots[1].digest) == ("1.1.0+7", digest)
    assert (found.slots[1].state, found.version) == (SlotState.INACTIVE, "1.0.0")
    assert seen == sorted(seen)
    assert seen[-1] == (len(image), len(image))


def test_what_is_there_is_not_sent_again(opened: Open) -> None:
    image, seen = firmware_image(), []
    with opened() as link:
        link.upload(image, version="1.1.0")
        link.upload(image, version="1.1.0", progress=lambda done, _total: seen.append(done))
    assert seen == [len(image)]


def test_it_is_sent_again_where_that_is_asked_for(opened: Open) -> None:
    image, seen = firmware_image(), []
    with opened() as link:
        link.upload(image, version="1.1.0")
        link.upload(
            image, version="1.1.0", progress=lambda done, _total: seen.append(done), resume=False
        )
    assert len(seen) > 5


def test_what_runs_is_never_erased_for_a_new_start(opened: Open) -> None:
    with opened(boots=Boots.HIGHEST) as link:
        link.upload(firmware_image("1.1.0"), version="1.1.0")
        link.reset()
        link.upload(firmware_image("1.2.0"), version="1.2.0", resume=False)
        assert [slot.version for slot in link.info().slots] == ["1.2.0", "1.1.0"]
        assert link.info().version == "1.1.0"


def test_an_upload_ends_where_its_progress_says_so_and_goes_on(opened: Open) -> None:
    image, before, after = firmware_image(), [], []

    def stop(done: int, _total: int) -> None:
        before.append(done)
        if len(before) == 4:
            raise KeyboardInterrupt

    with opened() as link:
        with pytest.raises(KeyboardInterrupt):
            link.upload(image, version="1.1.0", progress=stop)
        link.upload(image, version="1.1.0", progress=lambda done, _total: after.append(done))
    assert after[0] >= before[-1]
    assert after[-1] == len(image)


def test_a_tested_image_is_tried_once_and_kept_once_confirmed(opened: Open) -> None:
    with opened() as link:
        digest = link.upload(firmware_image(), version="1.1.0")
        link.mark_for_test(digest)
        assert link.info().slots[1].state is SlotState.PENDING
        link.reset()
        assert [slot.state for slot in link.info().slots] == [SlotState.TESTING, SlotState.INACTIVE]
        link.confirm()
        link.reset()
        assert (link.info().version, link.info().slots[0].state) == ("1.1.0", SlotState.CONFIRMED)


def test_what_is_not_confirmed_is_reverted(opened: Open) -> None:
    with opened() as link:
        link.mark_for_test(link.upload(firmware_image(), version="1.1.0"))
        link.reset()
        link.reset()
        assert link.info().version == "1.0.0"
        assert link.info().slots[0].state is SlotState.CONFIRMED


def test_to_confirm_twice_is_to_confirm_once(opened: Open) -> None:
    with opened() as link:
        link.confirm()
        link.confirm()
        assert link.info().slots[0].state is SlotState.CONFIRMED


@pytest.mark.parametrize("boots", [Boots.UPLOADED, Boots.HIGHEST])
def test_a_bootloader_that_cannot_test_refuses_by_name(opened: Open, boots: Boots) -> None:
    with opened(boots=boots) as link:
        assert not link.info().can_test_boot
        digest = link.upload(firmware_image(), version="1.1.0")
        with pytest.raises(FirmwareRefusalError) as caught:
            link.mark_for_test(digest)
        assert caught.value.code == "not-supported"
        link.reset()
        assert link.info().version == "1.1.0"
        assert all(slot.state is not SlotState.TESTING for slot in link.info().slots)


def test_an_image_that_is_not_there_cannot_be_tested(opened: Open) -> None:
    with opened() as link, pytest.raises(FirmwareRefusalError) as caught:
        link.mark_for_test("ab" * 32)
    assert caught.value.code == "hash-not-found"


def test_an_image_larger_than_the_slot_is_refused(opened: Open) -> None:
    with opened(slot_bytes=4096) as link, pytest.raises(FirmwareRefusalError) as caught:
        link.upload(firmware_image(), version="1.1.0")
    assert caught.value.code == "no-space"


def test_a_board_that_says_another_version_is_not_believed(opened: Open) -> None:
    with opened(misreports="9.9.9") as link, pytest.raises(WrongFirmwareError) as caught:
        link.upload(firmware_image(), version="1.1.0")
    assert "1.1.0" in str(caught.value)
    assert "9.9.9" in str(caught.value)


def test_an_image_is_what_was_said_of_it(opened: Open) -> None:
    with opened() as link, pytest.raises(FirmwareImageError, match=r"1\.1\.0, not 1\.2\.0"):
        link.upload(firmware_image(), version="1.2.0")


def test_a_model_is_updated_beside_the_firmware(opened: Open) -> None:
    image = model_image()
    with opened(partitions=1) as link:
        digest = link.upload(image, version="3.0.0", number=1)
        link.mark_for_test(digest)
        link.reset()
        found = link.info()
        assert (found.version, found.slots[0].state) == ("1.0.0", SlotState.CONFIRMED)
        model = next(slot for slot in found.slots if slot.digest == digest)
        assert (model.number, model.state, model.bootable) == (2, SlotState.TESTING, False)
        link.confirm()
        link.reset()
        model = next(slot for slot in link.info().slots if slot.digest == digest)
        assert model.state is SlotState.CONFIRMED


def test_a_board_without_a_partition_refuses_a_model_by_name(opened: Open) -> None:
    with opened() as link, pytest.raises(FirmwareRefusalError) as caught:
        link.upload(model_image(), version="3.0.0", number=1)
    assert caught.value.code == "invalid-slot"


def test_a_heartbeat_begins_anew_with_a_reset(opened: Open) -> None:
    with opened() as link:
        before = [link.heartbeat() for _ in range(40)][-1]
        link.reset()
        assert 0 < link.heartbeat() < before


def test_over_smp_only_a_whole_image_is_sent() -> None:
    with served() as (link, server):
        for image in (PROGRAM, firmware_image()[:-1]):
            with pytest.raises(FirmwareImageError):
                link.upload(image, version="1.1.0")
        assert server.requests == 0
