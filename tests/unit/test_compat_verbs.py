"""What a release's author types to say what it needs, and what is refused there already."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from asdic.cli.inspect import inspect
from asdic.cli.pack import pack
from asdic.contract.errors import AsdicError, ConfigError
from asdic.contract.release import Layout
from asdic.contract.variant import FrameFormat, Requirements, Variant
from asdic.firmware_bridge.image import parse_image
from asdic.firmware_bridge.image_making import ImageSpec, make_image
from tests.support.firmware import PROGRAM, SLOT_BYTES, firmware_image
from tests.support.models import make_tiny_variant
from tests.support.yard import JETSON


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    make_tiny_variant(folder / JETSON, target=JETSON)
    return folder


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "firmware-1.5.0.bin"
    path.write_bytes(firmware_image("1.5.0"))
    return path


def packed(variants: Path, out: Path, *options: str) -> Result:
    arguments = [str(variants), "--version", "1.0.0", "--out", str(out), *options]
    return CliRunner().invoke(pack, arguments, catch_exceptions=False)


def variant_in(out: Path) -> Variant:
    layout = Layout.open(out)
    return layout.variant(layout.release("1.0.0"), JETSON)


def test_needs_are_options(variants: Path, tmp_path: Path) -> None:
    packed(
        variants, tmp_path / "out",
        "--needs-firmware", ">=1.4.0,<2.0.0", "--needs-board", "nucleo",
        "--needs-frames", "512x640:uint8:grey",
    )  # fmt: skip
    assert variant_in(tmp_path / "out").requires == Requirements(
        firmware=">=1.4.0,<2.0.0", board="nucleo", frames=FrameFormat(height=512, width=640)
    )


def test_firmware_says_itself_what_it_is(variants: Path, image: Path, tmp_path: Path) -> None:
    result = packed(variants, tmp_path / "out", "--firmware", str(image))
    part = variant_in(tmp_path / "out").firmware
    assert part is not None
    assert (part.version, part.board) == ("1.5.0", "simulated")
    assert part.digest == parse_image(image.read_bytes()).digest
    assert "with firmware 1.5.0 for simulated" in result.output
    shown = CliRunner().invoke(inspect, [str(tmp_path / "out")], catch_exceptions=False)
    assert f"{JETSON} brings firmware 1.5.0 for simulated" in shown.output


def bare(path: Path) -> Path:
    path.write_bytes(firmware_image("1.5.0", board=None))
    return path


def test_a_board_may_be_named_where_the_image_does_not(variants: Path, tmp_path: Path) -> None:
    path = bare(tmp_path / "bare.bin")
    packed(variants, tmp_path / "out", "--firmware", str(path), "--board", "nucleo")
    part = variant_in(tmp_path / "out").firmware
    assert part is not None
    assert part.board == "nucleo"


def damaged(path: Path) -> Path:
    data = bytearray(firmware_image("1.5.0"))
    data[100] ^= 1
    path.write_bytes(data)
    return path


def model(path: Path) -> Path:
    spec = ImageSpec(version="1.5.0", slot_bytes=SLOT_BYTES, board="simulated", bootable=False)
    path.write_bytes(make_image(PROGRAM, spec, key=None))
    return path


def no_image(path: Path) -> Path:
    path.write_bytes(b"no image")
    return path


def good(path: Path) -> Path:
    path.write_bytes(firmware_image("1.5.0"))
    return path


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (damaged, (), "is damaged"),
        (no_image, (), "image"),
        (model, (), "is data, such as a model, and no firmware"),
        (bare, (), "does not say for which board it is; use --board NAME"),
        (good, ("--board", "nucleo"), "is for the board 'simulated', not 'nucleo'"),
        (good, ("--needs-board", "nucleo"), "brings firmware for 'simulated'"),
        (good, ("--needs-firmware", ">=2.0.0"), "brings firmware 1.5.0"),
    ],
)
def test_firmware_that_cannot_go_with_it_is_refused(
    variants: Path, tmp_path: Path, make: object, options: tuple[str, ...], message: str
) -> None:
    assert callable(make)
    path = make(tmp_path / "firmware.bin")
    with pytest.raises(AsdicError, match=message):
        packed(variants, tmp_path / "out", "--firmware", str(path), *options)
    assert not (tmp_path / "out").exists() or Layout.open(tmp_path / "out").versions() == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--needs-firmware", "new"), "is not a range of firmware versions"),
        (("--board", "nucleo"), "--needs-board is a need"),
        (("--needs-frames", "0x8:uint8:grey"), "height"),
    ],
)
def test_needs_that_nobody_could_check_are_refused(
    variants: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        packed(variants, tmp_path / "out", *options)
