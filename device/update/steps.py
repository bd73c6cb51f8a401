"""What the device does in each state of an update, and what follows from it.

One function a state: it does the state's work, which may be repeated, and returns a ``Turn`` when
something happened. Whoever calls it (``update.py``) writes the journal before the next state's
work begins. Nothing here knows how bytes travel or who runs the model; everything durable goes
through the store, the trust folder and their storage.
"""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

import msgspec

from asdic.contract.errors import (
    AsdicError,
    ConfigError,
    DigestError,
    InstallError,
    ReleaseError,
)
from asdic.contract.files import read_bounded
from asdic.contract.messages import Refusal, UpdateState
from asdic.contract.release import TARGET_NAME, Manifest, digest_of, parse_manifest, variant_of
from asdic.contract.trust import OFFER_LIMIT_BYTES, Offer, parse_offer
from asdic.device.update.fetch import Download, check_space
from asdic.device.update.journal import Turn, journal_again
from asdic.device.update.pair import bring_firmware, fits, is_firmware_back, watch
from asdic.device.update.refusal import RefusedReleaseError
from asdic.device.update.state import UpdateEvent
from asdic.device.update.store import VERSION, Pointer
from asdic.device.update.work import Work

if TYPE_CHECKING:
    from asdic.device.update.trusted import VerifiedOffer

RESTARTS_LIMIT: Final = 4
REFETCHES_LIMIT: Final = 2
PROBATIONS_LIMIT: Final = 3
DAMAGED: Final = "damaged"
DOUBT_S: Final = 5.0
DOUBT_MAX_S: Final = 600.0

log = logging.getLogger("asdic.update")


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
    _check_tries(work, verified)
    is_current = work.store.pointer(Pointer.CURRENT) == verified.manifest_digest
    if not fits(work, work.store.variant(verified.manifest_digest), is_current=is_current):
        return None
    known = msgspec.structs.replace(known, microcontroller=work.visit.microcontroller)
    if is_current:
        gated = work.store.machine(verified.manifest_digest)
        if gated is None or gated.has_passed:
            is_loaded = work.loaded == verified.manifest_digest
            return Turn(UpdateEvent.ALREADY_RUNNING, known) if is_loaded else None
    check_space(work.store, work.storage, work.store.missing(manifest))
    return Turn(UpdateEvent.ACCEPTED, known)


def _check_tries(work: Work, verified: VerifiedOffer) -> None:
    """Refuse a release that passed its gate and failed in use again and again."""
    failed = [
        ended
        for ended in work.journal.finished
        if ended.manifest == verified.manifest_digest
        and ended.state is UpdateState.FAILED
        and ended.was_tried
    ]
    if len(failed) >= PROBATIONS_LIMIT:
        raise RefusedReleaseError(
            "failed-before",
            f"release {verified.facts.version} failed its probation {len(failed)} times here; "
            "a person at the box may try it again with `asdic-agent install`",
        )


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
        # What an offer brought that this one took the place of goes first: one download at a time.
        work.store.point(Pointer.CANDIDATE, None)
        work.store.collect(keep=frozenset({work.digest}))
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
        work.store.write_firmware(work.digest, None)  # of an earlier time that it was tried
        work.store.point(Pointer.CANDIDATE, work.digest)
    if work.journal.restarts > RESTARTS_LIMIT:
        raise InstallError(f"the agent was restarted {work.journal.restarts} times in the gate")
    if work.is_busy():
        return work.turn(UpdateEvent.BUSY, held=UpdateEvent.READY)
    return work.turn(UpdateEvent.READY)


def _deferred(work: Work) -> Turn | None:
    """Wait for the end of the exam, then go on with the event that it held back."""
    if work.is_busy():
        return None
    return work.turn(work.journal.held or UpdateEvent.READY, held=None)


def _gating(work: Work) -> Turn | None:
    if work.visit.trial is None:
        work.visit.trial = work.open_trial(work)
    verdict = work.visit.trial.poll()
    is_busy = work.is_busy()
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


def _activating(work: Work) -> Turn | None:
    """Switch to the new release: its firmware first, if it brings one, then the model."""
    if work.is_busy():
        work.rest()
        return None
    part = work.variant.firmware
    if part is not None:
        _check_restarts(work)
        brought = bring_firmware(work, part)
        if brought is not True:
            return brought or None
    if work.journal.previous is not None:
        work.store.point(Pointer.PREVIOUS, work.journal.previous)
    work.store.point(Pointer.CURRENT, work.digest)
    return work.turn(UpdateEvent.SWITCHED)


def _check_restarts(work: Work) -> None:
    """Give up on firmware that takes this box down with it, again and again."""
    if work.journal.restarts > RESTARTS_LIMIT:
        times = work.journal.restarts
        raise RefusedReleaseError("restarts", f"the agent was restarted {times} times with it")


def _probation(work: Work) -> Turn | None:
    """Wait until the program has acknowledged the release and shown that it infers.

    Where the release brings firmware, it is kept for good last of all.
    """
    loaded = work.program.program().loaded
    has_inferred = (
        loaded is not None
        and work.loaded == work.digest
        and loaded.inferences >= work.config.probation.inferences
    )
    complaint, part = _complaint(work), work.variant.firmware
    is_kept = part is None
    if complaint is None and part is not None:
        watched = watch(work, part, has_inferred=has_inferred)
        complaint, is_kept = watched.complaint, watched.is_kept
    if complaint is not None and work.is_busy():
        return work.refused(UpdateEvent.BUSY, complaint, held=UpdateEvent.UNHEALTHY)
    if complaint is not None:
        return work.refused(UpdateEvent.UNHEALTHY, complaint)
    if not has_inferred or not is_kept:
        return None
    said = work.visit.microcontroller or work.journal.microcontroller
    return work.turn(UpdateEvent.HEALTHY, microcontroller=said)


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
    """Go back to the old firmware, then the old release, and wait until the program says so.

    Where the old one is damaged there is no model, rather than one that nobody signed.
    """
    if work.is_busy():
        work.rest()
        return None
    if not is_firmware_back(work):
        return None
    if not work.visit.is_settled:
        work.store.point(Pointer.CURRENT, _intact(work, work.journal.previous))
        work.visit.is_settled = True
    if work.loaded != work.store.pointer(Pointer.CURRENT):
        return None
    said = work.visit.microcontroller or work.journal.microcontroller
    return work.turn(UpdateEvent.BACK, microcontroller=said)


def _intact(work: Work, digest: str | None) -> str | None:
    """Return ``digest`` unless a byte of that release is other than it was signed.

    What cannot be read now may be read by the program in a moment, and is no reason to lose it.
    """
    if digest is None:
        return None
    try:
        work.store.check(digest)
    except ReleaseError as error:
        log.error("the release to go back to is lost: %s", error)  # noqa: TRY400 - one line
        return None
    except (ConfigError, OSError) as error:
        log.warning("the release to go back to cannot be checked: %s", error)
    return digest


def _rolled_back(work: Work) -> Turn | None:
    return work.turn(UpdateEvent.SETTLED)


def _settle(work: Work) -> Turn | None:
    """Clean up once after an update has ended; a restart does it again."""
    current = work.store.pointer(Pointer.CURRENT)
    if not work.visit.is_settled:
        if work.journal.state is UpdateState.COMMITTED:
            _close_the_way_back(work)
        work.store.point(Pointer.CANDIDATE, None)
        work.store.collect()
        work.sweep()
        work.visit.gated_on = work.store.machine(current) if current else None
        work.visit.is_settled = True
        return None
    if current is None:
        return None
    return _damaged(work, current) or _gate_again(work, current)


def _close_the_way_back(work: Work) -> None:
    """Never run what has a lower security counter than the committed release, however asked."""
    counter = work.journal.security_counter
    if counter > work.trust.security_counter:
        work.store.point(Pointer.PREVIOUS, None)
        work.trust.raise_counter(counter)


def _damaged(work: Work, current: str) -> Turn | None:
    """Go back from a current release that is not what was signed any more.

    The program checks every byte when it loads; so what it has loaded was right, and what it does
    not load is looked at here, ever more rarely.
    """
    visit, now = work.visit, work.clock()
    if work.loaded == current or visit.doubts == 0:
        visit.doubts, visit.doubted_s = 1, now
        return None
    if now - visit.doubted_s < min(DOUBT_S * 2 ** (visit.doubts - 1), DOUBT_MAX_S):
        return None
    visit.doubts, visit.doubted_s = visit.doubts + 1, now
    try:
        work.store.check(current)
    except (AsdicError, OSError) as error:
        message = f"the current model is damaged on this disk: {error}"
        refusal = Refusal(code=DAMAGED, message=message)
        return Turn(
            UpdateEvent.NO_LONGER_GOOD, work.journal_back(current, refusal, is_wanted_again=True)
        )
    return None


def _gate_again(work: Work, current: str) -> Turn | None:
    """Put the current release through the gate if it was gated on another machine than this."""
    gated_on = work.visit.gated_on
    if gated_on is not None and not gated_on.differs(work.system, work.runtime_of(current)):
        return None
    log.warning("the machine is not the one that the current model was gated on")
    again = journal_again(work.journal, current, work.version_of(current))
    return Turn(UpdateEvent.FINGERPRINT_CHANGED, again)


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
