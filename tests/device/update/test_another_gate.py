"""The current release is gated again where the machine or the runtime has changed."""

from __future__ import annotations

from asdic.contract.messages import RuntimeFacts, UpdateState
from asdic.device.update.store import Pointer
from tests.support.dock import Dock


def test_a_release_is_stored_with_what_it_was_gated_on(running: Dock) -> None:
    machine = running.update.store.machine(running.yard.manifest("1.0.0"))
    assert machine is not None
    assert machine.trial is not None
    assert machine.trial.runtime == "onnxruntime"


def test_a_changed_machine_gates_the_current_release_again(running: Dock) -> None:
    before = running.update.journal
    running.change_machine("1.0.0")
    running.until_state(UpdateState.GATING)
    assert running.update.store.pointer(Pointer.CANDIDATE) is None
    running.until_over()
    assert running.states == [UpdateState.STAGED, UpdateState.GATING, UpdateState.COMMITTED]
    assert running.current == "1.0.0"
    assert running.update.journal.rollout == before.rollout
    assert running.update.journal.finished == before.finished


def test_a_release_that_passed_again_is_not_gated_at_the_next_start(running: Dock) -> None:
    running.change_machine("1.0.0")
    running.until_state(UpdateState.GATING)
    running.until_over()
    running.change_machine()
    running.until_over()
    running.turn()
    assert running.states == []


def test_a_program_that_reports_another_runtime_causes_one_more_gate(running: Dock) -> None:
    running.states.clear()
    running.program.infer(
        running.yard.manifest("1.0.0"), runtime=RuntimeFacts(runtime="x", version="2")
    )
    running.until_state(UpdateState.GATING)
    running.until_over()
    running.turn()
    assert running.states == [UpdateState.STAGED, UpdateState.GATING, UpdateState.COMMITTED]


def test_what_a_program_says_of_another_release_causes_no_gate(running: Dock) -> None:
    running.states.clear()
    running.program.infer(
        running.yard.manifest("1.1.0"), runtime=RuntimeFacts(runtime="x", version="2")
    )
    running.turn()
    assert running.states == []


def test_a_current_release_that_no_longer_passes_gives_way_to_the_previous(
    running: Dock,
) -> None:
    running.commit("1.1.0")
    running.damage("1.1.0")
    running.change_machine("1.1.0")
    running.until_state(UpdateState.ROLLING_BACK)
    running.program.infer(running.yard.manifest("1.0.0"))
    running.until_over()
    assert running.states == [
        *(UpdateState.STAGED, UpdateState.GATING, UpdateState.ROLLING_BACK),
        *(UpdateState.ROLLED_BACK, UpdateState.FAILED),
    ]
    assert running.current == "1.0.0"
    assert running.reason.startswith("the current model no longer passes on this machine: ")


def test_the_previous_release_passes_the_gate_of_the_changed_machine_too(running: Dock) -> None:
    running.commit("1.1.0")
    running.damage("1.1.0")
    running.change_machine("1.0.0", "1.1.0")
    running.until_state(UpdateState.ROLLING_BACK)
    running.program.infer(running.yard.manifest("1.0.0"))
    running.until_state(UpdateState.COMMITTED)
    assert running.states.count(UpdateState.GATING) == 2
    assert running.update.journal.manifest == running.yard.manifest("1.0.0")


def test_a_current_release_that_no_longer_passes_stays_where_there_is_no_other(
    running: Dock,
) -> None:
    running.damage("1.0.0")
    running.change_machine("1.0.0")
    running.until_state(UpdateState.FAILED)
    running.until_over()
    running.turn()
    assert running.states == [UpdateState.STAGED, UpdateState.GATING, UpdateState.FAILED]
    assert running.current == "1.0.0"
    assert running.reason.startswith("the current model no longer passes on this machine: ")


def test_another_gate_that_takes_too_long_is_one_that_is_not_passed(running: Dock) -> None:
    running.commit("1.1.0")
    running.change_machine("1.1.0")
    running.until_state(UpdateState.GATING)
    running.later_s += 1000.0
    running.until_state(UpdateState.ROLLING_BACK)
    assert running.code == "timed-out"


def test_a_restart_during_another_gate_begins_it_again(running: Dock) -> None:
    running.change_machine("1.0.0")
    running.until_state(UpdateState.GATING)
    running.change_machine()
    running.until_state(UpdateState.COMMITTED)
    assert running.states == [UpdateState.STAGED, UpdateState.GATING, UpdateState.COMMITTED]


def test_an_exam_holds_another_gate_back(running: Dock) -> None:
    running.program.busy = True
    running.change_machine("1.0.0")
    running.until_state(UpdateState.DEFERRED)
    running.program.busy = False
    running.until_state(UpdateState.COMMITTED)


def test_an_offer_takes_the_place_of_another_gate(running: Dock) -> None:
    running.change_machine("1.0.0")
    running.until_state(UpdateState.GATING)
    running.commit("1.1.0")
    assert running.current == "1.1.0"


def test_a_withdrawn_offer_does_not_end_another_gate(running: Dock) -> None:
    running.change_machine("1.0.0")
    running.until_state(UpdateState.GATING)
    running.update.take_offer(b"")
    assert running.state is UpdateState.GATING


def test_what_was_built_for_a_release_goes_with_it(running: Dock) -> None:
    cache = running.update.store.cache_folder(running.yard.manifest("1.0.0"))
    assert cache.is_dir()
    running.commit("1.1.0")
    assert cache.is_dir()
    running.offer("1.2.0")
    running.until_over()
    assert not running.update.store.cache_folder(running.yard.manifest("1.2.0")).parent.exists()
    assert cache.is_dir()
