"""The update in hand and what its steps work with: journal, store, trust, program and clock."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, TypeAlias

import msgspec

from asdic.contract.errors import AsdicError, InstallError
from asdic.contract.messages import FirmwareFacts, Refusal, RuntimeFacts, UpdateState
from asdic.contract.release import Manifest
from asdic.contract.trust import Offer
from asdic.contract.variant import Variant, read_variant
from asdic.device.application import ProgramView
from asdic.device.config import AgentConfig, StateFolder
from asdic.device.update.fetch import BlobSource, Download
from asdic.device.update.gate import Trial, Verdict, file_limit_bytes
from asdic.device.update.journal import Journal, Turn, journal_back
from asdic.device.update.machine import Machine, system_fingerprint
from asdic.device.update.microcontroller import Microcontroller
from asdic.device.update.state import UpdateEvent
from asdic.device.update.storage import Storage
from asdic.device.update.store import Pointer, Store
from asdic.device.update.trust import TrustFolder
from asdic.firmware_bridge.glance import Glance

if TYPE_CHECKING:
    from asdic.device.update.trusted import VerifiedOffer


class RunningTrial(Protocol):
    """A trial that was started."""

    def poll(self) -> Verdict | None:
        """Return the verdict, or None while the trial runs."""

    def stop(self) -> None:
        """End the trial; a second time does nothing."""


OpenTrial: TypeAlias = Callable[["Work"], RunningTrial]
"""Starts the trial of the release in hand."""


@dataclass(kw_only=True)
class Visit:
    """What a state keeps in memory from its entry until it is left."""

    crashes_before: int = 0
    is_settled: bool = False
    verified: tuple[VerifiedOffer, Manifest] | None = None
    variant: Variant | None = None
    download: Download | None = None
    trial: RunningTrial | None = None
    gated_on: Machine | None = None
    trouble: AsdicError | None = None
    doubts: int = 0
    doubted_s: float = 0.0
    writes_firmware: bool = False
    is_harmless: bool = False
    resets: int = 0
    uptime_s: float = 0.0
    microcontroller: FirmwareFacts | None = None
    first_frame: Glance | None = None
    is_firmware_back: bool = False
    cannot_test_boot: bool = False

    def end(self) -> None:
        """Stop what runs and keep what was fetched."""
        if self.trial is not None:
            self.trial.stop()
        if self.download is not None:
            self.download.close()


@dataclass(kw_only=True)
class Work:
    """The update in hand, and what its steps work with."""

    state: StateFolder
    config: AgentConfig
    storage: Storage
    store: Store
    trust: TrustFolder
    source: BlobSource
    program: ProgramView
    crashes: Callable[[], int]
    clock: Callable[[], float]
    now: Callable[[], datetime]
    open_trial: OpenTrial
    journal: Journal
    microcontroller: Microcontroller | None = None
    frames: Callable[[], Glance] | None = None
    visit: Visit = field(default_factory=Visit)
    system: str = field(default_factory=system_fingerprint)

    @property
    def digest(self) -> str:
        """The manifest of the release in hand."""
        if self.journal.manifest is None:
            raise InstallError("the journal names no release")
        return self.journal.manifest

    @property
    def manifest(self) -> Manifest:
        """Its content, from the store."""
        return self.store.manifest(self.digest)

    @property
    def variant(self) -> Variant:
        """Its description, from the store."""
        if self.visit.variant is None:
            self.visit.variant = self.store.variant(self.digest)
        return self.visit.variant

    @property
    def loaded(self) -> str | None:
        """The manifest that the inferring program has acknowledged, and really runs."""
        loaded = self.program.program().loaded
        return loaded.manifest if loaded is not None and loaded.is_certain else None

    def end_visit(self) -> None:
        """Stop what the state has begun, and keep what was fetched."""
        self.visit.end()
        self.rest()

    def rest(self) -> None:
        """Leave the microcontroller alone for now."""
        if self.microcontroller is not None:
            self.microcontroller.leave()

    def is_busy(self) -> bool:
        """Return whether an exam holds everything back; a person at the box overrides it."""
        return not self.journal.by_person and self.program.is_busy()

    @property
    def is_again(self) -> bool:
        """Whether the gate is for the current release, because the machine has changed."""
        states = {UpdateState.STAGED, UpdateState.DEFERRED, UpdateState.GATING}
        is_current = self.store.pointer(Pointer.CURRENT) == self.journal.manifest
        return self.journal.state in states and is_current

    def runtime_of(self, digest: str) -> RuntimeFacts | None:
        """Return what the program says that it runs ``digest`` with, if it runs it."""
        return self.program.program().runtime if self.loaded == digest else None

    def note_gated(self, trial: RuntimeFacts | None, *, has_passed: bool = True) -> None:
        """Note on which machine the release in hand was gated; a restart gates and notes again."""
        machine = Machine(
            system=self.system,
            trial=trial,
            program=self.runtime_of(self.digest),
            has_passed=has_passed,
        )
        self.store.write_machine(self.digest, machine)

    def journal_back(self, current: str, refusal: Refusal, *, is_wanted_again: bool) -> Journal:
        """Return the journal of the way from ``current`` to the release before it, if any."""
        previous = self.store.pointer(Pointer.PREVIOUS)
        return journal_back(
            self.journal,
            current,
            version=self.version_of(current),
            previous=previous if previous != current else None,
            refusal=refusal,
            is_wanted_again=is_wanted_again,
            firmware=self.store.firmware(current),
        )

    def version_of(self, digest: str) -> str | None:
        """Return the version of a stored release, if it can still be read."""
        with suppress(AsdicError):
            return self.store.release(digest).version
        return None

    def sweep(self) -> None:
        """Keep room for urgent writes, and remove what unfinished ones left."""
        self.storage.keep_reserve(self.state.reserve)
        # Where other threads or processes write as well, a leftover waits for the next write.
        for folder in (self.state.path, self.state.report_number.parent):
            self.storage.sweep(folder)
        self.trust.sweep()

    def turn(self, event: UpdateEvent, **changes: object) -> Turn:
        """Return a turn that adds ``changes`` to the journal."""
        return Turn(event, msgspec.structs.replace(self.journal, **changes))

    def refused(self, event: UpdateEvent, refusal: Refusal, **changes: object) -> Turn:
        """Return a turn that goes wrong; the first reason is the one to remember."""
        if self.is_again:
            return self._no_longer_good(event, refusal)
        return self.turn(event, refusal=self.journal.refusal or refusal, **changes)

    def _no_longer_good(self, event: UpdateEvent, reason: Refusal) -> Turn:
        """Return the turn away from the current release, or ``event`` where there is no other."""
        message = f"the current model no longer passes on this machine: {reason.message}"
        refusal = Refusal(code=reason.code, message=message)
        previous = self.store.pointer(Pointer.PREVIOUS)
        if previous in {None, self.digest}:
            self.note_gated(None, has_passed=False)
            return self.turn(event, refusal=refusal)
        return self.turn(
            UpdateEvent.NO_LONGER_GOOD,
            refusal=refusal,
            previous=previous,
            firmware=self.store.firmware(self.digest),
        )

    def verify(self, offer: Offer) -> VerifiedOffer:
        """Return what both repositories say in ``offer``.

        Raises:
            ReleaseError: It is not for us, not signed, not fresh, or older.
        """
        # python-tuf takes 10 MB and 0.2 s to import, and most days bring no offer.
        from asdic.device.update.trusted import DeviceFacts, verify_offer

        device = DeviceFacts(device=self.config.device, target=self.config.target)
        return verify_offer(offer, trust=self.trust.read(), device=device, now=self.now())


def open_trial(work: Work) -> Trial:
    """Start the trial of the release in hand, beside the current one.

    Raises:
        ReleaseError: Its files are damaged.
    """
    folder = work.store.release(work.digest).folder
    current = work.store.pointer(Pointer.CURRENT)
    variant = read_variant(folder, check=False)
    cache = work.store.cache_folder(work.digest)
    work.storage.make_folder(cache)
    return Trial(
        folder,
        variant.limits,
        baseline=work.store.release_folder(current) if current and not work.is_again else None,
        simulate=work.config.simulated,
        bench_s=work.config.timing.bench_s,
        cache=cache,
        file_bytes=file_limit_bytes(variant, simulate=work.config.simulated),
    )
