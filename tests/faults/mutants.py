"""The control: each ``fsync``, each digest check and each row of the table taken away in turn.

Zeros prove nothing unless the same eyes see a store that is worse. A mutant is caught when a
story ends otherwise than it should, or when the oracle sees what is forbidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from asdic.contract import release, variant
from asdic.contract.messages import UpdateState
from asdic.device.update import sealed, state, steps, storage, store, update
from tests.faults.bad_disk import FAULTS, with_fault
from tests.faults.every_row import EVERY_ROW
from tests.faults.explore import Explorer, Played
from tests.faults.flips import TEMPLATES, some_flips
from tests.faults.operations import fleeting, halved
from tests.faults.row import Forbidden
from tests.faults.scenario import NEW, STORIES, Scenario
from tests.faults.stage import Stage, stage_in
from tests.faults.surgery import Site, calls, refuses_by_digest, sites_in, without
from tests.faults.world import BOOTED_S, World

STORY_S: Final = 45.0
"""No story takes longer; without some rows a deadline of the device would do their work."""

STOPPED: Final = ("install", "update", "rollback")


@dataclass(frozen=True)
class Mutant:
    """Something that is missing: its kind, its name, and what takes it away."""

    kind: str
    name: str
    take_away: Callable[[], AbstractContextManager[None]]


def mutants() -> list[Mutant]:
    """Return all of them, in the order of the code."""
    return [*_without_syncs(), *_without_checks(), *_without_rows()]


def _without_syncs() -> Iterator[Mutant]:
    for site in sites_in(storage, lambda one: calls(one, "sync", "sync_folder")):
        yield _surgical("fsync", site)


def _without_checks() -> Iterator[Mutant]:
    for module in (store, steps, sealed, release, variant):
        for site in sites_in(module, _is_check):
            if not _is_shore_side(site):
                yield _surgical("digest check", site)


def _is_check(statement: object) -> bool:
    return calls(statement, "check_digest") or refuses_by_digest(statement)  # type: ignore[arg-type]


def _is_shore_side(site: Site) -> bool:
    """Return whether a check is of those who build releases, or of a digest's own form."""
    return site.function.startswith("Layout.") or site.function in {"hex_of", "check_requirements"}


def _surgical(kind: str, site: Site) -> Mutant:
    return Mutant(kind, site.name, lambda: without(site))


def _without_rows() -> Iterator[Mutant]:
    for row in state.TRANSITIONS:
        name = f"{row[0].value} + {row[1].value}"
        yield Mutant("row of the table", name, lambda row=row: _without_row(row))  # type: ignore[misc]


@contextmanager
def _without_row(row: tuple[UpdateState, state.UpdateEvent]) -> Iterator[None]:
    kept = state.TRANSITIONS
    rest = MappingProxyType({pair: to for pair, to in kept.items() if pair != row})
    state.TRANSITIONS = update.TRANSITIONS = rest  # type: ignore[misc]
    try:
        yield
    finally:
        state.TRANSITIONS = update.TRANSITIONS = kept  # type: ignore[misc]


class Court:
    """Tries mutants on a stage whose disks were made by the whole code."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        for scenario in EVERY_ROW:
            stage.begin(scenario)
        for name in TEMPLATES:
            stage.template(name)

    def caught_by(self, mutant: Mutant) -> str:
        """Return what noticed that something is missing, or nothing."""
        with mutant.take_away():
            for name, witness in self._witnesses():
                if witness():
                    return name
        return ""

    def _witnesses(self) -> Iterator[tuple[str, Callable[[], bool]]]:
        yield "row 1, operations by themselves", lambda: bool(list(fleeting(self._stage.folder)))
        for scenario in EVERY_ROW:
            yield f"the story {scenario.name}", lambda one=scenario: self._ends_wrong(one)  # type: ignore[misc]
        for begin in TEMPLATES:
            yield f"row 7, {begin}", lambda begin=begin: self._any_bad(self._flips(begin))  # type: ignore[misc]
        for name in STOPPED:
            yield f"row 1, {name}", lambda name=name: self._any_bad(self._stops(name))  # type: ignore[misc]
        yield "row 4, fsync fails once", lambda: self._any_bad(self._bad_disks())
        yield "row 1, in an operation", lambda: bool(list(halved(self._stage.folder)))

    def _ends_wrong(self, scenario: Scenario) -> bool:
        worlds: list[World] = []
        explorer = Explorer(self._stage, scenario)
        played = explorer.play(*self._stage.begin(scenario), prepare=worlds.append)
        bad = set(played.forbidden)
        if scenario.state is UpdateState.INCONSISTENT:
            bad.discard(Forbidden.STUCK)
        world = worlds[-1]
        running = self._stage.signed.get(world.program.running or "")
        version = running.version if running else None
        is_late = world.seconds - BOOTED_S > STORY_S
        ends_so = version == scenario.ends and world.is_in(scenario.state)
        return bool(bad) or is_late or not ends_so

    def _any_bad(self, played: Iterable[Played]) -> bool:
        return any(one.forbidden or one.end == "none" for one in played)

    def _flips(self, begin: str) -> Iterator[Played]:
        explorer = Explorer(
            self._stage, Scenario(name="flips", begin=begin, offer=NEW, ends=NEW, keeps=False)
        )
        return some_flips(explorer)

    def _stops(self, name: str) -> Iterator[Played]:
        explorer = Explorer(self._stage, _stories()[name])
        return (explorer.go_on(stop) for stop in explorer.first().stops)

    def _bad_disks(self) -> Iterator[Played]:
        explorer = Explorer(self._stage, _stories()["update"])
        for call in range(explorer.first().calls):
            yield from with_fault(explorer, FAULTS["fsync fails once"], call)


def _stories() -> Mapping[str, Scenario]:
    return {story.name: story for story in STORIES}


@contextmanager
def court_in(folder: Path) -> Iterator[Court]:
    """Yield a court that sits in ``folder``."""
    with stage_in(folder) as stage:
        yield Court(stage)
