"""Asking the microcontroller: one question at a time, in a thread, because its answers take time.

A question looks at the slots, and may do the one thing that is due (``firmware.py`` says which).
The agent asks again at every tick until the answer has come; an upload of minutes holds up nothing
else. What a question did before its answer got lost, the next one sees.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias, TypeVar

from asdic.contract.errors import AsdicError, LinkError
from asdic.contract.files import check_digest, read_bounded
from asdic.contract.variant import FIRMWARE_LIMIT_BYTES, FirmwarePart
from asdic.device.update.firmware import Image, Move, next_move, running_image
from asdic.device.update.fit import check_board
from asdic.device.update.refusal import RefusedInstallError, RefusedReleaseError
from asdic.firmware_bridge.link import (
    FirmwareInfo,
    FirmwareLink,
    FirmwareRefusalError,
    WrongFirmwareError,
)

PAUSE_S: Final = 1.0
"""Between two questions: a microcontroller has better things to do."""

OpenLink: TypeAlias = Callable[[], AbstractContextManager[FirmwareLink]]

_T = TypeVar("_T")
_T_co = TypeVar("_T_co", covariant=True)


class NoTestBootError(AsdicError):
    """The microcontroller cannot boot an image on trial; ``info`` is what it says, as before."""

    def __init__(self, message: str, info: FirmwareInfo) -> None:
        super().__init__(message)
        self.info = info


class Question(Protocol[_T_co]):
    """Something to ask; equal questions are one."""

    def __call__(self, link: FirmwareLink, is_stopped: Callable[[], bool], /) -> _T_co:
        """Ask it; give up soon when ``is_stopped``."""


class Microcontroller(Protocol):
    """The box's microcontroller."""

    def ask(self, question: Question[_T]) -> _T | None:
        """Return the answer once it is there; call it again until then.

        Raises:
            LinkError: No answer came, or one that makes no sense: ask again.
            AsdicError: The microcontroller said no, or the image is damaged.
        """

    def leave(self) -> None:
        """Ask nothing more for now; an upload stops and goes on later."""


class AskedInThread:
    """Asks over a link that is opened for each question.

    Args:
        open_link: Opens it.
        pause_s: Rests between two questions.
    """

    def __init__(self, open_link: OpenLink, *, pause_s: float = PAUSE_S) -> None:
        self._open_link = open_link
        self._pause_s = pause_s
        self._asked: _Asked | None = None
        self._free_at_s = 0.0

    def ask(self, question: Question[_T]) -> _T | None:
        """Return the answer once it is there; another question waits until this one is over."""
        asked = self._asked
        if asked is None:
            wait_s = max(0.0, self._free_at_s - time.monotonic())
            self._asked = _Asked(question, self._open_link, wait_s=wait_s)
            return None
        if asked.question != question:
            asked.stop()
        if asked.is_open:
            return None
        self._asked = None
        self._free_at_s = time.monotonic() + self._pause_s
        if asked.is_stopped:
            return None  # Its answer may be old.
        if asked.error is not None:
            raise asked.error
        answer: _T = asked.answer
        return answer

    def leave(self) -> None:
        """Tell the question in hand to give up."""
        if self._asked is not None:
            self._asked.stop()


class _Asked:
    """One question, on its way in a thread of its own."""

    def __init__(self, question: Question[Any], open_link: OpenLink, *, wait_s: float) -> None:
        self.question = question
        self.answer: Any = None
        self.error: BaseException | None = None
        self._open_link = open_link
        self._wait_s = wait_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="microcontroller", daemon=True)
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether there is no answer yet."""
        return self._thread.is_alive()

    @property
    def is_stopped(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Let it give up at the next occasion."""
        self._stopped.set()

    def _run(self) -> None:
        if self._stopped.wait(self._wait_s):
            return
        try:
            self.answer = asked_over(self._open_link, self.question, self._stopped.is_set)
        except BaseException as error:  # noqa: BLE001 - raised where the answer is taken
            self.error = error


def asked_over(
    open_link: OpenLink, question: Question[_T], is_stopped: Callable[[], bool] = lambda: False
) -> _T:
    """Return the answer to a question, over a link that is opened for it.

    Raises:
        LinkError: No answer came, or the microcontroller is busy: ask again.
        AsdicError: It said no.
    """
    try:
        with open_link() as link:
            return question(link, is_stopped)
    except FirmwareRefusalError as error:
        raise _meant(error) from error
    except WrongFirmwareError as error:
        raise RefusedReleaseError("wrong-firmware", str(error)) from error


def _meant(error: FirmwareRefusalError) -> AsdicError:
    """Return what a no of the microcontroller means for an update."""
    match error.code:
        case "busy":
            return LinkError(f"the microcontroller is busy: {error}")
        case "no-space":
            return RefusedInstallError("firmware-too-large", f"the firmware does not fit: {error}")
        case _:
            return RefusedInstallError(
                "firmware-refused", f"the microcontroller refused ({error.code}): {error}"
            )


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the microcontroller says of itself, and for how many seconds it has been running."""

    info: FirmwareInfo
    uptime_s: float


@dataclass(frozen=True, kw_only=True)
class Look:
    """What runs, and what do the slots hold?"""

    def __call__(self, link: FirmwareLink, _is_stopped: Callable[[], bool]) -> Seen:
        """Ask, and change nothing."""
        return Seen(info=link.info(), uptime_s=link.heartbeat())


@dataclass(frozen=True, kw_only=True)
class Keep:
    """Is the image ``wanted`` (its digest) there? Then keep it for good."""

    wanted: str

    def __call__(self, link: FirmwareLink, _is_stopped: Callable[[], bool]) -> Seen:
        """Confirm the image that runs, if it is the wanted one; the answer is what runs then."""
        if next_move(link.info(), self.wanted) is Move.CONFIRM:
            link.confirm()
        return Seen(info=link.info(), uptime_s=link.heartbeat())


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """An image on the disk, and what was signed of it."""

    path: Path
    part: FirmwarePart


@dataclass(frozen=True, kw_only=True)
class Done:
    """What was due, and whether it was done; ``info`` is from before it."""

    move: Move
    was_done: bool
    info: FirmwareInfo


@dataclass(frozen=True, kw_only=True)
class Advance:
    """Do the one thing that is due so that ``wanted`` runs, if it is among ``may``.

    ``image`` is what an upload would write; without one there is none. ``without_test`` and
    ``clears`` are those of ``next_move``.
    """

    board: str
    wanted: Image
    may: frozenset[Move]
    image: ImageFile | None = None
    without_test: bool = False
    clears: bool = False

    def __call__(self, link: FirmwareLink, is_stopped: Callable[[], bool]) -> Done:
        """Look, and do it.

        Raises:
            NoTestBootError: It cannot mark an image for test.
            RefusedReleaseError: The image is not the one that was signed, or for another board.
        """
        info = link.info()
        check_board(self.board, info)
        move = next_move(
            info, self.wanted.digest, without_test=self.without_test, clears=self.clears
        )
        was_done = move in self.may and self._do(move, info, link, is_stopped)
        return Done(move=move, was_done=was_done, info=info)

    def _do(
        self, move: Move, info: FirmwareInfo, link: FirmwareLink, is_stopped: Callable[[], bool]
    ) -> bool:
        match move:
            case Move.UPLOAD if self.image is not None:
                # Where the wanted image runs already, it replaces another one beside it.
                resume = running_image(info).digest != self.wanted.digest
                _upload(link, self.image, is_stopped, resume=resume)
            case Move.MARK:
                _mark(link, self.wanted.digest, info)
            case Move.RESET:
                if self.without_test:
                    _mark_if_possible(link, self.wanted.digest)
                _reset(link)
            case Move.CONFIRM:
                link.confirm()
            case Move.UPLOAD | Move.SETTLED:
                return False
        return True


def _upload(
    link: FirmwareLink, image: ImageFile, is_stopped: Callable[[], bool], *, resume: bool
) -> None:
    """Write a checked image into the second slot, and see that it is the one that was meant."""
    part = image.part

    def go_on(_done: int, _total: int) -> None:
        if is_stopped():
            raise LinkError("the upload of the firmware was interrupted, and goes on later")

    check_digest(image.path, digest=part.file.digest, size_bytes=part.file.size_bytes)
    data = read_bounded(image.path, FIRMWARE_LIMIT_BYTES)
    found = link.upload(data, version=part.version, progress=go_on, resume=resume)
    if found != part.digest:
        raise RefusedReleaseError(
            "wrong-firmware",
            f"the microcontroller calls the image {found}, {part.digest} was signed",
        )


def _mark(link: FirmwareLink, digest: str, info: FirmwareInfo) -> None:
    try:
        link.mark_for_test(digest)
    except FirmwareRefusalError as error:
        if error.code == "not-supported":
            message = f"the microcontroller cannot boot on trial: {error}"
            raise NoTestBootError(message, info) from error
        raise


def _mark_if_possible(link: FirmwareLink, digest: str) -> None:
    """Mark an image where nothing is reverted: one that overwrites wants it, others refuse it."""
    with suppress(FirmwareRefusalError):
        link.mark_for_test(digest)


def _reset(link: FirmwareLink) -> None:
    """Reset it; who restarts may not have the time to answer."""
    try:
        link.reset()
    except LinkError:
        return


def is_kept(seen: Seen, wanted: str) -> bool:
    """Return whether the image ``wanted`` runs and stays over the next reset."""
    return (
        running_image(seen.info).digest == wanted
        and next_move(seen.info, wanted) is not Move.CONFIRM
    )
