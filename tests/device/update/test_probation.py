"""An update's way to the commit or back: the gate, the program's word, and exams."""

from __future__ import annotations

from asdic.contract.messages import UpdateState
from asdic.device.application import Program
from tests.support.boxes import PATH_TO_COMMIT
from tests.support.dock import Dock


def test_a_good_release_is_committed_once_the_program_infers_with_it(dock: Dock) -> None:
    dock.commit("1.0.0")
    assert tuple(dock.states) == PATH_TO_COMMIT


def test_it_is_not_committed_before_the_program_says_so(dock: Dock) -> None:
    dock.offer("1.0.0")
    dock.until_state(UpdateState.PROBATION)
    dock.program.infer(dock.yard.manifest("1.0.0"), inferences=1)
    for _ in range(5):
        dock.turn()
    assert dock.state is UpdateState.PROBATION


def test_a_program_that_runs_something_else_does_not_count(dock: Dock) -> None:
    dock.offer("1.0.0")
    dock.until_state(UpdateState.PROBATION)
    dock.program.infer(dock.yard.manifest("1.1.0"))
    for _ in range(5):
        dock.turn()
    assert dock.state is UpdateState.PROBATION


def test_a_bad_golden_set_is_refused_and_the_old_release_stays(running: Dock) -> None:
    running.offer("1.2.0")
    running.until_over()
    assert (running.state, running.code) == (UpdateState.FAILED, "golden")
    assert running.current == "1.0.0"


def test_a_failed_first_install_leaves_no_model(dock: Dock) -> None:
    dock.offer("1.2.0")
    dock.until_over()
    assert dock.state is UpdateState.FAILED
    assert dock.current is None


def test_nothing_of_a_failed_release_stays_on_the_disk(dock: Dock) -> None:
    dock.commit("1.0.0")
    before = sorted(path for path in dock.box.state.path.rglob("*") if "store" in path.parts)
    dock.offer("1.2.0")
    dock.until_over()
    after = sorted(path for path in dock.box.state.path.rglob("*") if "store" in path.parts)
    assert after == before


def test_errors_in_probation_roll_back(running: Dock) -> None:
    running.offer("1.1.0")
    running.until_state(UpdateState.PROBATION)
    running.program.infer(running.yard.manifest("1.1.0"), errors=1)
    running.until_state(UpdateState.ROLLING_BACK)
    running.program.infer(running.yard.manifest("1.0.0"))
    running.until_over()
    assert running.states[-3:] == [
        UpdateState.ROLLING_BACK,
        UpdateState.ROLLED_BACK,
        UpdateState.FAILED,
    ]
    assert running.current == "1.0.0"
    assert running.code == "unhealthy"


def test_crashes_in_probation_roll_back(running: Dock) -> None:
    running.offer("1.1.0")
    running.until_state(UpdateState.PROBATION)
    running.crashes += running.box.config.probation.crashes
    running.until_over()
    assert UpdateState.ROLLED_BACK in running.states
    assert running.code == "crash"


def test_crashes_before_probation_do_not_count(dock: Dock) -> None:
    dock.crashes = 100
    dock.commit("1.0.0")
    assert dock.state is UpdateState.COMMITTED


def test_a_probation_without_an_answer_ends(running: Dock) -> None:
    running.offer("1.1.0")
    running.until_state(UpdateState.PROBATION)
    running.later_s += 1000.0
    running.until_over()
    assert (running.state, running.code) == (UpdateState.FAILED, "timed-out")
    assert running.current == "1.0.0"


def test_a_rollback_that_nobody_acknowledges_is_inconsistent(running: Dock) -> None:
    running.offer("1.1.0")
    running.until_state(UpdateState.PROBATION)
    running.program.infer(running.yard.manifest("1.1.0"), errors=1)
    running.until_state(UpdateState.ROLLING_BACK)
    running.later_s += 1000.0
    running.until_over()
    assert running.state is UpdateState.INCONSISTENT


def test_a_failed_first_activation_goes_back_to_no_model(dock: Dock) -> None:
    dock.offer("1.0.0")
    dock.until_state(UpdateState.PROBATION)
    dock.program.infer(dock.yard.manifest("1.0.0"), errors=1)
    dock.until_state(UpdateState.ROLLING_BACK)
    dock.program.said = Program()
    dock.until_over()
    assert dock.state is UpdateState.FAILED
    assert dock.current is None


def test_an_exam_defers_the_gate(dock: Dock) -> None:
    dock.defer("1.0.0")
    dock.later_s += 100_000.0
    dock.turn()
    assert dock.state is UpdateState.DEFERRED
    dock.program.busy = False
    dock.until_state(UpdateState.PROBATION)


def test_an_exam_that_begins_in_the_gate_ends_the_trial(dock: Dock) -> None:
    dock.offer("1.0.0")
    dock.until_state(UpdateState.GATING)
    dock.program.busy = True
    dock.until_state(UpdateState.DEFERRED)
    dock.program.busy = False
    dock.until_state(UpdateState.GATING)
    dock.until_state(UpdateState.PROBATION)


def test_an_exam_pins_the_model_against_a_rollback(running: Dock) -> None:
    running.offer("1.1.0")
    running.until_state(UpdateState.PROBATION)
    running.program.busy = True
    running.program.infer(running.yard.manifest("1.1.0"), errors=1)
    running.until_state(UpdateState.DEFERRED)
    assert running.current == "1.1.0"
    running.program.busy = False
    running.until_state(UpdateState.ROLLING_BACK)


def test_a_deadline_stands_still_while_an_exam_is_in_progress(dock: Dock) -> None:
    dock.offer("1.0.0")
    dock.until_state(UpdateState.PROBATION)
    dock.program.busy = True
    dock.turn()
    dock.later_s += 1000.0
    dock.turn()
    assert dock.state is UpdateState.PROBATION
