"""Offers beside the one in hand: newer, bad, withdrawn, repeated or of an older release."""

from __future__ import annotations

from asdic.contract.messages import UpdateState
from asdic.device.application import Program
from asdic.fleet.director import encode_offer
from tests.support.dock import Dock
from tests.support.yard import Yard


def forged_offer(dock: Dock) -> bytes:
    """Return another box's offer with this one's name in it."""
    return encode_offer(dock.yard.offer("1.1.0", device="box2")).replace(b"box2", b"box1")


def test_no_offer_interferes_with_a_pinned_rollback(running: Dock) -> None:
    running.offer("1.1.0")
    running.until_state(UpdateState.PROBATION)
    running.program.busy = True
    running.program.infer(running.yard.manifest("1.1.0"), errors=1)
    running.until_state(UpdateState.DEFERRED)
    running.offer("1.2.0")
    running.turn()
    assert running.update.journal.version == "1.1.0"
    assert running.update.has_pending


def test_a_newer_offer_takes_the_place_of_one_that_is_not_active_yet(dock: Dock) -> None:
    dock.offer("1.2.0")
    dock.until_state(UpdateState.GATING)
    dock.offer("1.0.0")
    dock.until_state(UpdateState.PROBATION)
    assert dock.current == "1.0.0"


def test_a_bad_offer_does_not_disturb_the_one_in_hand(dock: Dock) -> None:
    dock.defer("1.0.0")
    dock.update.take_offer(forged_offer(dock))
    dock.turn()
    assert dock.state is UpdateState.DEFERRED
    dock.program.busy = False
    dock.until_state(UpdateState.PROBATION)
    assert dock.current == "1.0.0"


def test_a_bad_offer_that_waited_is_refused_in_the_end(dock: Dock) -> None:
    dock.defer("1.0.0")
    dock.update.take_offer(forged_offer(dock))
    dock.program.busy = False
    dock.until_state(UpdateState.PROBATION)
    dock.program.infer(dock.yard.manifest("1.0.0"))
    dock.until_over()
    assert dock.states[-3:] == [
        UpdateState.COMMITTED,
        UpdateState.OFFERED,
        UpdateState.REJECTED,
    ]


def test_a_withdrawn_offer_is_dropped(dock: Dock) -> None:
    dock.defer("1.0.0")
    dock.update.take_offer(b"")
    dock.until_over()
    assert dock.state is UpdateState.IDLE


def test_withdrawing_a_committed_offer_changes_nothing(running: Dock) -> None:
    running.update.take_offer(b"")
    running.turn()
    assert running.state is UpdateState.COMMITTED


def test_an_offer_of_what_runs_is_committed_at_once(running: Dock) -> None:
    running.states.clear()
    running.offer("1.0.0", rollout="again")
    running.until_over()
    assert running.states == [UpdateState.OFFERED, UpdateState.COMMITTED]
    assert running.update.journal.rollout == "again"


def test_an_offer_of_what_should_run_but_does_not_waits_for_the_program(running: Dock) -> None:
    running.program.said = Program()
    running.offer("1.0.0", rollout="again")
    running.until_state(UpdateState.OFFERED)
    running.later_s += 1000.0
    running.until_over()
    assert (running.state, running.code) == (UpdateState.FAILED, "timed-out")


def test_the_same_offer_again_is_no_news(dock: Dock) -> None:
    dock.offer("1.2.0")
    dock.until_over()
    offer = (dock.yard.releases / "offers" / "box1.json").read_bytes()
    dock.states.clear()
    dock.update.take_offer(offer)
    dock.turn()
    assert dock.states == []


def test_a_failed_rollout_is_not_tried_again_by_itself(dock: Dock) -> None:
    dock.offer("1.2.0", rollout="failing")
    dock.until_over()
    dock.states.clear()
    dock.offer("1.2.0", rollout="failing")
    dock.until_over()
    assert dock.states == []


def test_garbage_for_an_offer_is_ignored(dock: Dock) -> None:
    dock.update.take_offer(b"\x00garbage")
    dock.turn()
    assert dock.state is UpdateState.IDLE


def test_an_offer_of_a_lower_security_counter_is_refused(yard: Yard, dock: Dock) -> None:
    if "2.0.0" not in yard.layout.versions():
        yard.add("2.0.0", offset=0.3, security_counter=2)
    dock.commit("2.0.0")
    dock.offer("1.0.0")
    dock.until_over()
    assert (dock.state, dock.code) == (UpdateState.REJECTED, "counter")


def test_rolling_back_by_an_offer_of_the_older_release_is_allowed(running: Dock) -> None:
    running.commit("1.1.0")
    running.commit("1.0.0")
    assert running.current == "1.0.0"
