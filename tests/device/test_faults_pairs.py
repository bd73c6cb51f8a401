"""Model and firmware as one update: a sample of rows 11 to 13, and devices that must be caught."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asdic.device.update import pair, steps
from asdic.device.update.microcontroller import Look
from asdic.firmware_bridge.simulator import Fault
from tests.faults import pairs
from tests.faults.explore import Explorer, Played
from tests.faults.row import Forbidden
from tests.faults.scenario import PAIR_STORIES
from tests.faults.stops import explorers_in

NAMES = [story.name for story in PAIR_STORIES]


@pytest.fixture(scope="module")
def explorers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Explorer]]:
    with explorers_in(tmp_path_factory.mktemp("pairs"), PAIR_STORIES) as made:
        yield made


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[dict[str, Explorer]]:
    """Explorers that know nothing of how the whole code plays, for a worse one."""
    with explorers_in(tmp_path, PAIR_STORIES) as made:
        yield made


def ends(explorer: Explorer) -> list[Played]:
    """Return how a story ends without a fault, and after each stop at the microcontroller."""
    first = explorer.first()
    stops = (stop for stop in first.stops if pairs.is_at_microcontroller(stop))
    return [first, *(explorer.go_on(stop) for stop in stops)]


def forbidden(played: list[Played]) -> set[Forbidden]:
    return {name for one in played for name in one.forbidden}


@pytest.mark.parametrize("name", NAMES)
def test_a_stop_at_each_call_to_the_microcontroller_leaves_a_pair(
    explorers: dict[str, Explorer], name: str
) -> None:
    played = ends(explorers[name])
    assert len(played) > 20
    assert [one.detail for one in played if one.forbidden] == []


@pytest.mark.parametrize("name", ["pair", "pair-unfit"])
def test_a_stop_at_each_journal_entry_leaves_a_pair(
    explorers: dict[str, Explorer], name: str
) -> None:
    explorer = explorers[name]
    stops = [stop for stop in explorer.first().stops if stop.name == "sync_folder"]
    assert len(stops) > 20
    assert forbidden([explorer.go_on(stop) for stop in stops]) == set()


@pytest.mark.parametrize("fault", pairs.FAULTS)
@pytest.mark.parametrize("name", ["pair", "pair-no-trial-unfit"])
def test_each_call_to_the_microcontroller_may_fail(
    explorers: dict[str, Explorer], name: str, fault: Fault
) -> None:
    played = pairs.failed(explorers[name], fault)
    assert len(played) > 10
    assert [one.detail for one in played if one.forbidden] == []


def test_a_device_that_takes_the_model_back_alone_is_caught(
    fresh: dict[str, Explorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "is_firmware_back", lambda _work: True)
    assert Forbidden.MIXED in forbidden(ends(fresh["pair-unfit"]))


def test_a_device_that_commits_what_it_has_not_kept_is_caught(
    fresh: dict[str, Explorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair, "Keep", lambda wanted: Look())  # noqa: ARG005 - Keep's own name
    monkeypatch.setattr(pair, "is_kept", lambda _seen, _wanted: True)
    assert {Forbidden.MIXED, Forbidden.LIED} <= forbidden(ends(fresh["pair"]))


def test_a_device_that_believes_every_bootloader_to_revert_is_caught(
    fresh: dict[str, Explorer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair, "REVERTING", {"swap", "overwrite"})
    assert Forbidden.MIXED in forbidden(ends(fresh["pair-no-trial-unfit"]))
