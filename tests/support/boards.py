"""Microcontrollers for whole updates: MCUboot's rules, with images that do not do what they should.

A board outlives the boots of the box beside it, and may be copied in the middle of anything.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from asdic.firmware_bridge.link import FirmwareInfo, FirmwareLink, SlotState
from asdic.firmware_bridge.simulated_board import Boots, SimulatedBoard
from asdic.firmware_bridge.simulator import Fault, SimulatedFirmware
from asdic.fleet.needs import FirmwareFile

BOARD: Final = "nucleo_h743zi"
FIRST: Final = "1.0.0"
"""The version of the firmware that a new board runs."""

_T = TypeVar("_T")


def image_of(version: str) -> bytes:
    """Return the bytes of a firmware image; that of a new board is what the simulator makes up."""
    return version.encode() if version == FIRST else version.encode() * 300


def digest_of_image(version: str) -> str:
    """Return the digest by which the board knows it."""
    return hashlib.sha256(image_of(version)).hexdigest()


def firmware_file(folder: Path, version: str) -> FirmwareFile:
    """Write a firmware image into a folder, for a release that brings it."""
    path = folder / f"firmware-{version}.bin"
    path.write_bytes(image_of(version))
    return FirmwareFile(path=path, board=BOARD, version=version, digest=digest_of_image(version))


@dataclass
class Ticks:
    """A clock that goes on by itself: a tenth of a second each time it is read."""

    tenths: int = 0

    def __call__(self) -> float:
        self.tenths += 1
        return self.tenths / 10


class _Mortal(SimulatedBoard):
    """A board on which some images boot and do not come up: its watchdog resets it again."""

    dead: frozenset[str] = frozenset()

    def restart(self) -> None:
        """Do what the bootloader does, and again where nothing comes up."""
        super().restart()
        running = next(slot for slot in self.slots() if slot.number == 0)
        if running.digest in self.dead and running.state is SlotState.TESTING:
            super().restart()


class Board(SimulatedFirmware):
    """A board.

    Args:
        dead: Versions of images that boot and do not come up: the next reset reverts them.
        boots: What its bootloader does.
        tells_mode: Whether it says what its bootloader does.
        misreports: The version that it says an uploaded image has.
        faults: What goes wrong, as the simulator has it.
    """

    def __init__(
        self,
        *,
        dead: Iterable[str] = (),
        tells_mode: bool = True,
        boots: Boots = Boots.TESTED,
        misreports: str | None = None,
        faults: Iterable[Fault] = (),
    ) -> None:
        ticks = Ticks()
        super().__init__(board=BOARD, version=FIRST, clock=ticks, faults=faults)
        self.board = _Mortal(
            name=BOARD,
            version=FIRST,
            slot_bytes=256 << 10,
            boots=boots,
            clock=ticks,
            identify=self.board.identify,
            misreports=misreports,
        )
        self._tells_mode = tells_mode
        self.board.dead = frozenset(digest_of_image(version) for version in dead)

    def info(self) -> FirmwareInfo:
        """Return what runs and what the slots hold."""
        info = super().info()
        if self._tells_mode:
            return info
        return msgspec.structs.replace(info, boot_mode=None, can_test_boot=True)

    def power_cycled(self) -> Board:
        """Return a board that is this one after a power cut."""
        other = copy.deepcopy(self)
        other.board.restart()
        return other

    @property
    def running(self) -> str:
        """The digest of the image that runs, whatever the board says."""
        states = {SlotState.TESTING, SlotState.CONFIRMED}
        return next(slot.digest or "" for slot in self.board.slots() if slot.state in states)

    @property
    def lasting(self) -> str:
        """The digest of the image that runs after the power was away twice."""
        return self.power_cycled().power_cycled().running

    def key(self) -> tuple[object, ...]:
        """Return all that decides what the board does next, but for its clock."""
        return self.board.slots(), self.board._upload, tuple(self._faults), self.board.boots

    def fail_next(self, *faults: Fault) -> None:
        """Let the next calls, or chunks, fail."""
        self._faults.extend(faults)


@dataclass
class Wire:
    """The link to a board: each call is counted, and may be stopped before it or after it.

    Attributes:
        board: The board that is connected now.
        calls: How many calls there were, chunks of uploads included.
    """

    board: Board
    before: Callable[[int, str], None] = lambda _number, _name: None
    after: Callable[[int, str], None] = lambda _number, _name: None
    calls: int = 0
    names: list[str] = field(default_factory=list)

    @contextmanager
    def opened(self) -> Iterator[FirmwareLink]:
        """Yield the link."""
        yield self

    def info(self) -> FirmwareInfo:
        """Ask the board."""
        return self._called("info", self.board.info)

    def upload(
        self,
        image: bytes,
        *,
        version: str,
        progress: Callable[[int, int], None] | None = None,
        resume: bool = True,
    ) -> str:
        """Write to the board, chunk by chunk."""

        def note(done: int, total: int) -> None:
            if progress is not None:
                progress(done, total)
            self._called("chunk", lambda: None)

        return self._called(
            "upload",
            lambda: self.board.upload(image, version=version, progress=note, resume=resume),
        )

    def mark_for_test(self, digest: str) -> None:
        """Ask the board."""
        self._called("mark_for_test", lambda: self.board.mark_for_test(digest))

    def confirm(self) -> None:
        """Ask the board."""
        self._called("confirm", self.board.confirm)

    def reset(self) -> None:
        """Ask the board."""
        self._called("reset", self.board.reset)

    def heartbeat(self) -> float:
        """Ask the board."""
        return self._called("heartbeat", self.board.heartbeat)

    def _called(self, name: str, call: Callable[[], _T]) -> _T:
        number, self.calls = self.calls, self.calls + 1
        self.names.append(name)
        self.before(number, name)
        answer = call()
        self.after(number, name)
        return answer
