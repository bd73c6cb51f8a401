"""Releases that bring firmware or need some, and the cable to the board that they are for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from asdic.contract.errors import LinkError
from asdic.contract.variant import FrameFormat, Requirements
from asdic.device.config import FirmwareConfig
from asdic.firmware_bridge.link import FirmwareLink
from tests.support.boards import BOARD, FIRST, Board, Wire, firmware_file
from tests.support.yard import Yard

SMALL = FrameFormat(height=8, width=16)
LARGE = FrameFormat(height=16, width=16)
MORE = "1.1.0"
DEAD = "1.3.0"
RE_UPLOAD = FirmwareConfig(without_test_boot="re-upload", patience_s=60.0)


def make_firmware_yard(folder: Path) -> Yard:
    """Return releases of models alone, of models with firmware, and of models with needs."""
    made = Yard(folder)
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
        """What it leads to."""
        assert self.wire is not None
        return self.wire.board

    @contextmanager
    def opened(self) -> Iterator[FirmwareLink]:
        """Yield the link; a pulled one raises a ``LinkError``."""
        if self.is_pulled or self.wire is None:
            raise LinkError("no answer from 192.0.2.7")
        yield self.wire
