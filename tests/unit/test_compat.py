"""Versions, moves and requirements: the rules of model and firmware, without any wires."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import msgspec
import pytest

from asdic.contract.errors import ConfigError, LinkError, ReleaseError
from asdic.contract.firmware import check_firmware_range, firmware_version, is_in_firmware_range
from asdic.contract.release import Layout
from asdic.contract.variant import (
    FIRMWARE_LIMIT_BYTES,
    FRAME_CHANNELS,
    FRAME_DTYPES,
    VARIANT_FILE,
    FrameFormat,
    Requirements,
    Variant,
    encode_variant,
    parse_variant,
    read_variant,
)
from asdic.device.config import AgentConfig, FirmwareConfig, FramesConfig, encode_config
from asdic.device.update.firmware import MOVES, Beside, Move, Runs, next_move
from asdic.firmware_bridge.link import FirmwareInfo, ImageSlot, SlotState
from asdic.firmware_bridge.ring_layout import CHANNELS, DTYPES
from asdic.firmware_bridge.simulated_board import Boots
from asdic.fleet.needs import FIRMWARE_FILE, FirmwareFile, with_needs
from asdic.fleet.releases import describe_release
from tests.faults.world import CONFIG
from tests.support.boards import BOARD, Board, firmware_file
from tests.support.models import make_tiny_variant
from tests.support.yard import JETSON

WANTED, OTHER = 64 * "a", 64 * "b"
SLOTS = list(itertools.product(Runs, Beside))


@pytest.mark.parametrize(
    ("version", "text", "holds"),
    [
        ("1.4.2", "1.4.2", True),
        ("1.4.2", "==1.4.2", True),
        ("1.4.3", "1.4.2", False),
        ("1.4.2+7", "1.4.2", True),
        ("1.4.2.7", "1.4.2+7", True),
        ("1.4.2", "1.4.2+7", False),
        ("1.4.2", "1.4.2+0", True),
        ("1.4.0", ">=1.4.0,<2.0.0", True),
        ("2.0.0", ">=1.4.0,<2.0.0", False),
        ("1.10.0", ">1.9.65535", True),
        ("1.9.0", "<= 1.9.0 , > 1.8.0", True),
    ],
)
def test_a_range_holds_or_not(version: str, text: str, holds: bool) -> None:
    assert is_in_firmware_range(version, text) is holds


@pytest.mark.parametrize(
    "text", ["", ",", "1.4", ">=1.4", "~1.4.0", "1.4.0,", "=>1.4.0", "256.0.0", 9 * ",1.0.0"]
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="firmware version"):
        check_firmware_range(text)


@pytest.mark.parametrize("text", ["1.2", "v1.2.3", "1.2.3-rc1", "1.2.65536", "1.2.3+4294967296"])
def test_what_mcuboot_cannot_hold_is_no_version(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a firmware version"):
        firmware_version(text)


def info_with(runs: Runs, beside: Beside, *, mode: str | None = "swap") -> FirmwareInfo:
    on_trial = runs in {Runs.WANTED_ON_TRIAL, Runs.OTHER_ON_TRIAL}
    pending = beside in {Beside.WANTED_PENDING, Beside.OTHER_PENDING}
    running = WANTED if runs in {Runs.WANTED, Runs.WANTED_ON_TRIAL} else OTHER
    second = WANTED if beside in {Beside.WANTED, Beside.WANTED_PENDING} else 64 * "c"
    return FirmwareInfo(
        board=BOARD,
        version="1.0.0",
        slots=(
            ImageSlot(
                number=0,
                state=SlotState.TESTING if on_trial else SlotState.CONFIRMED,
                version="1.0.0",
                digest=running,
            ),
            ImageSlot(
                number=1,
                state=SlotState.PENDING if pending else SlotState.INACTIVE,
                version="1.1.0",
                digest=second,
            ),
        ),
        can_test_boot=True,
        boot_mode=mode,
    )


@pytest.mark.parametrize(("runs", "beside"), SLOTS)
def test_every_state_of_the_slots_has_one_move(runs: Runs, beside: Beside) -> None:
    assert next_move(info_with(runs, beside), WANTED) is MOVES[runs, beside]


@pytest.mark.parametrize(("runs", "beside"), SLOTS)
def test_nothing_is_settled_that_the_next_reset_would_change(runs: Runs, beside: Beside) -> None:
    lasting = runs is Runs.WANTED and beside in {Beside.WANTED, Beside.OTHER}
    assert (MOVES[runs, beside] is Move.SETTLED) == lasting


@pytest.mark.parametrize(("runs", "beside"), SLOTS)
def test_only_the_wanted_image_is_confirmed(runs: Runs, beside: Beside) -> None:
    assert (MOVES[runs, beside] is Move.CONFIRM) == (runs is Runs.WANTED_ON_TRIAL)


def test_where_nothing_is_tried_a_reset_takes_the_place_of_a_mark() -> None:
    info = info_with(Runs.OTHER, Beside.WANTED)
    assert next_move(info, WANTED, without_test=True) is Move.RESET


@pytest.mark.parametrize(
    ("mode", "move"),
    [("swap", Move.SETTLED), ("overwrite", Move.UPLOAD), (None, Move.UPLOAD)],
)
def test_on_the_way_back_nothing_is_left_that_a_reset_might_boot(
    mode: str | None, move: Move
) -> None:
    assert next_move(info_with(Runs.WANTED, Beside.OTHER, mode=mode), WANTED, clears=True) is move


def test_a_model_in_a_slot_of_its_own_is_no_firmware() -> None:
    info = info_with(Runs.OTHER, Beside.WANTED)
    model = ImageSlot(number=2, state=SlotState.CONFIRMED, digest=WANTED, bootable=False)
    slots = (model, *info.slots)
    assert next_move(msgspec.structs.replace(info, slots=slots), WANTED) is Move.MARK


def test_slots_that_name_nothing_that_runs_make_no_sense() -> None:
    info = msgspec.structs.replace(info_with(Runs.OTHER, Beside.OTHER), slots=())
    with pytest.raises(LinkError, match="does not say which image it runs"):
        next_move(info, WANTED)


@pytest.mark.parametrize("boots", [Boots.TESTED, Boots.UPLOADED])
def test_the_moves_lead_to_the_wanted_image_from_anywhere(boots: Boots) -> None:
    board = Board(boots=boots)
    image = b"the new one"
    wanted = Board().upload(image, version="2.0.0")
    without_test = boots is Boots.UPLOADED
    for _ in range(6):
        info = board.info()
        match next_move(info, wanted, without_test=without_test):
            case Move.UPLOAD:
                board.upload(image, version="2.0.0")
            case Move.MARK:
                board.mark_for_test(wanted)
            case Move.RESET:
                board.reset()
            case Move.CONFIRM:
                board.confirm()
            case Move.SETTLED:
                break
    assert board.lasting == wanted


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_variant(tmp_path_factory.mktemp("variant") / JETSON, target=JETSON)


def changed(folder: Path, **fields: object) -> bytes:
    """Return a variant's description with other fields, as anyone could write it."""
    variant = json.loads(encode_variant(read_variant(folder)))
    variant.update(fields)
    return json.dumps(variant).encode()


PART = {
    "file": {"name": "firmware.bin", "digest": f"sha256:{WANTED}", "size_bytes": 100},
    "board": BOARD,
    "version": "1.5.0",
    "digest": WANTED,
}


def test_a_variant_of_before_keeps_its_bytes(folder: Path) -> None:
    fields = json.loads(encode_variant(read_variant(folder)))
    assert "firmware" not in fields
    assert fields["requires"] == {"runtime_version": None, "firmware": None, "frames": None}


def test_a_variant_that_brings_firmware_comes_back_as_it_was_written(folder: Path) -> None:
    variant = parse_variant(changed(folder, firmware=PART))
    assert variant.all_files[-1].name == "firmware.bin"
    assert parse_variant(encode_variant(variant)) == variant


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"firmware": {**PART, "version": "new"}}, "is not a firmware version"),
        ({"firmware": {**PART, "digest": "abc"}}, "64 hex digits"),
        ({"firmware": {**PART, "board": ""}}, "is not a board's name"),
        ({"firmware": {**PART, "board": "a\nb"}}, "is not a board's name"),
        (
            {
                "firmware": {
                    **PART,
                    "file": {**PART["file"], "size_bytes": FIRMWARE_LIMIT_BYTES + 1},
                }
            },  # type: ignore[dict-item]
            "outside what asdic accepts",
        ),
        ({"firmware": PART, "requires": {"board": "another"}}, "brings firmware for"),
        ({"firmware": PART, "requires": {"firmware": ">=2.0.0"}}, "brings firmware 1.5.0"),
        ({"requires": {"firmware": "newest"}}, "is not a range"),
        ({"requires": {"board": 65 * "x"}}, "is not a board's name"),
        ({"requires": {"frames": {"height": 0, "width": 1}}}, "cannot be"),
        ({"requires": {"frames": {"height": 1, "width": 1, "dtype": "bool"}}}, "a dtype is one of"),
        ({"requires": {"frames": {"height": 1, "width": 1, "scale": 1e999}}}, "damaged|cannot be"),
    ],
)
def test_requirements_that_cannot_be_are_refused(
    folder: Path, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_variant(changed(folder, **fields))


def test_the_contract_and_the_ring_know_the_same_frames() -> None:
    assert tuple(DTYPES) == FRAME_DTYPES
    assert tuple(CHANNELS) == FRAME_CHANNELS


def packed(
    folder: Path, place: Path, needs: Requirements, firmware: FirmwareFile | None
) -> Variant:
    layout = Layout.create(place / "releases")
    with with_needs({JETSON: folder}, needs, firmware) as folders:
        layout.add_release("1.0.0", folders)
    return layout.variant(layout.release("1.0.0"), JETSON)


def test_a_packed_release_carries_needs_and_firmware(folder: Path, tmp_path: Path) -> None:
    before = (folder / VARIANT_FILE).read_bytes()
    frames = FrameFormat(height=8, width=8)
    needs = Requirements(firmware=">=1.0.0", board=BOARD, frames=frames)
    variant = packed(folder, tmp_path, needs, firmware_file(tmp_path, "1.5.0"))
    assert variant.requires == needs
    assert variant.firmware is not None
    assert (variant.firmware.version, variant.firmware.board) == ("1.5.0", BOARD)
    assert variant.firmware.file.name == FIRMWARE_FILE
    assert (folder / VARIANT_FILE).read_bytes() == before
    view = describe_release(Layout.open(tmp_path / "releases"), "1.0.0").variants[0]
    assert view.needs == f"firmware >=1.0.0, board {BOARD}, frames of 8 x 8 uint8 grey"
    assert view.firmware == f"1.5.0 for {BOARD}"


def test_a_release_that_needs_nothing_is_the_same_as_ever(folder: Path, tmp_path: Path) -> None:
    plain = Layout.create(tmp_path / "plain").add_release("1.0.0", {JETSON: folder})
    packed(folder, tmp_path, Requirements(), None)
    assert Layout.open(tmp_path / "releases").release("1.0.0") == plain


def test_a_release_that_contradicts_itself_is_not_packed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"needs firmware >=2\.0\.0, and brings firmware 1\.5\.0"):
        packed(folder, tmp_path, Requirements(firmware=">=2.0.0"), firmware_file(tmp_path, "1.5.0"))


def test_a_damaged_image_is_never_released(folder: Path, tmp_path: Path) -> None:
    packed(folder, tmp_path, Requirements(), firmware_file(tmp_path, "1.5.0"))
    layout = Layout.open(tmp_path / "releases")
    variant = layout.variant(layout.release("1.0.0"), JETSON)
    assert variant.firmware is not None
    layout.blob_path(variant.firmware.file.digest).write_bytes(b"other")
    with pytest.raises(ReleaseError, match="bytes"):
        layout.copy_release("1.0.0", Layout.create(tmp_path / "copy"))


def test_a_box_without_a_microcontroller_has_the_configuration_of_before() -> None:
    assert b"firmware" not in encode_config(CONFIG)
    assert b"frames" not in encode_config(CONFIG)


def test_the_configuration_of_a_microcontroller_comes_back() -> None:
    config = msgspec.structs.replace(
        CONFIG,
        firmware=FirmwareConfig(link="udp://192.0.2.7", without_test_boot="re-upload"),
        frames=FramesConfig(ring="probe"),
    )
    assert msgspec.toml.decode(encode_config(config), type=AgentConfig) == config
