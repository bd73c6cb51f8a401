"""The microcontroller's half of an update, for the steps: it moves first, the model follows.

Each function does at most one thing to the microcontroller and may be called again at once. Where
no answer comes, the trouble is noted for the deadline, and nothing is guessed.
``docs/adr/0010-model-and-firmware-are-one-update.md`` has the reasons for the order.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import msgspec

from asdic.contract.errors import AsdicError, ReleaseError
from asdic.contract.messages import Refusal
from asdic.contract.variant import FirmwarePart, FrameFormat, Variant
from asdic.device.update.firmware import (
    REVERTING,
    FirmwareChange,
    Image,
    Move,
    running_image,
)
from asdic.device.update.fit import (
    asks_microcontroller,
    asks_ring,
    check_frames,
    check_microcontroller,
    check_runs_already,
    check_settled,
    check_version,
    check_way_back,
)
from asdic.device.update.journal import Turn
from asdic.device.update.microcontroller import (
    Advance,
    Done,
    ImageFile,
    Keep,
    Look,
    NoTestBootError,
    Question,
    Seen,
    is_kept,
)
from asdic.device.update.refusal import RefusedInstallError, RefusedReleaseError, refusal_for
from asdic.device.update.state import UpdateEvent
from asdic.device.update.surroundings import (
    asked,
    facts_of,
    glance,
    has_on_disk,
    image_in,
    image_on_disk,
)
from asdic.device.update.work import Work
from asdic.firmware_bridge.link import FirmwareInfo

RESETS_LIMIT: Final = 3
REBOOT_S: Final = 1.0
_UPLOADS: Final = frozenset({Move.UPLOAD})
_TRIES: Final = frozenset({Move.UPLOAD, Move.MARK, Move.RESET})
_AGAIN: Final = frozenset({Move.RESET})
_GOES_BACK: Final = frozenset(Move)

log = logging.getLogger("asdic.update")


def fits(work: Work, variant: Variant, *, is_current: bool) -> bool:
    """Return whether a release fits this box; False while somebody has not answered.

    ``is_current``: its model is the one that runs here already.

    Raises:
        RefusedReleaseError: It does not.
        RefusedInstallError: This box cannot take it, or has nobody to ask.
    """
    info = None
    if asks_microcontroller(variant):
        seen = asked(work, Look())
        if seen is None:
            return False
        info = seen.info
        work.visit.microcontroller = facts_of(info)
        check_microcontroller(
            variant, info, work.config.firmware, is_on_disk=lambda one: has_on_disk(work, one)
        )
        if is_current and variant.firmware is not None:
            check_runs_already(variant.firmware, info)
    if variant.requires.frames is not None and asks_ring(variant, info):
        ring = glance(work)
        if ring is None:
            return False
        check_frames(variant.requires.frames, ring.frames)
    return True


def bring_firmware(work: Work, part: FirmwarePart) -> bool | Turn:
    """Bring the release's firmware to run, on trial; return whether it does.

    A turn is to be taken first: from then on the microcontroller may change.

    Raises:
        RefusedReleaseError: It did not come up with it, or is not what it says.
        RefusedInstallError: The microcontroller refuses it.
    """
    work.visit.writes_firmware = True
    change = work.journal.firmware
    return _prepare(work, part) if change is None else _try(work, part, change)


def _prepare(work: Work, part: FirmwarePart) -> bool | Turn:
    """Get ready to change what runs, and write the image already where that changes nothing.

    Only a bootloader that has said so leaves an image alone that was not marked. Any other may
    boot it at the next power cut, so what it runs is remembered before the first byte.
    """
    done = asked(
        work,
        Advance(
            board=part.board,
            wanted=Image(version=part.version, digest=part.digest),
            may=_UPLOADS if work.visit.is_harmless else frozenset(),
            image=image_in(work, work.digest),
        ),
    )
    if done is None:
        return False
    check_settled(done.info)
    if done.move is Move.SETTLED:
        check_version(part, done.info)
        return True
    if done.move is Move.UPLOAD and done.info.boot_mode in REVERTING:
        work.visit.is_harmless = True
        return False
    return _begin(work, part, done.info)


def _begin(work: Work, part: FirmwarePart, info: FirmwareInfo) -> Turn:
    """Remember what runs, where the journal and what comes after it will look.

    Raises:
        RefusedInstallError: There would be no way back to it.
    """
    _check_way_back(work, info, can_test_boot=info.can_test_boot)
    change = FirmwareChange(
        board=part.board,
        before=running_image(info),
        after=Image(version=part.version, digest=part.digest),
        without_test=not info.can_test_boot,
    )
    work.store.write_firmware(work.digest, change)
    return work.turn(UpdateEvent.PREPARED, firmware=change)


def _try(work: Work, part: FirmwarePart, change: FirmwareChange) -> bool | Turn:
    """Boot the image on trial, and see that it is there."""
    tries = work.visit.resets
    may = _TRIES if tries == 0 else _AGAIN if tries < RESETS_LIMIT else frozenset[Move]()
    try:
        done = asked(
            work,
            Advance(
                board=change.board,
                wanted=change.after,
                may=may,
                image=image_in(work, work.digest),
                without_test=change.without_test,
            ),
        )
    except NoTestBootError as error:
        return _without_test(work, change, error.info)
    if done is None:
        return False
    if done.move in {Move.CONFIRM, Move.SETTLED}:
        check_version(part, done.info)
        return True
    if not done.was_done:
        raise RefusedReleaseError(
            "firmware-not-booted",
            f"the microcontroller did not come up with firmware {part.version}; it runs "
            f"{running_image(done.info).version} again",
        )
    work.visit.resets += done.move is Move.RESET
    return False


def _without_test(work: Work, change: FirmwareChange, info: FirmwareInfo) -> Turn:
    """Go on as the operator said for a microcontroller that cannot boot on trial.

    Raises:
        RefusedInstallError: Not at all; the microcontroller runs what it ran.
    """
    _check_way_back(work, info, can_test_boot=False)
    without = msgspec.structs.replace(change, without_test=True)
    work.store.write_firmware(work.digest, without)
    return work.turn(UpdateEvent.PREPARED, firmware=without)


def _check_way_back(work: Work, info: FirmwareInfo, *, can_test_boot: bool) -> None:
    check_way_back(
        info,
        work.config.firmware,
        is_on_disk=lambda one: has_on_disk(work, one),
        can_test_boot=can_test_boot,
    )


@dataclass(frozen=True)
class Watched:
    """What is seen of the new pair: what speaks against it, or whether it is proven and kept."""

    complaint: Refusal | None = None
    is_kept: bool = False


def watch(work: Work, part: FirmwarePart, *, has_inferred: bool) -> Watched:
    """Watch the new firmware beside the new model; keep it once both have shown that they work.

    ``has_inferred``: the program has done its inferences with the new model.
    """
    proven = has_inferred and _frames_came(work, work.variant.requires.frames)
    question: Question[Seen] = Keep(wanted=part.digest) if proven else Look()
    try:
        seen = asked(work, question)
        if seen is None:
            return Watched()
        _check_runs(work, part, seen)
    except AsdicError as error:
        return Watched(complaint=refusal_for(error))
    work.visit.microcontroller = facts_of(seen.info)
    return Watched(is_kept=proven and is_kept(seen, part.digest))


def _check_runs(work: Work, part: FirmwarePart, seen: Seen) -> None:
    """Check that the new firmware runs, and has run since it was looked at last.

    Raises:
        RefusedReleaseError: It does not.
    """
    running = running_image(seen.info)
    if running.digest != part.digest:
        raise RefusedReleaseError(
            "firmware-reverted",
            f"the microcontroller runs firmware {running.version} again, not {part.version}",
        )
    check_version(part, seen.info)
    tells_uptime = "uptime" in seen.info.capabilities  # else it is a lower bound
    if tells_uptime and seen.uptime_s + REBOOT_S < work.visit.uptime_s:
        raise RefusedReleaseError(
            "firmware-restarted", f"the microcontroller restarted with firmware {part.version}"
        )
    work.visit.uptime_s = seen.uptime_s if tells_uptime else 0.0


def _frames_came(work: Work, needs: FrameFormat | None) -> bool:
    """Return whether frames of the right format came through the ring since the switch.

    A release that says nothing about frames is judged by the program's inferences alone.
    """
    if needs is None:
        return True
    ring = glance(work)
    if ring is None:
        return False
    try:
        check_frames(needs, ring.frames)
    except ReleaseError as error:
        work.visit.trouble = error  # The acquisition may be about to make the ring anew.
        return False
    first = work.visit.first_frame
    if first is None or first.generation != ring.generation:
        work.visit.first_frame = ring
        return False
    work.visit.trouble = None
    return ring.written - first.written >= work.config.probation.inferences


def is_firmware_back(work: Work) -> bool:
    """Return whether the microcontroller runs for good what it ran before the update."""
    change = work.journal.firmware
    if change is None or work.visit.is_firmware_back:
        return True
    work.visit.writes_firmware = True
    image = image_on_disk(work, change.before.digest)
    try:
        done = asked(work, _way_back(work, change, image))
    except NoTestBootError:
        work.visit.cannot_test_boot = True
        return False
    except AsdicError as error:
        return _not_back(work, error)
    if done is None:
        return False
    if done.move is Move.UPLOAD and image is None:
        return _not_back(work, _lost(change))
    work.visit.is_firmware_back = done.move is Move.SETTLED
    work.visit.microcontroller = facts_of(done.info) if work.visit.is_firmware_back else None
    return work.visit.is_firmware_back


def _way_back(work: Work, change: FirmwareChange, image: ImageFile | None) -> Question[Done]:
    without_test = change.without_test or work.visit.cannot_test_boot
    return Advance(
        board=change.board,
        wanted=change.before,
        may=_GOES_BACK,
        image=image,
        without_test=without_test,
        clears=without_test or image is not None,
    )


def _not_back(work: Work, error: AsdicError) -> bool:
    """Try again until the deadline: there is nowhere else to go."""
    if str(error) != str(work.visit.trouble):
        log.error("the firmware does not go back: %s", error)
    work.visit.trouble = error
    return False


def _lost(change: FirmwareChange) -> AsdicError:
    return RefusedInstallError(
        "firmware-lost",
        f"firmware {change.before.version} is neither on the microcontroller nor on this box any "
        "more; write it with `asdic firmware upload`",
    )
