"""The stories of the table of faults end as they say, and its judge sees what it must not miss."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import pytest

from asdic.contract.messages import UpdateState
from asdic.device.update import state
from tests.faults.disk import lay_out
from tests.faults.every_row import EVERY_ROW
from tests.faults.explore import Explorer, Played
from tests.faults.oracle import Evidence, forbidden_in
from tests.faults.row import Forbidden
from tests.faults.scenario import BAD, NEW, NEWEST, OLD, Scenario
from tests.faults.stage import Stage
from tests.faults.world import World
from tests.support.boards import digest_of_image

RowOfTable = tuple[UpdateState, state.UpdateEvent]


class Noting(dict[RowOfTable, UpdateState]):
    """The transition table, which notes what is looked up in it."""

    def __init__(self, table: MappingProxyType[RowOfTable, UpdateState]) -> None:
        super().__init__(table)
        self.used: set[RowOfTable] = set()

    def __getitem__(self, row: RowOfTable) -> UpdateState:
        self.used.add(row)
        return super().__getitem__(row)


def play(stage: Stage, scenario: Scenario) -> tuple[Played, World]:
    worlds: list[World] = []
    explorer = Explorer(stage, scenario)
    return explorer.play(*stage.begin(scenario), prepare=worlds.append), worlds[-1]


@pytest.mark.parametrize("scenario", EVERY_ROW, ids=lambda one: one.name)
def test_a_story_ends_as_it_says(stage: Stage, scenario: Scenario) -> None:
    played, world = play(stage, scenario)
    stands = {Forbidden.STUCK} if scenario.state is UpdateState.INCONSISTENT else set()
    running = stage.signed.get(world.program.running or "")
    assert set(played.forbidden) <= stands, played.detail
    assert (running.version if running else None) == scenario.ends
    assert world.is_in(scenario.state)
    if world.memory.board is not None:
        assert world.memory.board.running == digest_of_image(scenario.ends_with)


def test_every_row_of_the_table_is_used_by_a_story(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for scenario in EVERY_ROW:
        stage.begin(scenario)
    noting = Noting(state.TRANSITIONS)
    monkeypatch.setattr(state, "TRANSITIONS", noting)
    for scenario in EVERY_ROW:
        play(stage, scenario)
    assert set(state.TRANSITIONS) - noting.used == set()


def test_no_two_stories_have_one_name() -> None:
    names = [scenario.name for scenario in EVERY_ROW]
    assert sorted(set(names)) == sorted(names)


@pytest.fixture
def rested(stage: Stage, tmp_path: Path) -> Evidence:
    """What is left of a device that has gone from the old release to the new one."""
    folder = tmp_path / "box"
    lay_out(stage.template("on-1.1.0"), folder)
    new = stage.hex(NEW)
    report = {
        "number": 7,
        "state": "committed",
        "manifest": f"sha256:{new}",
        "loaded": {"manifest": f"sha256:{new}", "version": NEW},
    }
    return Evidence(
        folder=folder,
        signed=stage.signed,
        running=new,
        ran=(stage.hex(OLD), new),
        gated={stage.hex(OLD), new},
        reports=(report,),
    )


def test_the_judge_has_nothing_against_a_device_that_is_well(rested: Evidence) -> None:
    assert forbidden_in(rested) == ()


def said(evidence: Evidence, **changes: object) -> Evidence:
    """Return the evidence with another last word of the device."""
    return replace(evidence, reports=({**evidence.reports[0], **changes},))


def nothing_runs(stage: Stage, evidence: Evidence) -> Evidence:
    return said(replace(evidence, running=None), loaded=None)


def a_byte_is_wrong(stage: Stage, evidence: Evidence) -> Evidence:
    model = (evidence.folder / "current").resolve() / "model.onnx"
    data = model.read_bytes()
    model.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return evidence


def a_file_is_of_another_release(stage: Stage, evidence: Evidence) -> Evidence:
    old, new = ((evidence.folder / name).resolve() for name in ("previous", "current"))
    (new / "model.onnx").unlink()
    shutil.copy(old / "model.onnx", new / "model.onnx")
    return evidence


def a_file_is_one_too_many(stage: Stage, evidence: Evidence) -> Evidence:
    ((evidence.folder / "current").resolve() / "more").touch()
    return evidence


def it_ran_what_nobody_signed(stage: Stage, evidence: Evidence) -> Evidence:
    return replace(evidence, ran=(*evidence.ran, 64 * "0"))


def it_ran_what_the_gate_refuses(stage: Stage, evidence: Evidence) -> Evidence:
    return replace(evidence, ran=(stage.hex(BAD), *evidence.ran))


def it_ran_what_had_no_trial(stage: Stage, evidence: Evidence) -> Evidence:
    return replace(evidence, gated={stage.hex(OLD)})


def it_committed_a_higher_counter_before(stage: Stage, evidence: Evidence) -> Evidence:
    before = {**evidence.reports[0], "number": 6, "manifest": f"sha256:{stage.hex(NEWEST)}"}
    return replace(evidence, reports=(before, *evidence.reports))


def it_may_go_back_below_the_counter(stage: Stage, evidence: Evidence) -> Evidence:
    newest = stage.hex(NEWEST)
    manifest = f"sha256:{newest}"
    lay_out(stage.template(f"after-{NEWEST}"), evidence.folder)
    (evidence.folder / "previous").symlink_to(f"releases/{stage.hex(NEW)}")
    ran = replace(evidence, running=newest, ran=(newest,), gated={newest})
    return said(ran, manifest=manifest, loaded={"manifest": manifest, "version": NEWEST})


def the_update_has_not_ended(stage: Stage, evidence: Evidence) -> Evidence:
    return _with_journal(evidence, b'{"state":"gating"}\n')


def the_device_waits_for_a_person(stage: Stage, evidence: Evidence) -> Evidence:
    return _with_journal(evidence, b'{"state":"inconsistent"}\n')


def the_journal_is_rubbish(stage: Stage, evidence: Evidence) -> Evidence:
    return _with_journal(evidence, b"{")


def _with_journal(evidence: Evidence, data: bytes) -> Evidence:
    (evidence.folder / "journal.json").write_bytes(data)
    return evidence


def it_names_another_model(stage: Stage, evidence: Evidence) -> Evidence:
    return said(evidence, loaded={"manifest": f"sha256:{stage.hex(OLD)}", "version": OLD})


def it_names_the_model_by_another_version(stage: Stage, evidence: Evidence) -> Evidence:
    return said(evidence, loaded={**evidence.reports[0]["loaded"], "version": OLD})


def it_names_a_model_and_runs_none(stage: Stage, evidence: Evidence) -> Evidence:
    for name in ("current", "previous"):
        (evidence.folder / name).unlink()
    for name in ("releases", "gated", "store"):
        shutil.rmtree(evidence.folder / name)
    return replace(evidence, running=None)


def it_uses_a_number_twice(stage: Stage, evidence: Evidence) -> Evidence:
    other = {**evidence.reports[0], "state": "idle"}
    return replace(evidence, reports=(other, *evidence.reports))


def it_lost_what_it_had_committed(stage: Stage, evidence: Evidence) -> Evidence:
    return replace(evidence, has_lost_it=True)


def leaves(name: str) -> Callable[[Stage, Evidence], Evidence]:
    def leave(stage: Stage, evidence: Evidence) -> Evidence:
        path = evidence.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return evidence

    return leave


@pytest.mark.parametrize(
    ("happens", "forbidden"),
    [
        (nothing_runs, Forbidden.BRICK),
        (a_byte_is_wrong, Forbidden.MIXED),
        (a_file_is_of_another_release, Forbidden.MIXED),
        (a_file_is_one_too_many, Forbidden.MIXED),
        (it_ran_what_nobody_signed, Forbidden.UNVERIFIED_RAN),
        (it_ran_what_the_gate_refuses, Forbidden.UNVERIFIED_RAN),
        (it_ran_what_had_no_trial, Forbidden.UNVERIFIED_RAN),
        (it_committed_a_higher_counter_before, Forbidden.DOWNGRADED),
        (it_may_go_back_below_the_counter, Forbidden.DOWNGRADED),
        (the_update_has_not_ended, Forbidden.STUCK),
        (the_device_waits_for_a_person, Forbidden.STUCK),
        (the_journal_is_rubbish, Forbidden.STUCK),
        (it_names_another_model, Forbidden.LIED),
        (it_names_the_model_by_another_version, Forbidden.LIED),
        (it_names_a_model_and_runs_none, Forbidden.LIED),
        (it_uses_a_number_twice, Forbidden.LIED),
        (it_lost_what_it_had_committed, Forbidden.LIED),
        (leaves("releases/" + 64 * "0" + "/model.onnx"), Forbidden.LEAK),
        (leaves("store/blobs/" + 64 * "0"), Forbidden.LEAK),
        (leaves("store/partial/" + 64 * "0"), Forbidden.LEAK),
        (leaves("gated/" + 64 * "0" + "/machine.json"), Forbidden.LEAK),
        (leaves(".journal.json.new"), Forbidden.LEAK),
    ],
)
def test_the_judge_sees_what_must_not_be(
    stage: Stage,
    rested: Evidence,
    happens: Callable[[Stage, Evidence], Evidence],
    forbidden: Forbidden,
) -> None:
    assert forbidden in forbidden_in(happens(stage, rested))


def test_the_judge_knows_a_device_that_has_had_no_update(stage: Stage, tmp_path: Path) -> None:
    assert forbidden_in(Evidence(folder=tmp_path, signed=stage.signed, running=None)) == ()
