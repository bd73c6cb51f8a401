"""What the doctor says of the microcontroller and the frame ring beside a box."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import msgspec
import pytest

from asdic.contract.errors import LinkError
from asdic.contract.variant import FileRef, FirmwarePart, FrameFormat
from asdic.device.beside import Said, firmware_findings, ring_findings
from asdic.device.config import FirmwareConfig, FramesConfig
from asdic.device.doctor import diagnose
from asdic.firmware_bridge.frame_writer import FrameWriter
from asdic.firmware_bridge.link import FirmwareLink
from tests.faults.world import CONFIG
from tests.support.boards import BOARD, FIRST, Board, digest_of_image, image_of
from tests.support.boxes import Box
from tests.support.yard import Yard

ADDRESS = "udp://192.0.2.7"
LINKED = msgspec.structs.replace(CONFIG, firmware=FirmwareConfig(link=ADDRESS))


def part(version: str) -> FirmwarePart:
    file = FileRef(name="firmware.bin", digest="sha256:" + 64 * "0", size_bytes=1)
    return FirmwarePart(file=file, board=BOARD, version=version, digest=digest_of_image(version))


def said(board: Board | None, brings: FirmwarePart | None, *, may_ask: bool = True) -> Said:
    @contextmanager
    def opened(_address: str) -> Iterator[FirmwareLink]:
        if board is None:
            raise LinkError("no answer")
        yield board

    (finding,) = firmware_findings(LINKED, brings, may_ask=may_ask, open_link=opened)
    return finding


def on_trial() -> Board:
    board = Board()
    board.mark_for_test(board.upload(image_of("2.0.0"), version="2.0.0"))
    return board


@pytest.mark.parametrize(
    ("board", "brings", "level", "found"),
    [
        (Board(), None, "ok", "nucleo_h743zi runs 1.0.0"),
        (Board(), part(FIRST), "ok", "runs 1.0.0, as the current release has it"),
        (Board(), part("1.1.0"), "error", "and the current release goes with 1.1.0"),
        (on_trial(), None, "warning", "has an image on trial that no update of this box began"),
        (None, None, "error", "the microcontroller at udp://192.0.2.7 does not answer: no answer"),
    ],
)
def test_the_microcontroller_is_asked(
    board: Board | None, brings: FirmwarePart | None, level: str, found: str
) -> None:
    finding = said(board, brings)
    assert finding[0] == level
    assert found in finding[1]
    assert bool(finding[2]) == (level != "ok")


def test_nobody_is_asked_while_an_update_is_in_hand() -> None:
    assert "is not asked" in said(None, None, may_ask=False)[1]


def test_firmware_without_a_link_is_an_error() -> None:
    ((level, found, advice),) = firmware_findings(CONFIG, part("1.1.0"), may_ask=True)
    assert (level, "no microcontroller is named" in found) == ("error", True)
    assert "[firmware]" in advice


def test_a_ring_is_looked_at(tmp_path: Path) -> None:
    ring = tmp_path / "ring"
    config = msgspec.structs.replace(CONFIG, frames=FramesConfig(ring=str(ring)))
    missing = partial(ring_findings, config)
    assert next(missing())[:2] == ("error", f"there is no frame ring {ring}")
    with FrameWriter(ring, FrameFormat(height=8, width=16), slots=2):
        assert next(missing())[0] == "ok"
        assert "carries 8 x 16 uint8 grey; 0 frames so far" in next(missing())[1]


def test_a_box_without_either_is_well(yard: Yard, tmp_path: Path) -> None:
    box = Box.make(tmp_path / "box1", roots=yard.roots)
    found = {one.check: one for one in diagnose(box.state).findings}
    assert found["firmware"].found == "no microcontroller is named in agent.toml"
    assert found["frames"].found == "no frame ring is named in agent.toml"
