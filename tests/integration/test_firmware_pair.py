"""What a box makes of releases where real firmware is beside it: Zephyr by UDP, MCUboot in qemu.

Neither of the two can boot on trial, so what they can show is that firmware is refused by name and
nothing is left behind; the way of a pair is shown on the simulator (``tests/device``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from asdic.contract.messages import UpdateState
from asdic.contract.variant import Requirements
from asdic.firmware_bridge.connect import open_link
from asdic.firmware_bridge.image import parse_image
from asdic.firmware_bridge.restart import restart
from asdic.fleet.needs import FirmwareFile
from tests.conftest import missing
from tests.support.dock import Dock, docked
from tests.support.yard import Yard
from tests.support.zephyr import (
    PROGRAM,
    QEMU,
    mcuboot_board,
    next_version,
    unavailable_mcuboot,
    unavailable_native,
    unavailable_network,
    zephyr_board,
    zephyr_files,
)

NATIVE = "native_sim/native"


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if reason := unavailable_native() or unavailable_network():
        missing(reason)
    with zephyr_board(tmp_path_factory.mktemp("native")) as address:
        yield address


def brought(board: str) -> FirmwareFile:
    """Zephyr's own program for the board in qemu, said to be for ``board``."""
    path = zephyr_files() / PROGRAM
    found = parse_image(path.read_bytes())
    return FirmwareFile(path=path, board=board, version=found.version, digest=found.digest)


def yard_in(folder: Path, **release: object) -> Yard:
    yard = Yard(folder / "yard")
    yard.add("1.0.0", **release)  # type: ignore[arg-type]
    return yard


@pytest.mark.parametrize(
    ("needs", "code"),
    [
        (Requirements(board=NATIVE), ""),
        (Requirements(board=QEMU), "wrong-board"),
        (Requirements(firmware=">=1.0.0"), "firmware-unknown"),
    ],
)
def test_zephyr_is_asked_what_it_is(
    native: str, tmp_path: Path, needs: Requirements, code: str
) -> None:
    link = partial(open_link, native, timeout_s=1.0)
    with docked(Dock(yard_in(tmp_path, requires=needs), tmp_path, open_link=link)) as dock:
        dock.install("1.0.0")
        assert dock.code == code, dock.reason
        assert dock.state is (UpdateState.REJECTED if code else UpdateState.COMMITTED)


def test_zephyr_without_image_slots_takes_no_firmware(native: str, tmp_path: Path) -> None:
    yard = yard_in(tmp_path, firmware=brought(NATIVE))
    link = partial(open_link, native, timeout_s=1.0)
    with docked(Dock(yard, tmp_path, open_link=link)) as dock:
        dock.install("1.0.0")
        assert dock.code == "firmware-unknown"
        assert "does not say which image it runs" in dock.reason


@pytest.mark.slow
def test_mcuboot_that_cannot_test_is_left_as_it_was(tmp_path: Path) -> None:
    if reason := unavailable_mcuboot():
        missing(reason)
    yard = yard_in(tmp_path, firmware=brought(QEMU), requires=Requirements(board=QEMU))
    yard.add("2.0.0", firmware=newer(tmp_path))
    with mcuboot_board(tmp_path) as address:
        link = partial(open_link, address, timeout_s=10.0)
        patient = Dock(yard, tmp_path, open_link=link, patience_s=150.0)
        with docked(patient) as dock:
            dock.install("1.0.0")
            assert dock.state is UpdateState.COMMITTED, dock.reason  # it runs that already
            dock.install("2.0.0")
            assert (dock.state, dock.code) == (UpdateState.FAILED, "no-test-boot")
            assert dock.current == "1.0.0"
        with link() as board:
            restarted = restart(board, clock=time.monotonic, sleep=time.sleep)
        # It boots the highest version that it holds, so the newer one must be gone.
        assert restarted.version == "0.0.0"


def newer(folder: Path) -> FirmwareFile:
    """The program of the board in qemu as a higher version."""
    path = folder / "newer.bin"
    path.write_bytes(next_version())
    digest = parse_image(path.read_bytes()).digest
    return FirmwareFile(path=path, board=QEMU, version="1.2.0", digest=digest)
