"""What an update hears of the microcontroller and the frames, and where images lie on the disk.

An answer that has not come yet is None, and why none came is noted for the deadline.
"""

from __future__ import annotations

from typing import Final, TypeVar

from asdic.contract.errors import AsdicError, LinkError
from asdic.contract.messages import FirmwareFacts
from asdic.device.update.microcontroller import ImageFile, Question
from asdic.device.update.refusal import RefusedInstallError, refusal_for
from asdic.device.update.store import Pointer
from asdic.device.update.work import Work
from asdic.firmware_bridge.glance import Glance
from asdic.firmware_bridge.link import FirmwareInfo, SlotState

SILENT: Final = "firmware-silent"
RUNNING: Final = frozenset({SlotState.TESTING, SlotState.CONFIRMED})

_T = TypeVar("_T")


def asked(work: Work, question: Question[_T]) -> _T | None:
    """Return the answer, or None where there is none yet; why is noted for the deadline.

    Raises:
        RefusedInstallError: This box has no link to a microcontroller.
        AsdicError: The microcontroller said no.
    """
    if work.microcontroller is None:
        raise RefusedInstallError(
            "no-firmware-link",
            "the release needs the microcontroller, and this box knows none; name its address "
            "as `link` under [firmware] in agent.toml",
        )
    try:
        answer = work.microcontroller.ask(question)
    except LinkError as error:
        work.visit.trouble = RefusedInstallError(
            SILENT, f"the microcontroller does not answer: {error}"
        )
        return None
    if answer is not None and _code(work.visit.trouble) == SILENT:
        work.visit.trouble = None
    return answer


def _code(error: AsdicError | None) -> str:
    return refusal_for(error).code if error is not None else ""


def glance(work: Work) -> Glance | None:
    """Return what the frame ring is, or None where it is not there yet.

    Raises:
        RefusedInstallError: This box has no ring.
    """
    if work.frames is None:
        raise RefusedInstallError(
            "no-frame-ring",
            "the release needs frames of a certain format, and this box knows no frame ring; name "
            "it as `ring` under [frames] in agent.toml",
        )
    try:
        return work.frames()
    except AsdicError as error:  # the writer or the operator may mend it
        work.visit.trouble = RefusedInstallError(
            "frames-silent", f"the frames cannot be looked at: {error}"
        )
        return None


def facts_of(info: FirmwareInfo) -> FirmwareFacts:
    """Return what a report says of the microcontroller."""
    running = next((slot for slot in info.slots if slot.state in RUNNING), None)
    digest = running.digest if running is not None else None
    return FirmwareFacts(board=info.board, version=info.version, digest=digest or "")


def image_in(work: Work, digest: str) -> ImageFile | None:
    """Return the firmware that a stored release brings."""
    part = work.store.variant(digest).firmware
    if part is None:
        return None
    return ImageFile(path=work.store.release_folder(digest) / part.file.name, part=part)


def has_on_disk(work: Work, image: str) -> bool:
    """Return whether any release in the store brings the image with the digest ``image``."""
    return image_on_disk(work, image) is not None


def image_on_disk(work: Work, image: str) -> ImageFile | None:
    """Return the image with the digest ``image`` from any release in the store."""
    for digest in (work.store.pointer(name) for name in Pointer):
        if digest is None:
            continue
        try:
            found = image_in(work, digest)
        except AsdicError:
            continue
        if found is not None and found.part.digest == image and found.path.is_file():
            return found
    return None
