"""Row 8: a clock that is 10 years behind or ahead, that jumps, and 90 days without power."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Final

from asdic.contract.messages import UpdateState
from tests.faults.explore import Explorer, Prepare, outcome_of
from tests.faults.row import Outcome, Row
from tests.faults.scenario import NEW, ON_THE_WAY, Scenario
from tests.faults.stage import stage_in
from tests.faults.world import World

YEARS: Final = timedelta(days=3653)
OFF: Final = MappingProxyType(
    {
        "10 years back": -YEARS,
        "10 years ahead": YEARS,
        "90 days without power": timedelta(days=90),
        "half a year without power": timedelta(days=183),
    }
)
JUMPS: Final = MappingProxyType({"jumps 10 years back": -YEARS, "jumps 10 years ahead": YEARS})


@contextmanager
def clocks(folder: Path) -> Iterator[Callable[[str], Outcome]]:
    """Yield what starts a device in a state with a clock that is wrong, or that jumps in it."""
    with stage_in(folder) as stage:

        def try_point(point: str) -> Outcome:
            name, _, what = point.partition(": ")
            state = UpdateState(name)
            begin = "on-1.0.0" if what in JUMPS else f"in-{name}"
            explorer = Explorer(stage, Scenario(name=point, begin=begin, offer=NEW, ends=NEW))
            prepare = _jumps(state, JUMPS[what]) if what in JUMPS else _is_off(OFF[what])
            played = explorer.play(*stage.begin(explorer.scenario), prepare=prepare)
            return outcome_of(point, [played], runs=explorer.runs, cases=1)

        yield try_point


def _is_off(by: timedelta) -> Prepare:
    def prepare(world: World) -> None:
        world.clock_off = by

    return prepare


def _jumps(state: UpdateState, by: timedelta) -> Prepare:
    def prepare(world: World) -> None:
        def jump(entered: UpdateState) -> None:
            if entered is state:
                world.clock_off = by

        world.entered = jump

    return prepare


ROW: Final = Row(
    name="clock",
    number=8,
    fault="clock 10 years back, 10 years ahead, jump in mid-update; 90 days and half a year off",
    points=lambda: [f"{state.value}: {what}" for state in ON_THE_WAY for what in (*OFF, *JUMPS)],
    open=clocks,
    sample=8,
)
