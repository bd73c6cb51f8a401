"""The update machine in this process: real disk, real offers, real trials; the program is a plug.

What the inferring program says is the one thing that a test has to choose freely here.
"""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from asdic.contract.messages import Loaded, Missing, Progress, RuntimeFacts, UpdateState
from asdic.contract.release import Descriptor
from asdic.device.application import HealthCall, Program
from asdic.device.link import Arrival, ChunkArrived, FolderLink, OfferArrived
from asdic.device.update.disk import Space
from asdic.device.update.machine import Machine
from asdic.device.update.storage import Storage
from asdic.device.update.store import Pointer
from asdic.device.update.update import Update
from asdic.fleet.director import encode_offer
from tests.support.boxes import Box
from tests.support.yard import Yard

PATIENCE_S = 30.0


@dataclass
class Plug:
    """A program that says what the test wants."""

    said: Program = field(default_factory=Program)
    busy: bool = False

    def program(self) -> Program:
        return self.said

    def is_busy(self) -> bool:
        return self.busy

    def infer(
        self,
        manifest: str,
        *,
        inferences: int = 5,
        errors: int = 0,
        runtime: RuntimeFacts | None = None,
    ) -> None:
        loaded = Loaded(manifest=manifest, version="", pid=1, inferences=inferences)
        health = HealthCall(manifest=manifest, inferences=inferences, errors=errors, reason="why")
        self.said = Program(loaded=loaded, health=health, runtime=runtime)


class Sticks:
    """Folders that are plugged in one after the other; the last one gives the blobs."""

    def __init__(self) -> None:
        self._link: FolderLink | None = None

    def plug_in(self, folder: Path) -> None:
        self._link = FolderLink(folder, "box1")
        self._link.start()

    def receive(self) -> Arrival | None:
        return self._link.receive(0.0) if self._link else None

    def follow(self, blob: Descriptor) -> None:
        if self._link:
            self._link.follow(blob)

    def leave(self, blob: Descriptor) -> None:
        if self._link:
            self._link.leave(blob)

    def send_progress(self, progress: Progress) -> None:
        pass

    def send_missing(self, missing: Missing) -> None:
        if self._link:
            self._link.send_missing(missing)


class Bench:
    """One update on one box, moved on by hand."""

    def __init__(self, yard: Yard, box: Box, *, storage: Storage | None = None) -> None:
        self.yard = yard
        self.box = box
        self.plug = Plug()
        self.crashes = 0
        self.later_s = 0.0
        self.states: list[UpdateState] = []
        self.storage = storage or Storage()
        self.start()

    def start(self, source: Sticks | None = None) -> None:
        """Start the machine, again after a restart."""
        self.source = source or Sticks()
        self.update = Update(
            self.box.state,
            self.box.config,
            storage=self.storage,
            source=self.source,
            program=self.plug,
            crashes=lambda: self.crashes,
            changed=lambda journal: self.states.append(journal.state),
            clock=lambda: time.monotonic() + self.later_s,
        )
        self.update.resume()

    @property
    def state(self) -> UpdateState:
        return self.update.journal.state

    @property
    def refusal(self) -> str:
        refusal = self.update.journal.refusal
        return refusal.code if refusal else ""

    def offer(self, version: str, *, rollout: str = "") -> None:
        self.source.plug_in(self.yard.stick(version, rollout=rollout))
        self.turn()

    def turn(self) -> None:
        while (arrival := self.source.receive()) is not None:
            match arrival:
                case OfferArrived():
                    self.update.take_offer(arrival.data)
                case ChunkArrived():
                    self.update.take_chunk(arrival.blob, arrival.number, arrival.data)
                case _:
                    pass
        self.update.tick()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"still {self.state}: {self.update.journal}"
            self.turn()
            time.sleep(0.01)

    def until_state(self, state: UpdateState) -> None:
        self.until(lambda: self.state is state)

    def until_over(self) -> None:
        self.until(lambda: self.update.is_settled and not self.update.has_pending)

    def current(self) -> str | None:
        return self.update.store.pointer(Pointer.CURRENT)

    def change_machine(self, *versions: str) -> None:
        """Restart on another machine than the one that these releases were gated on."""
        self.update.stop()
        for version in versions:
            self.update.store.write_machine(self.yard.manifest(version), Machine(system="other"))
        self.states.clear()
        self.start()

    def damage(self, version: str) -> None:
        """Let the release no longer pass its gate."""
        folder = self.update.store.release_folder(self.yard.manifest(version))
        model = folder / "model.onnx"
        model.unlink()
        model.write_bytes(b"rubbish")

    def commit(self, version: str) -> None:
        self.offer(version)
        self.until_state(UpdateState.PROBATION)
        self.plug.infer(self.yard.manifest(version))
        self.until_state(UpdateState.COMMITTED)
        self.until_over()


@pytest.fixture
def bench(yard: Yard, tmp_path: Path) -> Iterator[Bench]:
    made = Bench(yard, Box.make(tmp_path / "box1", roots=yard.roots))
    yield made
    made.update.stop()


@pytest.fixture(scope="session")
def box_on_1(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a box that has committed 1.0.0, to be copied."""
    box = Box.make(tmp_path_factory.mktemp("template") / "box1", roots=yard.roots)
    template = Bench(yard, box)
    template.commit("1.0.0")
    template.update.stop()
    return box.state.path


@pytest.fixture
def running(yard: Yard, box_on_1: Path, tmp_path: Path) -> Iterator[Bench]:
    """A bench whose box runs 1.0.0."""
    shutil.copytree(box_on_1, tmp_path / "box1", symlinks=True)
    made = Bench(yard, Box(tmp_path / "box1"))
    made.plug.infer(yard.manifest("1.0.0"))
    made.until_over()
    yield made
    made.update.stop()


def test_a_good_release_is_committed_once_the_program_infers_with_it(bench: Bench) -> None:
    bench.commit("1.0.0")
    assert bench.states == [
        UpdateState.OFFERED,
        UpdateState.FETCHING,
        UpdateState.VERIFYING,
        UpdateState.STAGED,
        UpdateState.GATING,
        UpdateState.ACTIVATING,
        UpdateState.PROBATION,
        UpdateState.COMMITTED,
    ]


def test_it_is_not_committed_before_the_program_says_so(bench: Bench) -> None:
    bench.offer("1.0.0")
    bench.until_state(UpdateState.PROBATION)
    bench.plug.infer(bench.yard.manifest("1.0.0"), inferences=1)
    for _ in range(5):
        bench.turn()
    assert bench.state is UpdateState.PROBATION


def test_a_program_that_runs_something_else_does_not_count(bench: Bench) -> None:
    bench.offer("1.0.0")
    bench.until_state(UpdateState.PROBATION)
    bench.plug.infer(bench.yard.manifest("1.1.0"))
    for _ in range(5):
        bench.turn()
    assert bench.state is UpdateState.PROBATION


def test_a_bad_golden_set_is_refused_and_the_old_release_stays(running: Bench) -> None:
    running.offer("1.2.0")
    running.until_over()
    assert (running.state, running.refusal) == (UpdateState.FAILED, "golden")
    assert running.current() == running.yard.manifest("1.0.0")


def test_a_failed_first_install_leaves_no_model(bench: Bench) -> None:
    bench.offer("1.2.0")
    bench.until_over()
    assert bench.state is UpdateState.FAILED
    assert bench.current() is None


def test_nothing_of_a_failed_release_stays_on_the_disk(bench: Bench) -> None:
    bench.commit("1.0.0")
    before = sorted(path for path in bench.box.state.path.rglob("*") if "store" in path.parts)
    bench.offer("1.2.0")
    bench.until_over()
    after = sorted(path for path in bench.box.state.path.rglob("*") if "store" in path.parts)
    assert after == before


def test_errors_in_probation_roll_back(running: Bench) -> None:
    running.offer("1.1.0")
    running.until_state(UpdateState.PROBATION)
    running.plug.infer(running.yard.manifest("1.1.0"), errors=1)
    running.until_state(UpdateState.ROLLING_BACK)
    running.plug.infer(running.yard.manifest("1.0.0"))
    running.until_over()
    assert running.states[-3:] == [
        UpdateState.ROLLING_BACK,
        UpdateState.ROLLED_BACK,
        UpdateState.FAILED,
    ]
    assert running.current() == running.yard.manifest("1.0.0")
    assert running.refusal == "unhealthy"


def test_crashes_in_probation_roll_back(running: Bench) -> None:
    running.offer("1.1.0")
    running.until_state(UpdateState.PROBATION)
    running.crashes += running.box.config.probation.crashes
    running.until_over()
    assert UpdateState.ROLLED_BACK in running.states
    assert running.refusal == "crash"


def test_crashes_before_probation_do_not_count(bench: Bench) -> None:
    bench.crashes = 100
    bench.commit("1.0.0")
    assert bench.state is UpdateState.COMMITTED


def test_a_probation_without_an_answer_ends(running: Bench) -> None:
    running.offer("1.1.0")
    running.until_state(UpdateState.PROBATION)
    running.later_s += 1000.0
    running.until_over()
    assert (running.state, running.refusal) == (UpdateState.FAILED, "timed-out")
    assert running.current() == running.yard.manifest("1.0.0")


def test_a_rollback_that_nobody_acknowledges_is_inconsistent(running: Bench) -> None:
    running.offer("1.1.0")
    running.until_state(UpdateState.PROBATION)
    running.plug.infer(running.yard.manifest("1.1.0"), errors=1)
    running.until_state(UpdateState.ROLLING_BACK)
    running.later_s += 1000.0
    running.until_over()
    assert running.state is UpdateState.INCONSISTENT


def test_a_failed_first_activation_goes_back_to_no_model(bench: Bench) -> None:
    bench.offer("1.0.0")
    bench.until_state(UpdateState.PROBATION)
    bench.plug.infer(bench.yard.manifest("1.0.0"), errors=1)
    bench.until_state(UpdateState.ROLLING_BACK)
    bench.plug.said = Program()
    bench.until_over()
    assert bench.state is UpdateState.FAILED
    assert bench.current() is None


def test_an_exam_defers_the_gate(bench: Bench) -> None:
    bench.plug.busy = True
    bench.offer("1.0.0")
    bench.until_state(UpdateState.DEFERRED)
    bench.later_s += 100_000.0
    bench.turn()
    assert bench.state is UpdateState.DEFERRED
    bench.plug.busy = False
    bench.until_state(UpdateState.PROBATION)


def test_an_exam_that_begins_in_the_gate_ends_the_trial(bench: Bench) -> None:
    bench.offer("1.0.0")
    bench.until_state(UpdateState.GATING)
    bench.plug.busy = True
    bench.until_state(UpdateState.DEFERRED)
    bench.plug.busy = False
    bench.until_state(UpdateState.GATING)
    bench.until_state(UpdateState.PROBATION)


def test_an_exam_pins_the_model_against_a_rollback(running: Bench) -> None:
    running.offer("1.1.0")
    running.until_state(UpdateState.PROBATION)
    running.plug.busy = True
    running.plug.infer(running.yard.manifest("1.1.0"), errors=1)
    running.until_state(UpdateState.DEFERRED)
    assert running.current() == running.yard.manifest("1.1.0")
    running.plug.busy = False
    running.until_state(UpdateState.ROLLING_BACK)


def test_a_deadline_stands_still_while_an_exam_is_in_progress(bench: Bench) -> None:
    bench.offer("1.0.0")
    bench.until_state(UpdateState.PROBATION)
    bench.plug.busy = True
    bench.turn()
    bench.later_s += 1000.0
    bench.turn()
    assert bench.state is UpdateState.PROBATION


def test_no_offer_interferes_with_a_pinned_rollback(running: Bench) -> None:
    running.offer("1.1.0")
    running.until_state(UpdateState.PROBATION)
    running.plug.busy = True
    running.plug.infer(running.yard.manifest("1.1.0"), errors=1)
    running.until_state(UpdateState.DEFERRED)
    running.offer("1.2.0")
    running.turn()
    assert running.update.journal.version == "1.1.0"
    assert running.update.has_pending


def test_a_newer_offer_takes_the_place_of_one_that_is_not_active_yet(bench: Bench) -> None:
    bench.offer("1.2.0")
    bench.until_state(UpdateState.GATING)
    bench.offer("1.0.0")
    bench.until_state(UpdateState.PROBATION)
    assert bench.current() == bench.yard.manifest("1.0.0")


def test_a_bad_offer_does_not_disturb_the_one_in_hand(bench: Bench) -> None:
    bench.plug.busy = True
    bench.offer("1.0.0")
    bench.until_state(UpdateState.DEFERRED)
    stranger = encode_offer(bench.yard.offer("1.1.0", device="box2")).replace(b"box2", b"box1")
    bench.update.take_offer(stranger)
    bench.turn()
    assert bench.state is UpdateState.DEFERRED
    bench.plug.busy = False
    bench.until_state(UpdateState.PROBATION)
    assert bench.current() == bench.yard.manifest("1.0.0")


def test_a_bad_offer_that_waited_is_refused_in_the_end(bench: Bench) -> None:
    bench.plug.busy = True
    bench.offer("1.0.0")
    bench.until_state(UpdateState.DEFERRED)
    stranger = encode_offer(bench.yard.offer("1.1.0", device="box2")).replace(b"box2", b"box1")
    bench.update.take_offer(stranger)
    bench.plug.busy = False
    bench.until_state(UpdateState.PROBATION)
    bench.plug.infer(bench.yard.manifest("1.0.0"))
    bench.until_over()
    assert bench.states[-3:] == [
        UpdateState.COMMITTED,
        UpdateState.OFFERED,
        UpdateState.REJECTED,
    ]


def test_a_withdrawn_offer_is_dropped(bench: Bench) -> None:
    bench.plug.busy = True
    bench.offer("1.0.0")
    bench.until_state(UpdateState.DEFERRED)
    bench.update.take_offer(b"")
    bench.until_over()
    assert bench.state is UpdateState.IDLE


def test_withdrawing_a_committed_offer_changes_nothing(running: Bench) -> None:
    running.update.take_offer(b"")
    running.turn()
    assert running.state is UpdateState.COMMITTED


def test_an_offer_of_what_runs_is_committed_at_once(running: Bench) -> None:
    running.states.clear()
    running.offer("1.0.0", rollout="again")
    running.until_over()
    assert running.states == [UpdateState.OFFERED, UpdateState.COMMITTED]
    assert running.update.journal.rollout == "again"


def test_an_offer_of_what_should_run_but_does_not_waits_for_the_program(running: Bench) -> None:
    running.plug.said = Program()
    running.offer("1.0.0", rollout="again")
    running.until_state(UpdateState.OFFERED)
    running.later_s += 1000.0
    running.until_over()
    assert (running.state, running.refusal) == (UpdateState.FAILED, "timed-out")


def test_the_same_offer_again_is_no_news(bench: Bench) -> None:
    bench.offer("1.2.0")
    bench.until_over()
    offer = (bench.yard.releases / "offers" / "box1.json").read_bytes()
    bench.states.clear()
    bench.update.take_offer(offer)
    bench.turn()
    assert bench.states == []


def test_a_failed_rollout_is_not_tried_again_by_itself(bench: Bench) -> None:
    bench.offer("1.2.0", rollout="failing")
    bench.until_over()
    bench.states.clear()
    bench.offer("1.2.0", rollout="failing")
    bench.until_over()
    assert bench.states == []


def test_garbage_for_an_offer_is_ignored(bench: Bench) -> None:
    bench.update.take_offer(b"\x00garbage")
    bench.turn()
    assert bench.state is UpdateState.IDLE


def test_an_offer_of_a_lower_security_counter_is_refused(yard: Yard, bench: Bench) -> None:
    if "2.0.0" not in yard.layout.versions():
        yard.add("2.0.0", offset=0.3, security_counter=2)
    bench.commit("2.0.0")
    bench.offer("1.0.0")
    bench.until_over()
    assert (bench.state, bench.refusal) == (UpdateState.REJECTED, "counter")


def test_rolling_back_by_an_offer_of_the_older_release_is_allowed(running: Bench) -> None:
    running.commit("1.1.0")
    running.commit("1.0.0")
    assert running.current() == running.yard.manifest("1.0.0")


@pytest.mark.parametrize(
    "state",
    [UpdateState.FETCHING, UpdateState.GATING, UpdateState.PROBATION],
)
def test_a_restart_goes_on_from_the_journal(bench: Bench, state: UpdateState) -> None:
    bench.offer("1.0.0")
    bench.until_state(state)
    source = bench.source
    bench.update.stop()
    bench.start(source)
    bench.until_state(UpdateState.PROBATION)
    bench.plug.infer(bench.yard.manifest("1.0.0"))
    bench.until_over()
    assert bench.state is UpdateState.COMMITTED


def test_a_gate_that_takes_the_agent_down_again_and_again_is_left(bench: Bench) -> None:
    bench.offer("1.0.0")
    for _ in range(5):
        bench.until_state(UpdateState.GATING)
        bench.update.stop()
        bench.start()
    bench.until_over()
    assert (bench.state, bench.refusal) == (UpdateState.FAILED, "device")


def test_a_damaged_journal_after_an_activation_goes_back(running: Bench) -> None:
    running.offer("1.1.0")
    running.until_state(UpdateState.PROBATION)
    running.update.stop()
    running.box.state.journal.write_bytes(b"{")
    running.start()
    running.plug.infer(running.yard.manifest("1.0.0"))
    running.until_over()
    assert running.state is UpdateState.FAILED
    assert running.current() == running.yard.manifest("1.0.0")


def test_a_damaged_journal_of_an_idle_box_changes_nothing(running: Bench) -> None:
    running.update.stop()
    running.box.state.journal.write_bytes(b"{")
    running.start()
    running.until_over()
    assert running.state is UpdateState.IDLE
    assert running.current() == running.yard.manifest("1.0.0")


class NearlyFullDisk(Storage):
    """A disk that says honestly that there is no room."""

    def space(self, folder: Path) -> Space:  # noqa: ARG002
        return Space(bytes=1 << 20, files=1 << 20)


class FillingDisk(Storage):
    """A disk that somebody else fills while a blob is being written."""

    def write_at(self, path: Path, offset: int, data: bytes) -> None:  # noqa: ARG002
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_a_full_disk_is_refused_before_anything_is_fetched(yard: Yard, tmp_path: Path) -> None:
    box = Box.make(tmp_path / "box1", roots=yard.roots)
    bench = Bench(yard, box, storage=NearlyFullDisk())
    bench.offer("1.0.0")
    bench.until_over()
    assert (bench.state, bench.refusal) == (UpdateState.REJECTED, "no-space")
    assert list((box.state.path / "store" / "partial").iterdir()) == []


def test_a_disk_that_fills_up_ends_the_update_and_nothing_stays(yard: Yard, tmp_path: Path) -> None:
    box = Box.make(tmp_path / "box1", roots=yard.roots)
    bench = Bench(yard, box, storage=FillingDisk())
    bench.offer("1.0.0")
    bench.until_over()
    assert (bench.state, bench.refusal) == (UpdateState.FAILED, "no-space")
    assert list((box.state.path / "store" / "blobs").iterdir()) == []
    assert list((box.state.path / "store" / "partial").iterdir()) == []


def test_a_release_is_stored_with_what_it_was_gated_on(running: Bench) -> None:
    machine = running.update.store.machine(running.yard.manifest("1.0.0"))
    assert machine is not None
    assert machine.trial is not None
    assert machine.trial.runtime == "onnxruntime"


def test_a_changed_machine_gates_the_current_release_again(running: Bench) -> None:
    before = running.update.journal
    running.change_machine("1.0.0")
    running.until_state(UpdateState.GATING)
    assert running.update.store.pointer(Pointer.CANDIDATE) is None
    running.until_over()
    assert running.states == [UpdateState.STAGED, UpdateState.GATING, UpdateState.COMMITTED]
    assert running.current() == running.yard.manifest("1.0.0")
    assert running.update.journal.rollout == before.rollout
    assert running.update.journal.finished == before.finished


def test_a_release_that_passed_again_is_not_gated_at_the_next_start(running: Bench) -> None:
    running.change_machine("1.0.0")
    running.until_state(UpdateState.GATING)
    running.until_over()
    running.change_machine()
    running.until_over()
    running.turn()
    assert running.states == []


def test_a_program_that_reports_another_runtime_causes_one_more_gate(running: Bench) -> None:
    running.states.clear()
    running.plug.infer(
        running.yard.manifest("1.0.0"), runtime=RuntimeFacts(runtime="x", version="2")
    )
    running.until_state(UpdateState.GATING)
    running.until_over()
    running.turn()
    assert running.states == [UpdateState.STAGED, UpdateState.GATING, UpdateState.COMMITTED]


def test_what_a_program_says_of_another_release_causes_no_gate(running: Bench) -> None:
    running.states.clear()
    running.plug.infer(
        running.yard.manifest("1.1.0"), runtime=RuntimeFacts(runtime="x", version="2")
    )
    running.turn()
    assert running.states == []


def test_a_current_release_that_no_longer_passes_gives_way_to_the_previous(
    running: Bench,
) -> None:
    running.commit("1.1.0")
    running.damage("1.1.0")
    running.change_machine("1.1.0")
    running.until_state(UpdateState.ROLLING_BACK)
    running.plug.infer(running.yard.manifest("1.0.0"))
    running.until_over()
    assert running.states == [
        *(UpdateState.STAGED, UpdateState.GATING, UpdateState.ROLLING_BACK),
        *(UpdateState.ROLLED_BACK, UpdateState.FAILED),
    ]
    assert running.current() == running.yard.manifest("1.0.0")
    refusal = running.update.journal.refusal
    assert refusal is not None
    assert refusal.message.startswith("the current model no longer passes on this machine: ")


def test_the_previous_release_passes_the_gate_of_the_changed_machine_too(running: Bench) -> None:
    running.commit("1.1.0")
    running.damage("1.1.0")
    running.change_machine("1.0.0", "1.1.0")
    running.until_state(UpdateState.ROLLING_BACK)
    running.plug.infer(running.yard.manifest("1.0.0"))
    running.until_state(UpdateState.COMMITTED)
    assert running.states.count(UpdateState.GATING) == 2
    assert running.update.journal.manifest == running.yard.manifest("1.0.0")


def test_a_current_release_that_no_longer_passes_stays_where_there_is_no_other(
    running: Bench,
) -> None:
    running.damage("1.0.0")
    running.change_machine("1.0.0")
    running.until_state(UpdateState.FAILED)
    running.until_over()
    running.turn()
    assert running.states == [UpdateState.STAGED, UpdateState.GATING, UpdateState.FAILED]
    assert running.current() == running.yard.manifest("1.0.0")
    refusal = running.update.journal.refusal
    assert refusal is not None
    assert refusal.message.startswith("the current model no longer passes on this machine: ")


def test_another_gate_that_takes_too_long_is_one_that_is_not_passed(running: Bench) -> None:
    running.commit("1.1.0")
    running.change_machine("1.1.0")
    running.until_state(UpdateState.GATING)
    running.later_s += 1000.0
    running.until_state(UpdateState.ROLLING_BACK)
    assert running.refusal == "timed-out"


def test_a_restart_during_another_gate_begins_it_again(running: Bench) -> None:
    running.change_machine("1.0.0")
    running.until_state(UpdateState.GATING)
    running.change_machine()
    running.until_state(UpdateState.COMMITTED)
    assert running.states == [UpdateState.STAGED, UpdateState.GATING, UpdateState.COMMITTED]


def test_an_exam_holds_another_gate_back(running: Bench) -> None:
    running.plug.busy = True
    running.change_machine("1.0.0")
    running.until_state(UpdateState.DEFERRED)
    running.plug.busy = False
    running.until_state(UpdateState.COMMITTED)


def test_an_offer_takes_the_place_of_another_gate(running: Bench) -> None:
    running.change_machine("1.0.0")
    running.until_state(UpdateState.GATING)
    running.commit("1.1.0")
    assert running.current() == running.yard.manifest("1.1.0")


def test_a_withdrawn_offer_does_not_end_another_gate(running: Bench) -> None:
    running.change_machine("1.0.0")
    running.until_state(UpdateState.GATING)
    running.update.take_offer(b"")
    assert running.state is UpdateState.GATING


def test_what_was_built_for_a_release_goes_with_it(running: Bench) -> None:
    cache = running.update.store.cache_folder(running.yard.manifest("1.0.0"))
    assert cache.is_dir()
    running.commit("1.1.0")
    assert cache.is_dir()
    running.offer("1.2.0")
    running.until_over()
    assert not running.update.store.cache_folder(running.yard.manifest("1.2.0")).parent.exists()
    assert cache.is_dir()
