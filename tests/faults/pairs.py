"""Rows 11 to 13: model and firmware as one update, stopped and failed at every call of its way.

A stop may take the microcontroller's power with it or not. Both are tried at each call on the disk
and at each call to the microcontroller, chunks of an upload included.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from asdic.firmware_bridge.simulator import Fault
from tests.faults.explore import Explorer, Played, Stop, outcome_of
from tests.faults.row import Outcome, Row
from tests.faults.scenario import PAIR_STORIES
from tests.faults.stops import explorers_in, one_stop
from tests.faults.world import World

STOPS: Final = 4
SEEDS: Final = 400
SEEDS_A_POINT: Final = 20
FAULTS: Final = tuple(fault for fault in Fault if fault is not Fault.NONE)

_BY_NAME: Final = {story.name: story for story in PAIR_STORIES}


def is_at_microcontroller(stop: Stop) -> bool:
    """Return whether a stop came right after a call to the microcontroller."""
    return stop.name in {"info", "upload", "chunk", "mark_for_test", "confirm", "reset"}


@contextmanager
def many_stops(folder: Path) -> Iterator[Callable[[str], Outcome]]:
    """Yield what stops stories again and again at random."""
    with explorers_in(folder, PAIR_STORIES) as explorers:

        def try_point(point: str) -> Outcome:
            first = int(point.split()[1])
            played = [
                stopped_often(explorers, seed) for seed in range(first, first + SEEDS_A_POINT)
            ]
            return outcome_of(point, played, runs=len(played) * (STOPS + 1), cases=len(played))

        yield try_point


def stopped_often(explorers: dict[str, Explorer], seed: int) -> Played:
    """Return how a story ends that is stopped ``STOPS`` times, each time on its way back."""
    chance = random.Random(seed)  # noqa: S311 - a repeatable choice
    explorer = explorers[chance.choice(sorted(explorers))]
    played = explorer.first()
    for _ in range(STOPS):
        if not played.stops:
            break
        stop = chance.choice(played.stops)
        played = explorer.play(stop.tree, stop.memory, collects=True)
    return played


@contextmanager
def failed_calls(folder: Path) -> Iterator[Callable[[str], Outcome]]:
    """Yield what lets one call to the microcontroller fail, each in turn."""
    with explorers_in(folder, PAIR_STORIES) as explorers:

        def try_point(point: str) -> Outcome:
            name, fault = point.split(" ")
            played = failed(explorers[name], Fault(fault))
            return outcome_of(point, played, runs=len(played), cases=len(played))

        yield try_point


def failed(explorer: Explorer, fault: Fault) -> list[Played]:
    """Return how a story ends with each of its calls to the microcontroller failing once."""
    return [_failed_at(explorer, fault, call) for call in range(_calls(explorer))]


def _failed_at(explorer: Explorer, fault: Fault, call: int) -> Played:
    def prepare(world: World) -> None:
        if world.memory.board is not None and world.memory.boots == 1:
            world.memory.board.fail_next(*[Fault.NONE] * call, fault)

    return explorer.play(*explorer.stage.begin(explorer.scenario), prepare=prepare)


def _calls(explorer: Explorer) -> int:
    """Return how many calls to the microcontroller the story takes without a fault."""
    worlds: list[World] = []
    explorer.play(*explorer.stage.begin(explorer.scenario), prepare=worlds.append)
    wire = worlds[0].wire
    return wire.calls if wire is not None else 0


ONE: Final = Row(
    name="pair-stops",
    number=11,
    fault="model and firmware: stop at every storage operation and every call to the "
    "microcontroller, whose power goes too or not; restart",
    points=lambda: list(_BY_NAME),
    open=partial(one_stop, stories=PAIR_STORIES),
    sample=1,
)
MANY: Final = Row(
    name="pair-many-stops",
    number=12,
    fault="model and firmware: four random stops of that kind",
    points=lambda: [f"seeds {first} on" for first in range(0, SEEDS, SEEDS_A_POINT)],
    open=many_stops,
    sample=1,
)
CALLS: Final = Row(
    name="pair-calls",
    number=13,
    fault="model and firmware: each call to the microcontroller lost, refused, reset or garbled",
    points=lambda: [f"{name} {fault.value}" for name in _BY_NAME for fault in FAULTS],
    open=failed_calls,
    sample=2,
)
