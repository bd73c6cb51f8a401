"""What the device does in each state of an update, and what follows from it.

One function a state: it does the state's work, which may be repeated, and returns a ``Turn`` when
something happened. Whoever calls it (``update.py``) writes the journal before the next state's
work begins. Nothing here knows how bytes travel or who runs the model; everything durable goes
through the store, the trust folder and their storage.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from asdic.contract.errors import AsdicError, DigestError, InstallError
from asdic.contract.files import read_bounded
from asdic.contract.messages import Refusal, RuntimeFacts, UpdateState
from asdic.contract.release import TARGET_NAME, Manifest, digest_of, parse_manifest, variant_of
from asdic.contract.trust import OFFER_LIMIT_BYTES, Offer, parse_offer
from asdic.contract.variant import read_variant
from asdic.device.application import ProgramView
from asdic.device.config import AgentConfig, StateFolder
from asdic.device.update.fetch import BlobSource, Download, check_space
from asdic.device.update.gate import Trial, file_limit_bytes
from asdic.device.update.journal import Journal, Turn, journal_again
from asdic.device.update.machine import Machine, system_fingerprint
from asdic.device.update.refusal import RefusedReleaseError
from asdic.device.update.state import UpdateEvent
from asdic.device.update.storage import Storage
from asdic.device.update.store import VERSION, Pointer, Store
from asdic.device.update.trust import TrustFolder

if TYPE_CHECKING:
    from asdic.device.update.trusted import VerifiedOffer

RESTARTS_LIMIT: Final = 4
REFETCHES_LIMIT: Final = 2

log = logging.getLogger("asdic.update")


@dataclass(kw_only=True)
class Visit:
    """What a state keeps in memory from its entry until it is left."""

    crashes_before: int = 0
    is_settled: bool = False
    verified: tuple[VerifiedOffer, Manifest] | None = None
    download: Download | None = None
    trial: Trial | None = None
    gated_on: Machine | None = None

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
    journal: Journal
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
    def loaded(self) -> str | None:
        """The manifest that the inferring program has acknowledged."""
        loaded = self.program.program().loaded
        return loaded.manifest if loaded is not None else None

    @property
    def is_again(self) -> bool:
        """Whether the gate is for the current release, because the machine has changed."""
        states = {UpdateState.STAGED, UpdateState.DEFERRED, UpdateState.GATING}
        is_current = self.store.pointer(Pointer.CURRENT) == self.journal.manifest
        return self.journal.state in states and is_current

    def runtime_of(self, digest: str) -> RuntimeFacts | None:
        """Return what the program says that it runs ``digest`` with, if it runs it."""
        return self.program.program().runtime if self.loaded == digest else None

    def note_gated(self, trial: RuntimeFacts | None) -> None:
        """Note on which machine the release in hand was gated; a restart gates and notes again."""
        machine = Machine(system=self.system, trial=trial, program=self.runtime_of(self.digest))
        self.store.write_machine(self.digest, machine)

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
            self.note_gated(None)
            return self.turn(event, refusal=refusal)
        return self.turn(UpdateEvent.NO_LONGER_GOOD, refusal=refusal, previous=previous)

    def verify(self, offer: Offer) -> VerifiedOffer:
        """Return what both repositories say in ``offer``.

        Raises:
            ReleaseError: It is not for us, not signed, not fresh, or older.
        """
        # python-tuf takes 10 MB and 0.2 s to import, and most days bring no offer.
        from asdic.device.update.trusted import DeviceFacts, verify_offer

        device = DeviceFacts(device=self.config.device, target=self.config.target)
        return verify_offer(offer, trust=self.trust.read(), device=device, now=self.now())


def _offered(work: Work) -> Turn | None:
    """Check the offer, and remember what it taught us before anything else is done."""
    if work.visit.verified is None:
        work.visit.verified = _accept_documents(work)
    verified, manifest = work.visit.verified
    known = msgspec.structs.replace(
        work.journal,
        version=verified.facts.version,
        manifest=verified.manifest_digest,
        security_counter=verified.facts.security_counter,
    )
    if work.store.pointer(Pointer.CURRENT) == verified.manifest_digest:
        is_loaded = work.loaded == verified.manifest_digest
        return Turn(UpdateEvent.ALREADY_RUNNING, known) if is_loaded else None
    check_space(work.store, work.storage, work.store.missing(manifest))
    return Turn(UpdateEvent.ACCEPTED, known)


def _accept_documents(work: Work) -> tuple[VerifiedOffer, Manifest]:
    data = read_bounded(work.state.offer, OFFER_LIMIT_BYTES)
    if digest_of(data) != work.journal.offer:
        raise DigestError("the stored offer is not the one in the journal")
    offer = parse_offer(data)
    verified = work.verify(offer)
    manifest, config = _documents(work, offer, verified)
    work.trust.write(verified.trust)
    work.store.put(_document(offer, verified.manifest_digest))
    work.store.put(config)
    return verified, manifest


def _documents(work: Work, offer: Offer, verified: VerifiedOffer) -> tuple[Manifest, bytes]:
    """Return the manifest and the description that the offer brings, once they fit.

    Raises:
        ReleaseError: One is missing, is not what was signed, or is for another target.
    """
    manifest = parse_manifest(_document(offer, verified.manifest_digest))
    config = _document(offer, manifest.config.digest)
    variant = variant_of(manifest, config)
    says = (manifest.annotations.get(TARGET_NAME), manifest.annotations.get(VERSION))
    signed = (work.config.target, verified.facts.version)
    if says != signed or variant.target != work.config.target:
        raise RefusedReleaseError(
            "wrong-target", f"the manifest says {says}, target and version signed are {signed}"
        )
    return manifest, config


def _document(offer: Offer, digest: str) -> bytes:
    if digest not in offer.documents:
        raise RefusedReleaseError("incomplete", f"the offer lacks the document {digest}")
    data = offer.documents[digest].encode()
    if digest_of(data) != digest:
        raise DigestError(f"a document of the offer differs from its digest {digest}")
    return data


def _fetching(work: Work) -> Turn | None:
    visit = work.visit
    if visit.download is None:
        missing = work.store.missing(work.manifest)
        visit.download = Download(missing, work.store, work.storage, work.source, clock=work.clock)
        visit.download.start()
    visit.download.tick()
    return work.turn(UpdateEvent.FETCHED) if visit.download.is_complete else None


def _verifying(work: Work) -> Turn | None:
    damage = _admit_all(work)
    if damage is None:
        work.store.stage(work.digest)
        return work.turn(UpdateEvent.VERIFIED)
    work.store.unstage(work.digest)
    if work.journal.refetches >= REFETCHES_LIMIT:
        raise damage
    log.warning("%s; fetching it again", damage)
    return work.turn(UpdateEvent.DAMAGED, refetches=work.journal.refetches + 1)


def _admit_all(work: Work) -> DigestError | None:
    """Take all blobs of the manifest into the store; return what was wrong with the last."""
    damage = None
    for blob in work.manifest.blobs:
        try:
            work.store.admit(blob)
        except DigestError as error:  # noqa: PERF203 - each damaged blob is fetched again
            damage = error
    return damage


def _staged(work: Work) -> Turn | None:
    if not work.is_again:
        work.store.point(Pointer.CANDIDATE, work.digest)
    if work.journal.restarts > RESTARTS_LIMIT:
        raise InstallError(f"the agent was restarted {work.journal.restarts} times in the gate")
    if work.program.is_busy():
        return work.turn(UpdateEvent.BUSY, held=UpdateEvent.READY)
    return work.turn(UpdateEvent.READY)


def _deferred(work: Work) -> Turn | None:
    """Wait for the end of the exam, then go on with the event that it held back."""
    if work.program.is_busy():
        return None
    return work.turn(work.journal.held or UpdateEvent.READY, held=None)


def _gating(work: Work) -> Turn | None:
    if work.visit.trial is None:
        work.visit.trial = _start_trial(work)
    verdict = work.visit.trial.poll()
    is_busy = work.program.is_busy()
    if isinstance(verdict, Refusal):
        return work.refused(UpdateEvent.GATE_FAILED, verdict)
    if verdict is None:
        return work.turn(UpdateEvent.BUSY, held=UpdateEvent.READY) if is_busy else None
    work.note_gated(verdict.runtime)
    if work.is_again:
        return work.turn(UpdateEvent.STILL_GOOD, gate=verdict)
    current = work.store.pointer(Pointer.CURRENT)
    known = work.turn(UpdateEvent.GATE_PASSED, gate=verdict, previous=current)
    if is_busy:
        held = msgspec.structs.replace(known.journal, held=UpdateEvent.GATE_PASSED)
        return Turn(UpdateEvent.BUSY, held)
    return known


def _start_trial(work: Work) -> Trial:
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


def _activating(work: Work) -> Turn | None:
    if work.program.is_busy():
        return None
    if work.journal.previous is not None:
        work.store.point(Pointer.PREVIOUS, work.journal.previous)
    work.store.point(Pointer.CURRENT, work.digest)
    return work.turn(UpdateEvent.SWITCHED)


def _probation(work: Work) -> Turn | None:
    """Wait until the program has acknowledged the release and shown that it infers."""
    complaint = _complaint(work)
    if complaint is not None and work.program.is_busy():
        return work.refused(UpdateEvent.BUSY, complaint, held=UpdateEvent.UNHEALTHY)
    if complaint is not None:
        return work.refused(UpdateEvent.UNHEALTHY, complaint)
    loaded = work.program.program().loaded
    if loaded is None or loaded.manifest != work.digest:
        return None
    if loaded.inferences < work.config.probation.inferences:
        return None
    return work.turn(UpdateEvent.HEALTHY)


def _complaint(work: Work) -> Refusal | None:
    """Return what speaks against the new release while it runs."""
    health = work.program.program().health
    crashes = work.crashes() - work.visit.crashes_before
    if health is not None and health.manifest == work.digest and health.errors:
        reason = health.reason or f"{health.errors} of its inferences failed"
        return Refusal(code="unhealthy", message=f"the model fails while it runs: {reason}")
    if crashes >= work.config.probation.crashes:
        return Refusal(code="crash", message=f"the runner crashed {crashes} times with it")
    if work.journal.restarts > RESTARTS_LIMIT:
        times = work.journal.restarts
        return Refusal(code="restarts", message=f"the agent was restarted {times} times with it")
    return None


def _rolling_back(work: Work) -> Turn | None:
    """Go back to the old release, and wait until the program says that it is back."""
    if work.program.is_busy():
        return None
    work.store.point(Pointer.CURRENT, work.journal.previous)
    if work.loaded != work.journal.previous:
        return None
    return work.turn(UpdateEvent.BACK)


def _rolled_back(work: Work) -> Turn | None:
    return work.turn(UpdateEvent.SETTLED)


def _settle(work: Work) -> Turn | None:
    """Clean up once after an update has ended; a restart does it again."""
    current = work.store.pointer(Pointer.CURRENT)
    if not work.visit.is_settled:
        if work.journal.state is UpdateState.COMMITTED:
            work.trust.raise_counter(work.journal.security_counter)
        work.store.point(Pointer.CANDIDATE, None)
        work.store.collect()
        work.visit.gated_on = work.store.machine(current) if current else None
        work.visit.is_settled = True
        return None
    return _gate_again(work, current) if current else None


def _gate_again(work: Work, current: str) -> Turn | None:
    """Put the current release through the gate if it was gated on another machine than this."""
    gated_on = work.visit.gated_on
    if gated_on is not None and not gated_on.differs(work.system, work.runtime_of(current)):
        return None
    log.warning("the machine is not the one that the current model was gated on")
    version = None
    with suppress(AsdicError):  # What is damaged is what the gate is about to say.
        version = work.store.release(current).version
    return Turn(UpdateEvent.FINGERPRINT_CHANGED, journal_again(work.journal, current, version))


def _stand(_work: Work) -> Turn | None:
    """Touch nothing: the program did not say that it is back on the old release."""
    return None


STEPS: Final = MappingProxyType(
    {
        UpdateState.IDLE: _settle,
        UpdateState.OFFERED: _offered,
        UpdateState.REJECTED: _settle,
        UpdateState.DEFERRED: _deferred,
        UpdateState.FETCHING: _fetching,
        UpdateState.VERIFYING: _verifying,
        UpdateState.STAGED: _staged,
        UpdateState.GATING: _gating,
        UpdateState.ACTIVATING: _activating,
        UpdateState.PROBATION: _probation,
        UpdateState.COMMITTED: _settle,
        UpdateState.ROLLING_BACK: _rolling_back,
        UpdateState.ROLLED_BACK: _rolled_back,
        UpdateState.FAILED: _settle,
        UpdateState.INCONSISTENT: _stand,
    }
)
"""The work of each state."""
