"""Stops: where a story is when the power goes, what its disk then holds, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from tests.faults.around import Memory
from tests.faults.disk import MODELS, SimulatedDisk, Tree
from tests.faults.oracle import Evidence, forbidden_in
from tests.faults.row import Forbidden, Outcome
from tests.faults.scenario import Scenario
from tests.faults.stage import Stage
from tests.faults.world import CONFIG, World, quiet

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

        def note(number: int, name: str, _path: Path) -> None:
            snapshot = memory.copy()
            found = {tree for model in MODELS for tree in disk.trees(model)}
            stops.extend(Stop(number, name, tree, snapshot) for tree in found)

        disk = SimulatedDisk(self.stage.folder / "disk", tree)
        if collects:
            disk.after = note
        world = self.world(disk, memory)
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
        config = msgspec.structs.replace(CONFIG, timing=timing)
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
        return f"{rollout} is {state}, runs {world.program.running}"


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
    return hash((tree, memory.retained, memory.committed, frozenset(memory.done)))
