"""Rows 1 to 3: the power goes at every call on the disk, at every pair of them, five times."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.faults.around import Memory
from tests.faults.disk import MODELS, PowerCut, SimulatedDisk, Tree
from tests.faults.explore import BUGS, Explorer, Played, outcome_of
from tests.faults.row import Outcome, Row
from tests.faults.scenario import STORIES, Scenario
from tests.faults.stage import Stage, stage_in
from tests.faults.world import quiet

PARTS: Final = 32
SEEDS: Final = 10_000
SEEDS_A_POINT: Final = 100
STOPS: Final = 5
RANDOM_STORIES: Final = ("install", "update", "repeated", "rollback")


@contextmanager
def explorers_in(
    folder: Path, stories: Sequence[Scenario] = STORIES
) -> Iterator[dict[str, Explorer]]:
    """Yield an explorer for each story, by name."""
    with stage_in(folder) as stage:
        yield {story.name: Explorer(stage, story) for story in stories}


@contextmanager
def one_stop(
    folder: Path, stories: Sequence[Scenario] = STORIES
) -> Iterator[Callable[[str], Outcome]]:
    """Yield what stops a story at every call."""
    with explorers_in(folder, stories) as explorers:

        def try_point(point: str) -> Outcome:
            explorer = explorers[point]
            before = explorer.runs
            played = [explorer.go_on(stop) for stop in explorer.first().stops]
            return outcome_of(point, played, runs=explorer.runs - before, cases=len(played))

        yield try_point


@contextmanager
def two_stops(folder: Path) -> Iterator[Callable[[str], Outcome]]:
    """Yield what stops a story at every call of a part, and the recovery at each of its calls."""
    with explorers_in(folder) as explorers:

        def try_point(point: str) -> Outcome:
            name, part = point.rsplit(" ", 1)
            explorer = explorers[name]
            before = explorer.runs
            firsts = [
                stop
                for stop in explorer.first().stops
                if stop.call % PARTS == int(part.partition("/")[0])
            ]
            played = [
                explorer.go_on(second)
                for first in firsts
                for second in explorer.go_on(first, collects=True).stops
            ]
            return outcome_of(point, played, runs=explorer.runs - before, cases=len(played))

        yield try_point


@contextmanager
def five_stops(folder: Path) -> Iterator[Callable[[str], Outcome]]:
    """Yield what stops stories five times at random."""
    with explorers_in(folder) as explorers:

        def try_point(point: str) -> Outcome:
            first = int(point.split()[1])
            played = [
                _stopped_five_times(explorers[RANDOM_STORIES[seed % len(RANDOM_STORIES)]], seed)
                for seed in range(first, first + SEEDS_A_POINT)
            ]
            return outcome_of(point, played, runs=len(played) * (STOPS + 1), cases=len(played))

        yield try_point


def _stopped_five_times(explorer: Explorer, seed: int) -> Played:
    chance = random.Random(seed)  # noqa: S311 - a repeatable choice
    calls = explorer.first().calls
    tree, memory = explorer.stage.begin(explorer.scenario)
    for _ in range(STOPS):
        tree, memory = _cut(explorer, tree, memory, chance.randrange(calls), chance)
    return explorer.play(tree, memory)


def _cut(
    explorer: Explorer, tree: Tree, memory: Memory, call: int, chance: random.Random
) -> tuple[Tree, Memory]:
    """Run until a call, or to rest where there are fewer; return what the power cut leaves."""
    stage: Stage = explorer.stage

    def stop(number: int, _name: str, _path: Path) -> None:
        if number == call:
            raise PowerCut

    memory = memory.copy()
    disk = SimulatedDisk(stage.folder / "disk", tree, before=stop)
    world = explorer.world(disk, memory)
    with quiet():
        try:
            world.run()
        except PowerCut:
            pass
        except BUGS:
            pass  # It is started again, and judged in the end.
    return chance.choice(list(disk.trees(chance.choice(MODELS)))), memory


def _parts() -> list[str]:
    return [f"{story.name} {part}/{PARTS}" for story in STORIES for part in range(PARTS)]


def _seeds() -> list[str]:
    return [f"seeds {first} on" for first in range(0, SEEDS, SEEDS_A_POINT)]


ONE: Final = Row(
    name="one-stop",
    number=1,
    fault="stop at every storage operation, on the three disk models; restart",
    points=lambda: [story.name for story in STORIES],
    open=one_stop,
    sample=4,
)
TWO: Final = Row(
    name="two-stops",
    number=2,
    fault="a second stop at every operation of the recovery",
    points=_parts,
    open=two_stops,
    sample=2,
)
FIVE: Final = Row(
    name="five-stops",
    number=3,
    fault="five random stops",
    points=_seeds,
    open=five_stops,
    sample=1,
)
