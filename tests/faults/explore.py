"""Stops: where a story is when the power goes, what its disk then holds, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec

from asdic.device.config import FirmwareConfig
from tests.faults.around import Memory
from tests.faults.disk import MODELS, SimulatedDisk, Tree
from tests.faults.oracle import Evidence, forbidden_in
from tests.faults.row import Forbidden, Outcome
from tests.faults.scenario import Scenario
from tests.faults.stage import Stage
from tests.faults.world import CONFIG, World, quiet
from tests.support.boards import Board

SELF_STOPS_LIMIT: Final = 3
"""So often a device is started again whose code has stopped itself."""


@dataclass(frozen=True)
class Stop:
    """A power cut after a call: a tree that it may leave, and what the world knows then."""

    call: int
    name: str
    tree: Tree
    memory: Memory


@dataclass(kw_only=True)
class Played:
    """How a boot and all that followed it ended."""

    end: str
    forbidden: tuple[Forbidden, ...]
    detail: str
    calls: int
    stops: list[Stop] = field(default_factory=list)


BUGS: Final = (RuntimeError, LookupError, TypeError, ValueError)
"""What the device's code raises where it stops itself."""

Prepare = Callable[[World], None]


class Explorer:
    """Plays one scenario again and again, and never the same rest of it twice."""

    def __init__(self, stage: Stage, scenario: Scenario) -> None:
        self.stage = stage
        self.scenario = scenario
        self.runs = 0
        self._known: dict[int, Played] = {}
        self._first: Played | None = None

    def first(self) -> Played:
        """Return the story without a fault, with all stops on its way."""
        if self._first is None:
            self._first = self.play(*self.stage.begin(self.scenario), collects=True)
        return self._first

    def go_on(self, stop: Stop, *, collects: bool = False) -> Played:
        """Return how the story ends after a stop."""
        key = _key(stop)
        played = self._known.get(key)
        if played is None or (collects and not played.stops):
            played = self.play(stop.tree, stop.memory, collects=collects)
            self._known[key] = played
        return played

    def play(
        self,
        tree: Tree,
        memory: Memory,
        *,
        collects: bool = False,
        prepare: Prepare = lambda _world: None,
    ) -> Played:
        """Boot on ``tree`` and let the device come to rest."""
        self.runs += 1
        memory = memory.copy()
        stops: list[Stop] = []

        def note(number: int, name: str, *_: object) -> None:
            snapshots = list(_left_by(memory))
            found = {tree for model in MODELS for tree in disk.trees(model)}
            stops.extend(
                Stop(number, name, tree, snapshot) for tree in found for snapshot in snapshots
            )

        disk = SimulatedDisk(self.stage.folder / "disk", tree)
        world = self.world(disk, memory)
        if collects:
            disk.after = note
        if collects and world.wire is not None:
            world.wire.after = note
        self.scenario.prepare(world)
        prepare(world)
        with quiet():
            try:
                world.run()
            except BUGS as error:
                return self._again(disk, memory, error)
        return self.judged(world, stops)

    def world(self, disk: SimulatedDisk, memory: Memory) -> World:
        """Return a boot of this story's device."""
        timing = msgspec.structs.replace(CONFIG.timing, deadlines_s=dict(self.scenario.deadlines_s))
        firmware = FirmwareConfig(without_test_boot="re-upload", patience_s=60.0)
        config = msgspec.structs.replace(CONFIG, timing=timing, firmware=firmware)
        return World(disk, self.stage.shore, memory, script=self.scenario.script, config=config)

    def _again(self, disk: SimulatedDisk, memory: Memory, error: Exception) -> Played:
        """Start the device again whose code has stopped itself, as systemd does, a few times."""
        if memory.boots >= SELF_STOPS_LIMIT:
            return Played(
                end="none",
                forbidden=(Forbidden.STUCK,),
                detail=f"the agent stopped itself: {type(error).__name__}: {error}",
                calls=disk.calls,
            )
        return self.play(next(disk.trees("strict")), memory)

    def judged(self, world: World, stops: list[Stop]) -> Played:
        """Return what the oracle says of a device that has come to rest."""
        evidence = Evidence(
            folder=world.disk.folder,
            signed=self.stage.signed,
            running=world.program.running,
            ran=world.memory.ran,
            gated=world.memory.gated,
            has_lost_it=self.scenario.keeps and world.memory.has_lost_it,
            most_bytes=world.memory.most_bytes,
            reports=world.memory.reports,
            firmware=_firmware(world.memory.board),
            booted=world.memory.booted,
        )
        forbidden = forbidden_in(evidence)
        return Played(
            end=self._end(world.program.running),
            forbidden=forbidden,
            detail=self._detail(world) if forbidden else "",
            calls=world.disk.calls,
            stops=stops,
        )

    def _end(self, running: str | None) -> str:
        signed = self.stage.signed.get(running or "")
        if signed is None:
            return "old" if self.scenario.begin == "enrolled" else "none"
        return "old" if self.scenario.begin == f"on-{signed.version}" else "new"

    def _detail(self, world: World) -> str:
        state, rollout = world.journal_on_disk()
        board = world.memory.board
        beside = f" beside {board.running}, then {board.lasting}" if board is not None else ""
        return f"{rollout} is {state}, runs {world.program.running}{beside}"


def _left_by(memory: Memory) -> Iterator[Memory]:
    """Yield what a stop may leave of the memory: the microcontroller's power may go as well."""
    yield memory.copy()
    if memory.board is not None:
        left = memory.copy()
        left.board = memory.board.power_cycled()
        yield left


def _firmware(board: Board | None) -> frozenset[str] | None:
    return None if board is None else frozenset({board.running, board.lasting})


def outcome_of(point: str, played: list[Played], *, runs: int, cases: int) -> Outcome:
    """Return one outcome of all ends that a point has."""
    forbidden = {name for one in played for name in one.forbidden}
    ends = sorted({one.end for one in played})
    details = [one.detail for one in played if one.detail]
    return Outcome(
        point=point,
        end=" or ".join(ends),
        forbidden=tuple(sorted(forbidden)),
        detail=details[0] if details else "",
        runs=runs,
        cases=cases,
    )


def _key(stop: Stop) -> int:
    """Return a number for all that decides how the story goes on.

    Reports are left out: nothing but their number comes from them, and it only grows.
    """
    tree = tuple(entry for entry in stop.tree if not entry.path.startswith("reports/"))
    memory = stop.memory
    board = memory.board.key() if memory.board is not None else None
    return hash((tree, memory.retained, memory.committed, frozenset(memory.done), board))
