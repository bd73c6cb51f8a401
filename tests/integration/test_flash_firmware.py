"""``asdic flash --firmware``: the flashed box speaks with its microcontroller, by itself."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from asdic.contract.errors import ConfigError
from asdic.contract.release import Layout
from asdic.contract.variant import Requirements
from asdic.device.config import FirmwareConfig, StateFolder, read_config
from asdic.firmware_bridge.connect import open_link
from asdic.firmware_bridge.image import parse_image
from asdic.firmware_bridge.link import FirmwareInfo
from asdic.firmware_bridge.smp_server import SmpServer
from asdic.fleet.flash.cargo import Wheels
from asdic.fleet.flash.flash import Flash
from asdic.fleet.flash.wheelhouse import build_wheelhouse
from asdic.fleet.needs import FirmwareFile, with_needs
from asdic.fleet.signing import ImageRepository
from tests.integration.test_serve import serving
from tests.support.firmware import firmware_image, simulated_board
from tests.support.flash_yard import TARGET, FlashYard, open_door
from tests.support.models import make_keyword_variant

pytestmark = pytest.mark.slow

PACKAGES = "current/lib/*/site-packages/*"
NEEDS = Requirements(firmware=">=1.0.0,<2.0.0", board="simulated")


@dataclass
class Bench:
    """A yard, and a board at the end of real datagrams."""

    yard: FlashYard
    board: str

    @property
    def found(self) -> FirmwareInfo:
        """What the board says."""
        with open_link(self.board) as link:
            return link.info()

    def diagnosis(self) -> Any:
        """Return what the flashed box's own doctor finds."""
        doctor = [self.yard.prefix / "current" / "bin" / "asdic-agent", "doctor", "--json"]
        words = [*doctor, "--state", str(self.yard.state)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, shared_data: Path) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("bench")
    _sign_release(folder, shared_data)
    box = folder / "box"
    box.mkdir()
    wheels = build_wheelhouse(
        Path("~/.cache/asdic/wheelhouse").expanduser(),
        architecture=platform.machine(),
        python="{}.{}".format(*sys.version_info),
        runtime="litert",
        firmware=True,
        progress=lambda _words: None,
    )
    with (
        open_door(folder / "ssh") as door,
        serving(folder),
        SmpServer(simulated_board()) as server,
    ):
        yard = FlashYard(folder=folder, box=box, door=door, wheels=wheels)
        yield Bench(yard, server.address)


def _sign_release(folder: Path, shared_data: Path) -> None:
    """Sign a release that needs firmware 1, and brings 1.1.0."""
    image = folder / "firmware.bin"
    image.write_bytes(firmware_image("1.1.0"))
    digest = parse_image(image.read_bytes()).digest
    brought = FirmwareFile(path=image, board="simulated", version="1.1.0", digest=digest)
    variant = make_keyword_variant(folder / "variant", shared_data)
    layout = Layout.create(folder / "releases")
    with with_needs({TARGET: variant}, NEEDS, brought) as folders:
        layout.add_release("1.0.0", folders)
    ImageRepository(folder / "releases", folder / "keys").sign(layout, "1.0.0")


@pytest.fixture(scope="module")
def flashed(bench: Bench) -> Bench:
    bench.yard.flash(firmware=bench.board)
    return bench


def test_a_box_without_such_a_serial_port_is_not_touched(bench: Bench) -> None:
    with pytest.raises(ConfigError, match=r"the box has no /dev/ttyACM77 .*plug the micro"):
        bench.yard.other("bare", bench.yard.wheels).flash(firmware="serial:///dev/ttyACM77")
    assert not list((bench.yard.folder / "bare").iterdir())


def test_the_first_flash_takes_release_and_firmware_down_to_the_board(flashed: Bench) -> None:
    known, info = flashed.yard.known, flashed.found
    assert (known.state, known.release) == ("committed", "1.0.0")
    assert (info.board, info.version) == ("simulated", "1.1.0")


def test_the_box_asks_its_board_with_what_was_brought(flashed: Bench) -> None:
    found = [one["found"] for one in flashed.diagnosis()["findings"]]
    assert "simulated runs 1.1.0, as the current release has it" in found


def test_what_makes_images_stays_here(flashed: Bench) -> None:
    packages = {path.name.partition("-")[0] for path in flashed.yard.prefix.glob(PACKAGES)}
    assert {"smpclient", "serial", "crcmod"} <= packages
    assert "imgtool" not in packages


def test_a_second_flash_changes_nothing(flashed: Bench) -> None:
    before = flashed.yard.tree
    assert flashed.yard.flash(firmware=flashed.board).done == ()
    assert flashed.yard.tree == before


def test_a_flash_that_does_not_speak_of_firmware_leaves_it_and_its_wheels(flashed: Bench) -> None:
    yard, asked = flashed.yard, list[bool]()
    session = yard.open(yard.site())

    def bring(*, firmware: bool, **_kind: object) -> Wheels:
        asked.append(firmware)
        return yard.wheels

    try:
        flash = Flash(
            session, yard.wish(), shore=yard.shore, wheelhouse=bring, say=yard.said.append
        )
        assert (flash.examine().is_done, asked) == (True, [True])
    finally:
        session.close()


def test_another_policy_enrols_again_and_nothing_else(flashed: Bench) -> None:
    done = flashed.yard.flash(firmware=flashed.board, without_test_boot="re-upload").done
    assert [one.partition(",")[0] for one in done] == ["enrol as box7"]
    assert read_config(StateFolder(flashed.yard.state)).firmware == FirmwareConfig(
        link=flashed.board, without_test_boot="re-upload"
    )
