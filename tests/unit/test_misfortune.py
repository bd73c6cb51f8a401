"""A simulated device with bad luck: damaged models, full and failing disks, releases that fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from asdic.contract.messages import UpdateState
from asdic.device.update.steps import PROBATIONS_LIMIT
from tests.faults.around import Memory
from tests.faults.disk import Entry, Hook, SimulatedDisk, Tree, read_tree
from tests.faults.explore import Explorer
from tests.faults.scenario import NEW, OLD, ROTTEN, SCHEMA_1, UNFIT, Scenario
from tests.faults.stage import Stage
from tests.faults.world import World, quiet

_S = UpdateState


@pytest.fixture
def device(stage: Stage) -> Callable[..., World]:
    """Makes a boot of a device whose states are noted in ``states``."""

    def make(tree: Tree, offer: str | None = None) -> World:
        retained = stage.shore.offers[offer] if offer else None
        gated = {stage.hex(version) for version in (OLD, NEW, UNFIT)}
        disk = SimulatedDisk(stage.folder / "disk", tree)
        scenario = Scenario(name="misfortune", begin="", ends=None)
        return Explorer(stage, scenario).world(disk, Memory(retained=retained, gated=gated))

    return make


def states_of(world: World) -> list[UpdateState]:
    states: list[UpdateState] = []
    world.entered = states.append
    with quiet():
        world.run()
    return states


def refusal_of(world: World) -> str:
    refusal = world.memory.reports[-1]["refusal"]
    return str(refusal["code"]) if refusal else ""


def loaded_of(report: dict[str, object]) -> object:
    loaded = report["loaded"]
    return loaded["manifest"] if isinstance(loaded, dict) else None


# Damage.


def test_a_damaged_release_gives_way_to_the_previous_one_and_is_fetched_again(
    stage: Stage, device: Callable[..., World]
) -> None:
    world = device(stage.template(f"on-1.1.0{ROTTEN}"))
    states = states_of(world)
    assert states[:3] == [_S.ROLLING_BACK, _S.ROLLED_BACK, _S.FAILED]
    assert states[3:] == [
        *(_S.OFFERED, _S.FETCHING, _S.VERIFYING, _S.STAGED, _S.GATING),
        *(_S.ACTIVATING, _S.PROBATION, _S.COMMITTED),
    ]
    assert world.program.running == stage.hex(NEW)
    first_of_new = world.memory.ran.index(stage.hex(NEW))
    assert set(world.memory.ran[:first_of_new]) == {stage.hex(OLD)}


def test_a_damaged_release_without_another_is_no_model_until_it_is_fetched_again(
    stage: Stage, device: Callable[..., World]
) -> None:
    world = device(stage.template(f"on-1.0.0{ROTTEN}"))
    states = states_of(world)
    assert states[:3] == [_S.ROLLING_BACK, _S.ROLLED_BACK, _S.FAILED]
    failed = next(one for one in world.memory.reports if one["state"] == "failed")
    assert (loaded_of(failed), failed["refusal"]["code"]) == (None, "damaged")
    assert "the current model is damaged on this disk" in failed["refusal"]["message"]
    assert world.is_in(_S.COMMITTED)
    assert world.program.running == stage.hex(OLD)


def all_rotten(tree: Tree) -> Tree:
    """Return the tree with every model damaged and no offer that could bring one."""
    models = {one.content for one in tree if one.path.endswith("/model.onnx")}
    return tuple(
        Entry(one.path, one.kind, bytes(8), one.inode) if one.content in models else one
        for one in tree
        if one.path != "offer.json"
    )


def test_with_both_releases_damaged_there_is_no_model_and_never_a_result(
    stage: Stage, device: Callable[..., World]
) -> None:
    world = device(all_rotten(stage.template("on-1.1.0")))
    assert states_of(world) == [_S.ROLLING_BACK, _S.ROLLED_BACK, _S.FAILED]
    assert world.program.running is None
    assert world.memory.ran == []
    assert {loaded_of(report) for report in world.memory.reports} == {None}
    assert refusal_of(world) == "damaged"


def test_a_box_without_a_whole_release_is_none_the_wiser_after_a_restart(
    stage: Stage, device: Callable[..., World]
) -> None:
    world = device(all_rotten(stage.template("on-1.1.0")))
    states_of(world)
    again = device(read_tree(world.disk.folder))
    states_of(again)
    assert again.memory.ran == []
    assert again.program.running is None


def test_a_box_without_a_whole_release_takes_the_next_offer(
    stage: Stage, device: Callable[..., World]
) -> None:
    world = device(all_rotten(stage.template("on-1.1.0")))
    states_of(world)
    with quiet():
        world.publish(f"{NEW} again")
        world.go_on()
    assert world.is_in(_S.COMMITTED)
    assert world.program.running == stage.hex(NEW)


# Disks.


def full_while(is_full: Callable[[], bool], reserve: Path) -> Hook:
    """Return what lets a disk take nothing new while it is full and its reserve is there."""

    def refuse(_number: int, call: str, path: Path) -> None:
        grows = call in {"create", "write", "symlink", "link", "make_folder"}
        if grows and is_full() and reserve.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    return refuse


def test_a_bad_model_is_left_on_a_disk_that_somebody_filled_meanwhile(
    stage: Stage, device: Callable[..., World]
) -> None:
    world = device(stage.template("on-1.0.0"), UNFIT)
    reserve = world.state.reserve
    had_reserve: dict[UpdateState, bool] = {}

    def note(state: UpdateState) -> None:
        had_reserve[state] = reserve.exists()

    world.entered = note
    world.disk.before = full_while(lambda: _S.PROBATION in had_reserve, reserve)
    with quiet():
        world.run()
    assert world.program.running == stage.hex(OLD)
    assert world.is_in(_S.FAILED)
    assert refusal_of(world) == "unhealthy"
    assert (had_reserve[_S.PROBATION], had_reserve[_S.ROLLING_BACK]) == (True, False)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_the_first_start_of_a_newer_agent_on_a_disk_that_takes_nothing_runs_the_model(
    stage: Stage, device: Callable[..., World], number: int
) -> None:
    world = device(stage.template(f"on-1.0.0{SCHEMA_1}"))

    def refuse(_number: int, _call: str, path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    world.disk.before = refuse
    with quiet():
        world.start()
        world.go_on(10)
    assert world.program.running == stage.hex(OLD)


def test_room_for_the_journal_is_kept_again_once_there_is_some(
    stage: Stage, device: Callable[..., World]
) -> None:
    world = device(stage.template("on-1.0.0"))
    world.state.reserve.unlink()
    states_of(world)
    assert world.state.reserve.exists()


@pytest.mark.parametrize(
    ("state", "name"),
    [(_S.VERIFYING, "/releases/"), (_S.STAGED, "candidate"), (_S.ACTIVATING, "current")],
)
def test_a_disk_that_fails_for_a_moment_is_tried_again(
    stage: Stage, device: Callable[..., World], state: UpdateState, name: str
) -> None:
    world = device(stage.template("on-1.0.0"), NEW)
    failed: list[Path] = []

    def fail(_number: int, _call: str, path: Path) -> None:
        if world.is_in(state) and name in str(path) and len(failed) < 3:
            failed.append(path)
            raise OSError(errno.EIO, "broken")

    world.disk.before = fail
    states = states_of(world)
    assert len(failed) == 3
    assert states.count(state) == 1
    assert world.is_in(_S.COMMITTED)
    assert world.program.running == stage.hex(NEW)


# Again and again.


def tried(stage: Stage, device: Callable[..., World], times: int) -> World:
    """Return a device on which the unfit release has failed so often, each in its own rollout."""
    world = device(stage.template("on-1.0.0"))
    with quiet():
        world.run()
        for number in range(times):
            world.publish(f"{UNFIT} {number}")
            world.go_on()
            assert world.is_in(_S.FAILED)
            assert refusal_of(world) == "unhealthy"
    return world


def test_a_release_that_failed_in_use_again_and_again_is_not_tried_any_more(
    stage: Stage, device: Callable[..., World]
) -> None:
    world = tried(stage, device, PROBATIONS_LIMIT)
    ran = len(world.memory.ran)
    with quiet():
        world.publish(f"{UNFIT} {PROBATIONS_LIMIT}")
        world.go_on()
    assert world.is_in(_S.REJECTED)
    assert refusal_of(world) == "failed-before"
    assert stage.hex(UNFIT) not in world.memory.ran[ran:]
    assert world.program.running == stage.hex(OLD)


def test_before_that_a_new_rollout_is_another_chance(
    stage: Stage, device: Callable[..., World]
) -> None:
    tried(stage, device, PROBATIONS_LIMIT)


def test_that_is_remembered_over_a_restart(stage: Stage, device: Callable[..., World]) -> None:
    world = tried(stage, device, PROBATIONS_LIMIT)
    again = device(read_tree(world.disk.folder), f"{UNFIT} {PROBATIONS_LIMIT}")
    states_of(again)
    assert refusal_of(again) == "failed-before"


def test_another_release_is_taken_all_the_same(stage: Stage, device: Callable[..., World]) -> None:
    world = tried(stage, device, PROBATIONS_LIMIT)
    with quiet():
        world.publish(f"{NEW} again")
        world.go_on()
    assert world.is_in(_S.COMMITTED)


def test_a_person_may_try_it_once_more(stage: Stage, device: Callable[..., World]) -> None:
    world = tried(stage, device, PROBATIONS_LIMIT)
    with quiet():
        world.update.take_offer(stage.shore.offers[f"{UNFIT} {PROBATIONS_LIMIT}"], again=True)
        world.go_on()
    assert refusal_of(world) == "unhealthy"
