"""The update in hand on one device: the journal, the table, and one step after the other.

This is all that moves an update on. It owns the order of things: an event is found in the table,
the journal says so on disk, and only then does the next state's work begin.
"""

from __future__ import annotations

import errno
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Final

import msgspec

from asdic.contract.errors import AsdicError, InstallError, ReleaseError
from asdic.contract.files import read_bounded
from asdic.contract.messages import Refusal, UpdateState
from asdic.contract.release import digest_of
from asdic.contract.trust import OFFER_LIMIT_BYTES, Offer, parse_offer
from asdic.device.application import ProgramView
from asdic.device.config import AgentConfig, StateFolder
from asdic.device.update.fetch import BlobSource
from asdic.device.update.journal import Journal, JournalFile, Turn, with_finished
from asdic.device.update.microcontroller import Microcontroller
from asdic.device.update.refusal import RefusedInstallError, refusal_for
from asdic.device.update.sealed import NewerSchemaError
from asdic.device.update.state import FINAL, SWITCHED, TRANSITIONS, UpdateEvent, step
from asdic.device.update.steps import DAMAGED, STEPS
from asdic.device.update.storage import Storage
from asdic.device.update.store import Pointer, Store
from asdic.device.update.trust import TrustFolder
from asdic.device.update.work import OpenTrial, Visit, Work, open_trial
from asdic.firmware_bridge.glance import Glance

FAILURES: Final = MappingProxyType(
    {
        UpdateState.OFFERED: UpdateEvent.REFUSED,
        UpdateState.GATING: UpdateEvent.GATE_FAILED,
        UpdateState.PROBATION: UpdateEvent.UNHEALTHY,
    }
)
"""What an error means in a state; in all others that can fail it is ``FAILED``."""

PATIENT: Final = frozenset({UpdateState.VERIFYING, UpdateState.STAGED, UpdateState.ACTIVATING})
"""States whose work is tried again when the disk fails, until their deadline."""

COUNTED: Final = frozenset({UpdateState.GATING, UpdateState.ACTIVATING, UpdateState.PROBATION})
"""States in which a restart may be the new model's doing."""

log = logging.getLogger("asdic.update")


class Update:
    """The update in hand, or the last one.

    Args:
        state: The device's state folder.
        config: Who the device is, and how patient.
        storage: The door to the disk.
        source: Where blobs come from.
        program: What the inferring program says.
        crashes: How often the runner has ended unexpectedly since the agent started.
        changed: Is called with the journal after every change of the state.
        open_trial: Starts the trial of a candidate.
        microcontroller: The one beside the box, if it has one.
        frames: Glances at the ring that brings the frames, if there is one.
        clock: Monotonic seconds, for deadlines.
        now: The device's clock, which may be wrong.

    Attributes:
        store: Blobs, releases and pointers.
    """

    def __init__(
        self,
        state: StateFolder,
        config: AgentConfig,
        *,
        storage: Storage,
        source: BlobSource,
        program: ProgramView,
        crashes: Callable[[], int],
        changed: Callable[[Journal], None],
        open_trial: OpenTrial = open_trial,
        microcontroller: Microcontroller | None = None,
        frames: Callable[[], Glance] | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self.store = Store(state.path, storage)
        self._journal_file = JournalFile(state.journal, storage)
        self._changed = changed
        self._pending: bytes | None = None
        self._set_aside: str | None = None
        self._is_urgent = False
        self._is_healed = False
        self._is_foreign = False
        self._trust = TrustFolder(state.trust, storage)
        self._work = Work(
            state=state,
            config=config,
            storage=storage,
            store=self.store,
            trust=self._trust,
            source=source,
            program=program,
            crashes=crashes,
            clock=clock,
            now=now,
            open_trial=open_trial,
            microcontroller=microcontroller,
            frames=frames,
            journal=self._open(),
        )
        if not self._is_foreign:
            storage.keep_reserve(state.reserve)
        self._enter()

    def _open(self) -> Journal:
        """Return the journal of a store that is ready to be worked on.

        What a newer agent wrote is left alone: the model that runs goes on, and nothing else.
        """
        try:
            journal = self._journal_file.read_or_recover(self.store.pointers(), self.store.firmware)
            self._trust.check_schema()
            self.store.prepare()
        except NewerSchemaError as error:
            log.error("%s", error)  # noqa: TRY400 - one line says it all
            self._is_foreign = True
            refusal = Refusal(code="newer-schema", message=str(error))
            return Journal(state=UpdateState.INCONSISTENT, refusal=refusal)
        self._find_current(journal)
        return journal

    def _find_current(self, journal: Journal) -> None:
        """Point to a release again where the disk lost ``current`` and still holds one."""
        pointers = self.store.pointers()
        committed = journal.manifest if journal.state is UpdateState.COMMITTED else None
        candidates = (pointers.current, committed, pointers.previous)
        there = [one for one in candidates if one and self.store.release_folder(one).is_dir()]
        if there and there[0] != pointers.current:
            log.error("the pointer to the current release was lost; it is %s again", there[0])
            self.store.point(Pointer.CURRENT, there[0])

    @property
    def journal(self) -> Journal:
        """Where the update stands."""
        return self._work.journal

    @property
    def is_final(self) -> bool:
        """Whether no update is in hand."""
        return self.journal.state in FINAL

    @property
    def is_settled(self) -> bool:
        """Whether no update is in hand and the last one has been cleaned up after."""
        return self.is_final and (
            self._work.visit.is_settled or self.journal.state is UpdateState.INCONSISTENT
        )

    @property
    def has_pending(self) -> bool:
        """Whether an offer waits to be considered."""
        return self._pending is not None

    def resume(self) -> None:
        """Go on with what the journal says was in hand when the agent ended. Call it once."""
        if step(self.journal.state, UpdateEvent.RESTARTED) in FINAL:
            return
        log.info("the agent came back while an update was %s", self.journal.state.value)
        restarts = self.journal.restarts + (self.journal.state in COUNTED)
        self._go(self._work.turn(UpdateEvent.RESTARTED, restarts=restarts))

    def take_offer(self, data: bytes, *, again: bool = False, now: bool = False) -> None:
        """Consider an offer at the next tick; empty ``data`` withdraws the one in hand.

        ``again``: a person asks, so an offer that has failed before is tried anew; ``now``: also
        while an exam is in progress.
        """
        if self._is_foreign:
            return
        if not data:
            self._withdraw()
            return
        if again and self.is_final:
            self._work.journal = msgspec.structs.replace(self.journal, offer=None, finished=())
        self._pending = data
        self._is_urgent = now

    def send_back(self, *, now: bool = False) -> None:
        """Go back to the release before the current one, because a person at the box says so.

        ``now``: also while an exam is in progress, and also where a rollback waits for its end.

        Raises:
            InstallError: There is none, or another update is in hand.
        """
        if self._is_foreign and self.journal.refusal is not None:
            raise InstallError(self.journal.refusal.message)
        self._settle()
        current, previous = (self.store.pointer(p) for p in (Pointer.CURRENT, Pointer.PREVIOUS))
        if now and self._is_held_back():
            self._go(self._work.turn(UpdateEvent.RESTARTED, by_person=True))
            return
        if (self.journal.state, UpdateEvent.SENT_BACK) not in TRANSITIONS:
            raise InstallError(f"the update is {self.journal.state.value}; wait until it has ended")
        if current is None or previous in {None, current}:
            raise InstallError("there is no earlier release on this box that it may go back to")
        refusal = Refusal(code="by-hand", message="a person at the box went back")
        if self.journal.state is UpdateState.PROBATION:
            journal = msgspec.structs.replace(self.journal, refusal=refusal)
        else:
            journal = self._work.journal_back(current, refusal, is_wanted_again=False)
        self._go(Turn(UpdateEvent.SENT_BACK, msgspec.structs.replace(journal, by_person=now)))

    def _settle(self) -> None:
        """Clean up after the last update first: it may have closed the way back."""
        if self.is_final and not self.is_settled:
            STEPS[self.journal.state](self._work)

    def _is_held_back(self) -> bool:
        """Return whether the way back waits for the end of an exam."""
        journal = self.journal
        return journal.state is UpdateState.ROLLING_BACK or (
            journal.state is UpdateState.DEFERRED and journal.held is UpdateEvent.UNHEALTHY
        )

    def take_chunk(self, blob: str, number: int, data: bytes) -> None:
        """Keep a chunk, if it is one that the update in hand lacks."""
        if self._work.visit.download is None:
            return
        try:
            self._work.visit.download.take(blob, number, data)
        except OSError as error:
            self._go(self._failed(_device_error(error)))

    def connected(self) -> None:
        """Say again what is missing: the manager may have forgotten."""
        if self._work.visit.download is not None:
            self._work.visit.download.start()

    def tick(self) -> None:
        """Do what is due now. Call it several times a second."""
        self._count_time()
        self._heal()
        self._consider_offer()
        while (turn := self._turn()) is not None:
            self._go(turn)

    def stop(self) -> None:
        """Leave everything so that the next start goes on from here."""
        self._work.end_visit()

    def _turn(self) -> Turn | None:
        try:
            turn = STEPS[self.journal.state](self._work)
        except AsdicError as error:
            return self._failed(error)
        except OSError as error:
            trouble = _device_error(error)
            if self.journal.state in PATIENT:
                self._work.visit.trouble = trouble
                return self._overdue()
            return self._failed(trouble)
        return turn or self._overdue()

    def _go(self, turn: Turn | None) -> None:
        """Write the next state to the journal, then enter it."""
        if turn is None:
            return
        state = step(self.journal.state, turn.event)
        journal = msgspec.structs.replace(turn.journal, state=state)
        if state in FINAL:
            journal = with_finished(journal)
        self._journal_file.write(journal)
        if turn.event is UpdateEvent.OFFERED:
            self._pending = None  # Not before the journal has it: a disk that fails asks again.
        _log_change(self.journal, journal)
        self._work.end_visit()
        self._work.journal = journal
        self._enter()
        self._changed(journal)

    def _enter(self) -> None:
        self._work.visit = Visit(crashes_before=self._work.crashes())
        self._elapsed_s = 0.0
        self._counted_s = self._work.clock()

    def _count_time(self) -> None:
        """Count the time in this state; while an exam is in progress the deadline stands still."""
        now = self._work.clock()
        if self.journal.state is UpdateState.DEFERRED or not self._work.is_busy():
            self._elapsed_s += now - self._counted_s
        self._counted_s = now

    def _overdue(self) -> Turn | None:
        state = self.journal.state
        limit_s = self._work.config.deadline_s(
            state, writes_firmware=self._work.visit.writes_firmware
        )
        if limit_s is None or self._elapsed_s < limit_s:
            return None
        if self.journal.held is UpdateEvent.UNHEALTHY:
            return None  # The model is pinned for the exam, however long that takes.
        message = f"the update was {state.value} for more than {limit_s:.0f} s"
        trouble = self._work.visit.trouble
        refusal = refusal_for(trouble) if trouble else Refusal(code="timed-out", message=message)
        return self._work.refused(UpdateEvent.TIMED_OUT, refusal)

    def _failed(self, error: AsdicError) -> Turn | None:
        """Return the turn that an error leads to; where none may, the deadline decides."""
        state = self.journal.state
        event = FAILURES.get(state, UpdateEvent.FAILED)
        if (state, event) not in TRANSITIONS:
            log.warning("%s: %s", state.value, error)
            return self._overdue()
        return self._work.refused(event, refusal_for(error))

    def _heal(self) -> None:
        """Ask the last offer once more for the release that this disk has damaged."""
        refusal = self.journal.refusal
        is_due = self.is_settled and refusal is not None and refusal.code == DAMAGED
        if not is_due or self._is_healed or self.journal.rollout is not None:
            return
        self._is_healed = True
        with suppress(AsdicError):
            self.take_offer(read_bounded(self._work.state.offer, OFFER_LIMIT_BYTES))

    def _consider_offer(self) -> None:
        """Take up the newest offer now, later or never."""
        data = self._pending
        if data is None or not self._may_be_superseded():
            return
        digest = digest_of(data)
        if digest == self._set_aside and not self.is_final:
            return
        try:
            offer = parse_offer(data)
        except ReleaseError as error:
            log.warning("an offer is ignored: %s", error)
            self._pending = None
            return
        if self._is_known(offer, digest):
            self._pending = None
        elif self.is_final or self._is_newer(offer):
            self._take_up(offer, data)
        else:
            self._set_aside = digest

    def _take_up(self, offer: Offer, data: bytes) -> None:
        self._work.storage.write(self._work.state.offer, data)
        journal = Journal(
            rollout=offer.rollout,
            offer=digest_of(data),
            by_person=self._is_urgent,
            finished=self.journal.finished,
        )
        self._go(Turn(UpdateEvent.OFFERED, journal))

    def _may_be_superseded(self) -> bool:
        journal = self.journal
        return journal.state not in SWITCHED and journal.held is not UpdateEvent.UNHEALTHY

    def _is_known(self, offer: Offer, digest: str) -> bool:
        """Return whether this very offer is in hand or has ended, or its rollout failed here."""
        return digest == self.journal.offer or any(
            digest == ended.offer
            or (offer.rollout == ended.rollout and ended.state is UpdateState.FAILED)
            for ended in self.journal.finished
        )

    def _is_newer(self, offer: Offer) -> bool:
        """Return whether ``offer`` is good and asks for something else than the update in hand."""
        try:
            verified = self._work.verify(offer)
        except AsdicError as error:
            log.warning("an offer has to wait for the update in hand: %s", error)
            return False
        in_hand = (self.journal.rollout, self.journal.manifest)
        return (offer.rollout, verified.manifest_digest) != in_hand

    def _withdraw(self) -> None:
        self._pending = None
        if self._may_be_superseded() and not self.is_final and not self._work.is_again:
            self._go(Turn(UpdateEvent.WITHDRAWN, Journal(finished=self.journal.finished)))


def _device_error(error: OSError) -> InstallError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return RefusedInstallError("no-space", "the disk is full")
    return RefusedInstallError("device", f"the device cannot do it: {error}")


def _log_change(before: Journal, after: Journal) -> None:
    what = f"{after.version or after.rollout or 'update'} is {after.state.value}"
    if after.refusal is not None and before.refusal is None:
        log.warning("%s: %s", what, after.refusal.message)
    else:
        log.info("%s", what)
