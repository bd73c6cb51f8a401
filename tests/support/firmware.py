"""Images and simulated boards for the tests of the firmware link."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from asdic.firmware_bridge.connect import parse_address
from asdic.firmware_bridge.image_making import ImageSpec, make_image, make_model_image
from asdic.firmware_bridge.simulated_board import Boots, SimulatedBoard
from asdic.firmware_bridge.smp_link import SmpLink
from asdic.firmware_bridge.smp_server import SmpServer, WireFault

SLOT_BYTES: Final = 64 << 10
PROGRAM: Final = bytes(range(1, 256)) * 40
MODEL: Final = b"\x1c\0\0\0TFL3" + bytes(range(256)) * 20
IMPATIENCE_S: Final = 0.25


class Ticks:
    """A clock that goes on by a millisecond each time it is read."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        """Return the seconds."""
        self.now_s += 0.001
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now_s += seconds


def firmware_image(version: str = "1.1.0", *, board: str | None = "simulated") -> bytes:
    """Return an unsigned image of a program that does nothing."""
    spec = ImageSpec(version=version, slot_bytes=SLOT_BYTES, board=board)
    return make_image(PROGRAM, spec, key=None)


def model_image(version: str = "3.0.0", *, board: str | None = "simulated") -> bytes:
    """Return an unsigned image of a model that is none, but for its first bytes."""
    spec = ImageSpec(version=version, slot_bytes=SLOT_BYTES, board=board)
    return make_model_image(MODEL, spec, key=None)


def simulated_board(
    *,
    boots: Boots = Boots.TESTED,
    misreports: str | None = None,
    slot_bytes: int = SLOT_BYTES,
    partitions: int = 0,
) -> SimulatedBoard:
    """Return a board that runs 1.0.0."""
    return SimulatedBoard(
        name="simulated",
        version="1.0.0",
        slot_bytes=slot_bytes,
        boots=boots,
        clock=Ticks(),
        misreports=misreports,
        partitions=partitions,
    )


@contextmanager
def served(
    board: SimulatedBoard | None = None, *faults: WireFault, seed: int = 0
) -> Iterator[tuple[SmpLink, SmpServer]]:
    """Yield a link over UDP to a simulated board, and its server."""
    with (
        SmpServer(board or simulated_board(), faults=faults, seed=seed) as server,
        SmpLink(
            parse_address(server.address), timeout_s=IMPATIENCE_S, erase_timeout_s=IMPATIENCE_S
        ) as link,
    ):
        yield link, server
