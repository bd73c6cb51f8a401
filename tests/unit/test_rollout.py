"""Rollouts as values: stages, verdicts and the one pure function."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asdic.contract.errors import ConfigError
from asdic.contract.messages import Loaded, Refusal, Report, UpdateState
from asdic.fleet.decision import (
    OPEN_STATES,
    TRANSITIONS,
    OfferRelease,
    RolloutEvent,
    RolloutMoved,
    RolloutState,
    StageMoved,
    WithdrawOffer,
    step,
)
from asdic.fleet.judge import judge
from asdic.fleet.rollout import OFFER_REFRESH_S, Rollout, advance, move
from asdic.fleet.stage import (
    Member,
    MemberState,
    Policy,
    StageState,
    order_of,
    parse_steps,
    plan,
    split,
)

MANIFEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
NAMES = tuple(f"box-{n}" for n in range(6))


def rollout_of(*steps: str, devices: tuple[str, ...] = NAMES, **policy: Any) -> Rollout:
    stages, members, _ = plan(
        dict.fromkeys(devices, "t"), {"t": MANIFEST}, steps=steps or ("100%",), salt="s"
    )
    ready = Rollout(
        id="r1",
        version="1.0.0",
        salt="s",
        selection="all",
        created_s=0.0,
        stages=stages,
        members=members,
        policy=Policy(**policy),
    )
    return move(ready, RolloutEvent.START, reason="", now=0.0)[0]


def report_of(
    device: str, state: UpdateState, *, loaded: str | None = MANIFEST, rollout: str = "r1"
) -> Report:
    return Report(
        device=device,
        number=1,
        time_s=0.0,
        target="t",
        state=state,
        rollout=rollout,
        loaded=Loaded(manifest=loaded, version="1", pid=1, inferences=1) if loaded else None,
        refusal=Refusal(code="golden", message="differs") if state is UpdateState.FAILED else None,
    )


def reports_of(state: UpdateState, *devices: str, **fields: Any) -> dict[str, Report]:
    return {device: report_of(device, state, **fields) for device in devices}


def offered(decisions: object) -> set[str]:
    assert isinstance(decisions, tuple)
    return {one.device for one in decisions if isinstance(one, OfferRelease)}


def state_of(rollout: Rollout, device: str) -> MemberState:
    return next(member.state for member in rollout.members if member.device == device)


def test_the_first_stage_is_offered_at_once_and_only_that() -> None:
    rollout, decisions = advance(rollout_of("1", "100%"), {}, 0.0)
    assert offered(decisions) == set(rollout.stages[0].devices)
    assert len(rollout.stages[0].devices) == 1
    assert rollout.count(MemberState.WAITING) == 5


def test_the_second_stage_follows_the_first_ones_success() -> None:
    rollout, _ = advance(rollout_of("1", "100%"), {}, 0.0)
    canary = rollout.stages[0].devices
    rollout, decisions = advance(rollout, reports_of(UpdateState.COMMITTED, *canary), 1.0)
    assert offered(decisions) == set(rollout.stages[1].devices)
    rollout, decisions = advance(rollout, reports_of(UpdateState.COMMITTED, *NAMES), 2.0)
    assert rollout.state is RolloutState.FINISHED
    assert isinstance(decisions[-1], RolloutMoved)


def test_a_failed_canary_halts_the_rollout_with_its_own_words() -> None:
    rollout, _ = advance(rollout_of("1", "100%"), {}, 0.0)
    canary = rollout.stages[0].devices[0]
    rollout, decisions = advance(rollout, reports_of(UpdateState.FAILED, canary), 1.0)
    assert rollout.state is RolloutState.HALTED
    assert rollout.reason == f"stage 1: {canary} failed: golden: differs"
    assert rollout.count(MemberState.WAITING) == 5
    assert not offered(decisions)


def test_halting_withdraws_what_has_not_begun_and_nothing_else() -> None:
    rollout, _ = advance(rollout_of(), {}, 0.0)
    reports = {
        **reports_of(UpdateState.FETCHING, "box-1", loaded=None),
        **reports_of(UpdateState.FAILED, "box-2"),
    }
    rollout, decisions = advance(rollout, reports, 1.0)
    withdrawn = {one.device for one in decisions if isinstance(one, WithdrawOffer)}
    assert withdrawn == {"box-0", "box-2", "box-3", "box-4", "box-5"}
    assert state_of(rollout, "box-1") is MemberState.UPDATING
    assert state_of(rollout, "box-0") is MemberState.WITHDRAWN


@pytest.mark.parametrize(
    "state", [state for state in UpdateState if state is not UpdateState.COMMITTED]
)
def test_no_report_but_committed_is_a_success(state: UpdateState) -> None:
    rollout, _ = advance(rollout_of(devices=("box",)), {}, 0.0)
    rollout, _ = advance(rollout, reports_of(state, "box"), 1.0)
    assert rollout.count(MemberState.COMMITTED) == 0


def test_committed_without_the_manifest_is_a_failure() -> None:
    rollout, _ = advance(rollout_of(devices=("box",)), {}, 0.0)
    for loaded in (OTHER, None):
        after, _ = advance(rollout, reports_of(UpdateState.COMMITTED, "box", loaded=loaded), 1.0)
        assert state_of(after, "box") is MemberState.FAILED


def test_a_report_on_another_rollout_says_nothing_here() -> None:
    rollout, _ = advance(rollout_of(devices=("box",)), {}, 0.0)
    reports = reports_of(UpdateState.FAILED, "box", rollout="older")
    assert advance(rollout, reports, 1.0) == (rollout, ())


def test_a_device_that_runs_it_already_needs_no_offer() -> None:
    reports = reports_of(UpdateState.COMMITTED, "box", rollout="older")
    rollout, decisions = advance(rollout_of(devices=("box",)), reports, 0.0)
    assert rollout.state is RolloutState.FINISHED
    assert not offered(decisions)


def test_a_stage_soaks_before_the_next_begins() -> None:
    rollout, _ = advance(rollout_of("1", "100%", soak_s=60), {}, 0.0)
    reports = reports_of(UpdateState.COMMITTED, *rollout.stages[0].devices)
    rollout, _ = advance(rollout, reports, 10.0)
    assert rollout.stages[0].state is StageState.SOAKING
    rollout, decisions = advance(rollout, reports, 69.0)
    assert not offered(decisions)
    rollout, decisions = advance(rollout, reports, 70.0)
    assert len(offered(decisions)) == 5


def test_a_device_that_fails_while_its_stage_soaks_halts_the_rollout() -> None:
    rollout, _ = advance(rollout_of("1", "100%", soak_s=60), {}, 0.0)
    canary = rollout.stages[0].devices[0]
    rollout, _ = advance(rollout, reports_of(UpdateState.COMMITTED, canary), 10.0)
    rollout, _ = advance(rollout, reports_of(UpdateState.FAILED, canary, loaded=OTHER), 20.0)
    assert rollout.state is RolloutState.HALTED


def test_silence_until_the_deadline_is_inconclusive_and_pauses() -> None:
    rollout, _ = advance(rollout_of(devices=("box",), deadline_s=100), {}, 0.0)
    assert advance(rollout, {}, 100.0)[0] == rollout
    rollout, _ = advance(rollout, {}, 101.0)
    assert rollout.state is RolloutState.PAUSED
    assert rollout.stages[0].state is StageState.INCONCLUSIVE
    assert rollout.reason == "stage 1: no final report in time from box"


def test_resuming_gives_an_inconclusive_stage_its_time_again() -> None:
    rollout, _ = advance(rollout_of(devices=("box",), deadline_s=100), {}, 0.0)
    rollout, _ = advance(rollout, {}, 101.0)
    rollout, _ = move(rollout, RolloutEvent.RESUME, reason="", now=200.0)
    rollout, _ = advance(rollout, {}, 250.0)
    assert rollout.state is RolloutState.RUNNING
    rollout, _ = advance(rollout, reports_of(UpdateState.COMMITTED, "box"), 260.0)
    assert rollout.state is RolloutState.FINISHED


def test_a_paused_rollout_observes_and_offers_nothing() -> None:
    rollout, _ = advance(rollout_of("1", "100%"), {}, 0.0)
    rollout, _ = move(rollout, RolloutEvent.PAUSE, reason="wait", now=1.0)
    reports = reports_of(UpdateState.COMMITTED, *rollout.stages[0].devices)
    rollout, decisions = advance(rollout, reports, 2.0)
    assert rollout.count(MemberState.COMMITTED) == 1
    assert not offered(decisions)
    assert rollout.reason == "wait"


def test_failures_below_the_limit_do_not_halt() -> None:
    rollout, _ = advance(rollout_of(failure_limit=2), {}, 0.0)
    reports = {
        **reports_of(UpdateState.COMMITTED, *NAMES[1:]),
        **reports_of(UpdateState.FAILED, "box-0"),
    }
    rollout, _ = advance(rollout, reports, 1.0)
    assert rollout.state is RolloutState.FINISHED
    assert rollout.count(MemberState.FAILED) == 1


def test_a_stage_in_which_nobody_committed_fails_whatever_the_limit() -> None:
    rollout, _ = advance(rollout_of("1", "100%", failure_limit=4), {}, 0.0)
    canary = rollout.stages[0].devices[0]
    rollout, decisions = advance(rollout, reports_of(UpdateState.FAILED, canary), 1.0)
    assert rollout.state is RolloutState.HALTED
    assert "nobody committed" in rollout.reason
    assert not offered(decisions)


@pytest.mark.parametrize("field", ["soak_s", "deadline_s", "failure_limit"])
def test_a_policy_that_makes_no_sense_is_refused(field: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({field: -1}, Policy)


def test_an_old_offer_is_signed_again_before_it_expires() -> None:
    rollout, _ = advance(rollout_of(devices=("box",), deadline_s=90 * 86400), {}, 0.0)
    assert advance(rollout, {}, OFFER_REFRESH_S)[1] == ()
    rollout, decisions = advance(rollout, {}, OFFER_REFRESH_S + 1)
    assert offered(decisions) == {"box"}
    assert advance(rollout, {}, OFFER_REFRESH_S + 2)[1] == ()


def test_a_withdrawn_device_that_had_begun_is_still_seen_to_end() -> None:
    rollout, _ = advance(rollout_of(devices=("box",)), {}, 0.0)
    rollout, _ = move(rollout, RolloutEvent.CANCEL, reason="", now=1.0)
    assert rollout.is_watched
    rollout, _ = advance(rollout, reports_of(UpdateState.COMMITTED, "box"), 2.0)
    assert state_of(rollout, "box") is MemberState.COMMITTED
    assert rollout.state is RolloutState.CANCELLED
    assert not rollout.is_watched


def test_every_stage_decision_carries_its_inputs() -> None:
    rollout, _ = advance(rollout_of("1", "100%"), {}, 0.0)
    canary = rollout.stages[0].devices
    _, decisions = advance(rollout, reports_of(UpdateState.COMMITTED, *canary), 1.0)
    passed = next(
        one for one in decisions if isinstance(one, StageMoved) and one.state is StageState.PASSED
    )
    assert (passed.stage, passed.committed, passed.failed, passed.waiting) == (0, 1, 0, 0)


@pytest.mark.parametrize("state", list(RolloutState))
@pytest.mark.parametrize("event", list(RolloutEvent))
def test_only_the_table_moves_a_rollout(state: RolloutState, event: RolloutEvent) -> None:
    if (state, event) in TRANSITIONS:
        assert step(state, event) is TRANSITIONS[state, event]
    else:
        with pytest.raises(ConfigError, match=f"{state.value} cannot {event.value}"):
            step(state, event)


def test_every_open_rollout_can_be_ended() -> None:
    for state in OPEN_STATES:
        assert step(state, RolloutEvent.CANCEL) is RolloutState.CANCELLED
        assert step(state, RolloutEvent.SUPERSEDE) is RolloutState.SUPERSEDED


@given(st.sets(st.integers(0, 500), min_size=1, max_size=60), st.integers(0, 100))
def test_raising_a_percentage_only_adds_devices(numbers: set[int], percent: int) -> None:
    order = order_of((f"box-{n}" for n in numbers), "salt")
    less = split(order, (f"{percent}%", "100%"))
    more = split(order, (f"{min(100, percent + 10)}%", "100%"))
    assert set(less[0]) <= set(more[0]) or percent == 0
    assert sorted(sum(less, ())) == sorted(order)


@given(st.sets(st.integers(0, 99), min_size=1, max_size=30), st.integers(0, 99))
def test_a_devices_place_depends_on_nobody_else(numbers: set[int], extra: int) -> None:
    devices = [f"box-{n}" for n in numbers]
    without = order_of(devices, "salt")
    order = order_of({*devices, f"box-{extra}"}, "salt")
    assert tuple(one for one in order if one in without) == without


def test_another_salt_makes_another_canary() -> None:
    devices = [f"box-{n}" for n in range(50)]
    assert len({order_of(devices, str(salt))[0] for salt in range(20)}) > 5


def test_stages_reach_the_counts_and_percentages_asked_for() -> None:
    devices = [f"box-{n}" for n in range(10)]
    assert [len(one) for one in split(devices, parse_steps("1, 50%,100%"))] == [1, 4, 5]
    assert [len(one) for one in split(devices[:1], ("1", "100%"))] == [1]
    assert [len(one) for one in split(devices[:3], ("10%", "100%"))] == [1, 2]


@pytest.mark.parametrize("text", ["", "half", "1;100%", "-1,100%", "1.5,100%"])
def test_stages_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the stages"):
        parse_steps(text)


def test_stages_that_leave_devices_out_are_refused() -> None:
    with pytest.raises(ConfigError, match="the last must be 100%"):
        parse_steps("1,50%")


def test_stages_that_shrink_are_refused() -> None:
    with pytest.raises(ConfigError, match="shrink"):
        split([f"box-{n}" for n in range(10)], ("50%", "2", "100%"))


def test_devices_without_a_variant_are_left_out_by_name() -> None:
    stages, members, unsupported = plan(
        {"a": "t", "b": "other"}, {"t": MANIFEST}, steps=("100%",), salt="s"
    )
    assert unsupported == ("b",)
    assert [member.device for member in members] == ["a"]
    assert [stage.devices for stage in stages] == [("a",)]


def test_many_silent_devices_are_counted_not_listed() -> None:
    members = [Member(device=f"d{n}", target="t", manifest=MANIFEST, stage=0) for n in range(9)]
    assert judge(members, members, Policy()).reason.endswith("d0, d1, d2, d3, d4 and 4 more")


@given(st.lists(st.sampled_from(list(UpdateState)), max_size=30), st.data())
def test_no_history_of_reports_offers_the_next_stage_before_the_canary_committed(
    history: list[UpdateState], data: st.DataObject
) -> None:
    rollout, _ = advance(rollout_of("1", "100%"), {}, 0.0)
    canary = rollout.stages[0].devices[0]
    reports: dict[str, Report] = {}
    for now, state in enumerate(history):
        loaded = data.draw(st.sampled_from([MANIFEST, OTHER, None]))
        reports |= reports_of(state, canary, loaded=loaded)
        rollout, decisions = advance(rollout, reports, float(now))
        if offered(decisions):
            assert state is UpdateState.COMMITTED
            assert loaded == MANIFEST
            return


@given(st.integers(1, 8), st.data())
def test_advancing_twice_on_the_same_facts_decides_nothing_new(
    count: int, data: st.DataObject
) -> None:
    devices = tuple(f"box-{n}" for n in range(count))
    states = data.draw(st.lists(st.sampled_from(list(UpdateState)), min_size=count, max_size=count))
    reports = {d: report_of(d, s) for d, s in zip(devices, states, strict=True)}
    rollout, _ = advance(rollout_of("1", "100%", devices=devices), reports, 5.0)
    assert advance(rollout, reports, 5.0) == (rollout, ())


def test_a_rollout_survives_its_way_through_json() -> None:
    rollout, _ = advance(rollout_of("1", "100%"), {}, 0.0)
    data = msgspec.json.encode(rollout)
    assert msgspec.json.decode(data, type=Rollout) == rollout
