"""Agents up- and downgraded in the middle of an update: older files go on, newer ones are left."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from asdic.contract.errors import InstallError
from asdic.contract.files import canonical_json
from asdic.contract.messages import UpdateState
from asdic.device.update.sealed import SCHEMA, seal_line, unseal_line
from tests.faults.disk import Entry, SimulatedDisk, Tree, read_tree
from tests.faults.explore import Explorer
from tests.faults.row import Forbidden
from tests.faults.scenario import NEW, NEWEST, OLD, ON_THE_WAY, SCHEMA_1, Scenario
from tests.faults.stage import LEADS_TO, Stage
from tests.faults.world import World

NEWER = SCHEMA + 1
EVERY_STATE = tuple(state for state in UpdateState if state is not UpdateState.IDLE)
ENDS: Mapping[UpdateState, str] = {
    **dict.fromkeys(ON_THE_WAY, NEW),
    UpdateState.DEFERRED: NEW,
    UpdateState.ROLLING_BACK: OLD,
    UpdateState.ROLLED_BACK: OLD,
}
"""What a device runs in the end that goes on in a state."""

TEMPLATES: Mapping[UpdateState, str] = {
    UpdateState.REJECTED: "after-damaged",
    UpdateState.FAILED: "after-1.3.0",
}
"""The disks of states in which no update stops half-way."""

NEWER_FILES: Mapping[str, tuple[str, ...]] = {
    "journal": ("journal.json",),
    "store": ("store/schema.json",),
    "floor": ("trust/floor.json",),
    "copies": ("trust/metadata.json",),
    "everything": (
        *("journal.json", "store/schema.json", "trust/floor.json", "trust/metadata.json"),
        "reports/number",
    ),
}


STANDS_STILL = frozenset({Forbidden.STUCK, Forbidden.LEAK})
"""What the judge says of a device in the middle of an update that does not go on."""


def boot(
    stage: Stage, tree: Tree, scenario: Scenario, *, allowed: frozenset[Forbidden] = frozenset()
) -> World:
    """Let a device go on from ``tree`` until it is at rest."""
    worlds: list[World] = []
    played = Explorer(stage, scenario).play(tree, stage.memory(scenario), prepare=worlds.append)
    assert allowed.issuperset(played.forbidden), played.detail
    return worlds[-1]


@pytest.mark.parametrize("state", ENDS)
def test_a_newer_agent_goes_on_with_what_the_first_ones_began(
    stage: Stage, state: UpdateState
) -> None:
    begin = f"in-{state.value}{SCHEMA_1}"
    offer = LEADS_TO.get(state, NEW)
    scenario = Scenario(name="upgrade", begin=begin, offer=offer, ends=ENDS[state])
    tree = stage.template(begin)
    assert b'"schema"' not in content_of(tree, "journal.json")
    world = boot(stage, tree, scenario)
    assert world.program.running == stage.hex(ENDS[state])
    assert world.is_in(UpdateState.COMMITTED if ENDS[state] is NEW else UpdateState.FAILED)


def test_report_numbers_grow_over_an_upgrade(stage: Stage) -> None:
    begin = f"in-gating{SCHEMA_1}"
    before = int(content_of(stage.template(begin), "reports/number"))
    world = boot(stage, stage.template(begin), Scenario(name="upgrade", begin=begin, ends=NEW))
    assert world.memory.reports[0]["number"] == before + 1


def content_of(tree: Tree, path: str) -> bytes:
    return next(entry.content for entry in tree if entry.path == path)


def by_a_newer_agent(tree: Tree, paths: tuple[str, ...]) -> Tree:
    """Return the tree with files that say a newer schema, and something that only it knows."""
    return tuple(_newer(entry) if entry.path in paths else entry for entry in tree)


def _newer(entry: Entry) -> Entry:
    value = json.loads(unseal_line(entry.content, what=entry.path))
    known = {**value, "schema": NEWER, "state": "levitating", "only": ["newer", "agents", "know"]}
    return replace(entry, content=seal_line(canonical_json(known)))


def lasting(tree: Tree) -> dict[str, bytes]:
    """Return all that is not reported."""
    return {one.path: one.content for one in tree if not one.path.startswith("reports")}


def template_of(state: UpdateState) -> str:
    return TEMPLATES.get(state, f"in-{state.value}")


@pytest.mark.parametrize("state", EVERY_STATE)
@pytest.mark.parametrize("files", NEWER_FILES)
def test_an_older_agent_leaves_everything_as_it_is_and_says_why(
    stage: Stage, state: UpdateState, files: str
) -> None:
    begin = template_of(state)
    tree = by_a_newer_agent(stage.template(begin), NEWER_FILES[files])
    scenario = Scenario(name="downgrade", begin=begin, offer=NEWEST, ends=None)
    world = boot(stage, tree, scenario, allowed=STANDS_STILL)
    last = world.memory.reports[-1]
    assert lasting(read_tree(world.disk.folder)) == lasting(tree)
    assert world.program.running == content_of(tree, "current").decode().rpartition("/")[2]
    assert last["loaded"]["manifest"] == f"sha256:{world.program.running}"
    assert last["refusal"]["code"] == "newer-schema"
    assert not world.update.has_pending


def test_the_newer_agent_goes_on_where_it_was_after_all(stage: Stage) -> None:
    begin = "in-gating"
    tree = by_a_newer_agent(stage.template(begin), ("store/schema.json",))
    scenario = Scenario(name="downgrade", begin=begin, ends=None)
    world = boot(stage, tree, scenario, allowed=STANDS_STILL)
    left = tuple(
        next(one for one in stage.template(begin) if one.path == entry.path)
        if entry.path == "store/schema.json"
        else entry
        for entry in read_tree(world.disk.folder)
    )
    again = boot(stage, left, Scenario(name="upgrade", begin=begin, ends=NEW))
    assert again.program.running == stage.hex(NEW)


def _withdrawn(world: World) -> None:
    world.update.take_offer(b"")


def _back_by_hand(world: World) -> None:
    with pytest.raises(InstallError, match=f"is of schema {NEWER}"):
        world.update.send_back(now=True)


def _asked_by_hand(world: World) -> None:
    world.update.take_offer(world.shore.offers[NEW], again=True, now=True)


@pytest.mark.parametrize("ask", [_withdrawn, _back_by_hand, _asked_by_hand])
def test_nobody_moves_what_a_newer_agent_wrote(stage: Stage, ask: Callable[[World], None]) -> None:
    tree = by_a_newer_agent(stage.template("on-1.1.0"), NEWER_FILES["everything"])
    disk = SimulatedDisk(stage.folder / "disk", tree)
    scenario = Scenario(name="downgrade", begin="on-1.1.0", ends=NEW)
    world = Explorer(stage, scenario).world(disk, stage.memory(scenario))
    world.run()
    ask(world)
    world.go_on(5)
    assert lasting(read_tree(disk.folder)) == lasting(tree)
