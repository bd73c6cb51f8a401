"""The link against real firmware: Zephyr's SMP server over UDP, MCUboot in an emulated board."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from asdic.contract.errors import LinkError
from asdic.firmware_bridge.connect import open_link, parse_address
from asdic.firmware_bridge.image import FirmwareImageError, parse_image
from asdic.firmware_bridge.image_gate import check_fits
from asdic.firmware_bridge.image_keys import KeyKind, make_key
from asdic.firmware_bridge.link import FirmwareInfo, FirmwareRefusalError, SlotState
from asdic.firmware_bridge.restart import restart
from asdic.firmware_bridge.smp_link import SmpLink
from asdic.firmware_bridge.smp_session import SmpSession
from tests.conftest import missing
from tests.support.zephyr import (
    QEMU,
    mcuboot_board,
    next_version,
    unavailable_mcuboot,
    unavailable_native,
    unavailable_network,
    zephyr_board,
    zephyr_console,
)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if reason := unavailable_native() or unavailable_network():
        missing(reason)
    with zephyr_board(tmp_path_factory.mktemp("native")) as address:
        yield address


def test_zephyr_says_what_it_is_and_what_it_cannot(native: str) -> None:
    with open_link(native, timeout_s=0.5) as link:
        found = link.info()
        uptime_s = link.heartbeat()
    assert found.board == "native_sim/native"
    assert (found.version, found.slots, found.can_test_boot) == ("", (), False)
    assert {"os", "shell", "uptime"} <= set(found.capabilities)
    assert 0 < uptime_s < 900


def test_a_real_serial_port_is_spoken_through_and_belongs_to_one(tmp_path: Path) -> None:
    if reason := unavailable_native():
        missing(reason)
    with zephyr_console(tmp_path) as address, open_link(address, timeout_s=1) as link:
        assert link.info().board == "native_sim/native"
        assert 0 < link.heartbeat() < 900
        with (
            open_link(address, timeout_s=0.1) as second,
            pytest.raises(LinkError, match=r"cannot be used.*lock"),
        ):
            second.heartbeat()
        assert link.heartbeat() > 0


def test_zephyr_without_image_slots_refuses_by_name(native: str) -> None:
    with open_link(native, timeout_s=0.5) as link, pytest.raises(FirmwareRefusalError) as caught:
        link.confirm()
    assert caught.value.code == "not-supported"


def test_an_image_for_another_board_does_not_pass_the_gate(native: str, tmp_path: Path) -> None:
    image = parse_image(signed_version(tmp_path))
    with (
        open_link(native, timeout_s=0.5) as link,
        pytest.raises(FirmwareImageError, match="native_sim"),
    ):
        check_fits(image, link.info())


def signed_version(folder: Path) -> bytes:
    """The board's own program as version 1.2.0, signed, and for this board."""
    key = folder / "key.pem"
    make_key(key, KeyKind.ED25519)
    return next_version(key)


@dataclass(kw_only=True)
class Seen:
    """What the board said on the way through one session."""

    before: FirmwareInfo
    refusal: FirmwareRefusalError
    with_flipped: FirmwareInfo
    after_flipped: FirmwareInfo
    before_cut: list[int]
    progress: list[int]
    uploaded: FirmwareInfo
    after: FirmwareInfo
    digest: str


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """One session with one board, since it takes ten seconds to write an image."""
    if reason := unavailable_mcuboot():
        missing(reason)
    folder = tmp_path_factory.mktemp("mcuboot")
    image = signed_version(folder)
    before_cut: list[int] = []
    progress: list[int] = []
    with mcuboot_board(folder) as address:
        with open_link(address, timeout_s=10) as link:
            before = link.info()
        send_unchecked(address, flipped(image))
        with open_link(address, timeout_s=10) as link:
            with_flipped = link.info()
            after_flipped = restart(link, clock=time.monotonic, sleep=time.sleep)
            with pytest.raises(CableCutError):
                link.upload(image, version="1.2.0", progress=cut_after(15, before_cut))
        with open_link(address, timeout_s=10) as link:
            digest = link.upload(
                image, version="1.2.0", progress=lambda done, _total: progress.append(done)
            )
            uploaded = link.info()
            with pytest.raises(FirmwareRefusalError) as caught:
                link.mark_for_test(digest)
            after = restart(link, clock=time.monotonic, sleep=time.sleep)
    return Seen(
        before=before,
        refusal=caught.value,
        with_flipped=with_flipped,
        after_flipped=after_flipped,
        before_cut=before_cut,
        progress=progress,
        uploaded=uploaded,
        after=after,
        digest=digest,
    )


class CableCutError(Exception):
    """Somebody pulled it."""


def cut_after(answers: int, seen: list[int]) -> Callable[[int, int], None]:
    """Return a progress that ends the upload after so many answers."""

    def progress(done: int, _total: int) -> None:
        seen.append(done)
        if len(seen) == answers:
            raise CableCutError

    return progress


def flipped(image: bytes) -> bytes:
    """The image with one byte of its program changed."""
    damaged = bytearray(image)
    damaged[len(image) // 2] ^= 1
    return bytes(damaged)


def send_unchecked(address: str, image: bytes) -> None:
    """Write an image as it is; ``upload`` would refuse a damaged one before it is sent."""
    session = SmpSession(parse_address(address), timeout_s=10)
    try:
        assert list(session.send_image(image, number=0, doing="take it"))[-1] == len(image)
    finally:
        session.close()


@pytest.mark.slow
def test_mcuboot_boots_the_higher_version(seen: Seen) -> None:
    assert (seen.before.board, seen.before.version) == (QEMU, "0.0.0")
    assert [slot.version for slot in seen.uploaded.slots] == ["0.0.0", "1.2.0"]
    assert (seen.uploaded.version, seen.after.version) == ("0.0.0", "1.2.0")
    assert [(slot.digest, slot.state) for slot in seen.after.slots][1] == (
        seen.digest,
        SlotState.CONFIRMED,
    )


@pytest.mark.slow
def test_an_upload_whose_cable_was_cut_goes_on(seen: Seen) -> None:
    offsets = [*seen.before_cut, *seen.progress]
    assert offsets == sorted(offsets)
    assert seen.progress[0] >= seen.before_cut[-1] > 20_000


@pytest.mark.slow
def test_mcuboot_does_not_boot_an_image_with_one_flipped_bit(seen: Seen) -> None:
    assert "1.2.0" in {slot.version for slot in seen.with_flipped.slots}
    assert seen.after_flipped.version == "0.0.0"


@pytest.mark.slow
def test_a_board_that_runs_from_ram_cannot_test(seen: Seen) -> None:
    assert seen.refusal.code == "not-supported"
    assert "mark an image for test" in str(seen.refusal)


def test_a_damaged_image_is_refused_before_it_is_sent(native: str, tmp_path: Path) -> None:
    with SmpLink(parse_address(native)) as link, pytest.raises(FirmwareImageError, match="damaged"):
        link.upload(flipped(signed_version(tmp_path)), version="1.2.0")
