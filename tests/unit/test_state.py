"""The transition table of an update, read as a table."""

from __future__ import annotations

import pytest

from asdic.contract.messages import UpdateState
from asdic.device.update.state import (
    DEADLINES_S,
    FINAL,
    SWITCHED,
    TRANSITIONS,
    UpdateEvent,
    step,
)
from asdic.device.update.steps import STEPS
from asdic.device.update.update import COUNTED, FAILURES

STATES = list(UpdateState)
OPEN = [state for state in STATES if state not in FINAL]


def reachable(state: UpdateState, *, without: frozenset[UpdateEvent]) -> set[UpdateState]:
    """Return all states that can follow ``state``."""
    seen, todo = {state}, [state]
    while todo:
        here = todo.pop()
        for (before, event), after in TRANSITIONS.items():
            if before is here and event not in without and after not in seen:
                seen.add(after)
                todo.append(after)
    return seen


@pytest.mark.parametrize("state", STATES)
def test_a_restart_is_possible_in_every_state(state: UpdateState) -> None:
    assert (state, UpdateEvent.RESTARTED) in TRANSITIONS


@pytest.mark.parametrize("state", STATES)
def test_every_state_has_its_work(state: UpdateState) -> None:
    assert state in STEPS


@pytest.mark.parametrize("state", STATES)
def test_every_state_is_reached_from_idle(state: UpdateState) -> None:
    assert state in reachable(UpdateState.IDLE, without=frozenset())


@pytest.mark.parametrize("state", OPEN)
def test_no_open_state_is_a_dead_end(state: UpdateState) -> None:
    others = frozenset({UpdateEvent.RESTARTED, UpdateEvent.OFFERED, UpdateEvent.WITHDRAWN})
    assert reachable(state, without=others) & FINAL


@pytest.mark.parametrize("state", sorted(FINAL))
def test_a_final_state_takes_a_new_offer(state: UpdateState) -> None:
    assert step(state, UpdateEvent.OFFERED) is UpdateState.OFFERED


@pytest.mark.parametrize("state", sorted(FINAL))
def test_a_final_state_stays_what_it_is_over_a_restart(state: UpdateState) -> None:
    assert step(state, UpdateEvent.RESTARTED) is state


@pytest.mark.parametrize("state", sorted(SWITCHED))
@pytest.mark.parametrize("event", [UpdateEvent.OFFERED, UpdateEvent.WITHDRAWN])
def test_nothing_interferes_once_current_may_be_switched(
    state: UpdateState, event: UpdateEvent
) -> None:
    assert (state, event) not in TRANSITIONS


@pytest.mark.parametrize("state", OPEN)
def test_a_deadline_and_what_follows_it_go_together(state: UpdateState) -> None:
    assert (state in DEADLINES_S) == ((state, UpdateEvent.TIMED_OUT) in TRANSITIONS)


def test_only_a_healthy_or_a_running_release_is_committed() -> None:
    ways = {key for key, after in TRANSITIONS.items() if after is UpdateState.COMMITTED}
    assert ways == {
        (UpdateState.PROBATION, UpdateEvent.HEALTHY),
        (UpdateState.OFFERED, UpdateEvent.ALREADY_RUNNING),
        (UpdateState.GATING, UpdateEvent.STILL_GOOD),
        (UpdateState.COMMITTED, UpdateEvent.RESTARTED),
    }


def test_only_what_passed_the_gate_is_activated() -> None:
    ways = {
        event
        for (before, event), after in TRANSITIONS.items()
        if after is UpdateState.ACTIVATING and before is not after
    }
    assert ways == {UpdateEvent.GATE_PASSED}


def test_a_failed_trial_leaves_the_gate_for_failed() -> None:
    assert step(UpdateState.GATING, UpdateEvent.GATE_FAILED) is UpdateState.FAILED


def test_an_interrupted_trial_is_made_again() -> None:
    assert step(UpdateState.GATING, UpdateEvent.RESTARTED) is UpdateState.STAGED


@pytest.mark.parametrize("state", sorted(FINAL - {UpdateState.INCONSISTENT}))
def test_on_a_changed_machine_the_current_release_goes_to_the_gate(state: UpdateState) -> None:
    assert step(state, UpdateEvent.FINGERPRINT_CHANGED) is UpdateState.STAGED


@pytest.mark.parametrize("state", OPEN)
def test_a_changed_machine_waits_for_the_update_in_hand(state: UpdateState) -> None:
    assert (state, UpdateEvent.FINGERPRINT_CHANGED) not in TRANSITIONS


@pytest.mark.parametrize("state", [UpdateState.STAGED, UpdateState.GATING])
def test_a_current_release_that_no_longer_passes_rolls_back(state: UpdateState) -> None:
    assert step(state, UpdateEvent.NO_LONGER_GOOD) is UpdateState.ROLLING_BACK


def test_a_failed_probation_rolls_back() -> None:
    assert step(UpdateState.PROBATION, UpdateEvent.UNHEALTHY) is UpdateState.ROLLING_BACK


def test_a_pair_that_is_not_in_the_table_is_a_bug() -> None:
    with pytest.raises(RuntimeError, match="an update that is idle cannot be healthy"):
        step(UpdateState.IDLE, UpdateEvent.HEALTHY)


@pytest.mark.parametrize("state", sorted(FAILURES))
def test_what_an_error_means_in_a_state_is_in_the_table(state: UpdateState) -> None:
    assert (state, FAILURES[state]) in TRANSITIONS


@pytest.mark.parametrize("state", sorted(COUNTED))
def test_counted_restarts_happen_in_open_states(state: UpdateState) -> None:
    assert state in OPEN
