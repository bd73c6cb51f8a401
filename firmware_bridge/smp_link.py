"""``FirmwareLink`` over SMP, the protocol of Zephyr's and Mynewt's device management."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import TracebackType
from typing import Final, TypeVar

from smpclient.requests.enumeration_management import ListSupportedGroups
from smpclient.requests.image_management import ImageErase, ImageStatesRead, ImageStatesWrite
from smpclient.requests.os_management import (
    EchoWrite,
    OSApplicationInfoRead,
    ResetWrite,
)
from smpclient.requests.shell_management import Execute

from asdic.contract.variant import BOARD_LIMIT
from asdic.firmware_bridge.connect import ANSWER_TIMEOUT_S, Address
from asdic.firmware_bridge.image import FirmwareImageError, parse_image
from asdic.firmware_bridge.link import (
    FirmwareInfo,
    FirmwareRefusalError,
    ImageSlot,
    SlotState,
    check_uploaded,
    is_same_version,
)
from asdic.firmware_bridge.smp_messages import boot_mode_request
from asdic.firmware_bridge.smp_session import ERASE_TIMEOUT_S, SmpSession
from asdic.firmware_bridge.smp_words import BOOT_MODES, REVERTING, group_name, printable, slot_of

SLOTS_LIMIT: Final = 16
_ABSENT: Final = frozenset({"not-supported", "no-entry", "query-yields-no-answer"})
_UPTIME: Final = re.compile(r"Uptime:\s*(\d{1,15})\s*ms")

_T = TypeVar("_T")


class SmpLink:
    """A link to one microcontroller; a context manager. For one thread at a time.

    Args:
        address: Where it is.
        timeout_s: How long to wait for one answer.
        erase_timeout_s: How long to wait for the first answer to an upload, before which the slot
            is erased.
    """

    def __init__(
        self,
        address: Address,
        *,
        timeout_s: float = ANSWER_TIMEOUT_S,
        erase_timeout_s: float = ERASE_TIMEOUT_S,
    ) -> None:
        self._session = SmpSession(address, timeout_s=timeout_s, erase_timeout_s=erase_timeout_s)
        self._erase_timeout_s = erase_timeout_s
        self._groups: tuple[str, ...] | None = None

    def __enter__(self) -> SmpLink:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def info(self) -> FirmwareInfo:
        """Return what runs and what the slots hold; what the firmware cannot tell is left out."""
        slots = self._if_there(self._slots) or ()
        active = {SlotState.TESTING, SlotState.CONFIRMED}
        running = next((one for one in slots if one.number < 2 and one.state in active), None)
        mode = self._if_there(self._boot_mode)
        uptime = ("uptime",) if self._if_there(self._uptime_s) is not None else ()
        return FirmwareInfo(
            board=self._if_there(self._board) or "",
            version=(running.version or "") if running else "",
            slots=slots,
            can_test_boot=bool(slots) and (mode is None or mode in REVERTING),
            boot_mode=mode,
            capabilities=(*self._known_groups(), *uptime),
        )

    def upload(
        self,
        image: bytes,
        *,
        version: str,
        progress: Callable[[int, int], None] | None = None,
        resume: bool = True,
        number: int = 0,
    ) -> str:
        """Write ``image`` to the slot that is not running, and look that it is there.

        ``number``: which image of the microcontroller it is; 0 is the firmware.

        Raises:
            FirmwareImageError: It is no whole MCUboot image, or of another version.
            WrongFirmwareError: The slot then holds another image or version.
        """
        found = parse_image(image)
        if not is_same_version(found.version, version):
            raise FirmwareImageError(f"the image is version {found.version}, not {version}")
        slots = self._slots()
        if not resume:
            self._erase(slots, number)
        is_there = resume and any(slot.digest == found.digest for slot in slots)
        sent = (
            [len(image)]
            if is_there
            else self._session.send_image(image, number=number, doing="take an image")
        )
        for done in sent:
            if progress is not None:
                progress(done, len(image))
        check_uploaded(
            self._slots(), digest=found.digest, version=version, board=self._board_or_address()
        )
        return found.digest

    def mark_for_test(self, digest: str) -> None:
        """Boot the image with ``digest`` once, at the next reset."""
        self._session.ask(ImageStatesWrite(hash=bytes.fromhex(digest)), "mark an image for test")

    def confirm(self) -> None:
        """Keep the image that runs now."""
        self._session.ask(ImageStatesWrite(confirm=True), "confirm the image that runs")

    def reset(self) -> None:
        """Restart the microcontroller. Asked once: a second reset would end a test."""
        try:
            self._session.ask(ResetWrite(), "reset", tries=1)
        finally:
            self._session.disconnect()

    def heartbeat(self) -> float:
        """Return the seconds since it started; 0.0 where it answers and does not say."""
        uptime_s = self._if_there(self._uptime_s)
        if uptime_s is None:
            self._session.ask(EchoWrite(d="asdic"), "answer")
            return 0.0
        return uptime_s

    def _erase(self, slots: tuple[ImageSlot, ...], number: int) -> None:
        """Empty the slot of an image that does not run, which also forgets an upload."""
        active = {SlotState.TESTING, SlotState.CONFIRMED}
        first = 2 * number
        runs = next(
            (one.number for one in slots if one.number // 2 == number and one.state in active),
            first,
        )
        request = ImageErase(slot=first + 1 if runs == first else first)
        self._session.ask(request, "erase a slot", timeout_s=self._erase_timeout_s)

    def _slots(self) -> tuple[ImageSlot, ...]:
        answer = self._session.ask(ImageStatesRead(), "tell what its slots hold")
        return tuple(slot_of(state) for state in answer.images[:SLOTS_LIMIT])

    def _board(self) -> str:
        answer = self._session.ask(OSApplicationInfoRead(format="i"), "tell what board it is")
        return printable(answer.output, BOARD_LIMIT)

    def _board_or_address(self) -> str:
        return self._if_there(self._board) or f"at {self._session.address}"

    def _boot_mode(self) -> str | None:
        answer = self._session.ask(boot_mode_request(), "tell its boot mode")
        return BOOT_MODES.get(answer.number) if answer.number is not None else None

    def _uptime_s(self) -> float | None:
        """Return what Zephyr's shell says, where there is one; SMP itself has no word for it."""
        if "shell" not in self._known_groups():
            return None
        answer = self._session.ask(Execute(argv=["kernel", "uptime"]), "tell its uptime")
        found = _UPTIME.search(answer.o)
        return int(found[1]) / 1_000 if found else None

    def _known_groups(self) -> tuple[str, ...]:
        if self._groups is None:
            answer = self._if_there(
                lambda: self._session.ask(ListSupportedGroups(), "tell its groups")
            )
            names = {group_name(group) for group in answer.groups} if answer else set()
            self._groups = tuple(sorted(names))
        return self._groups

    def _if_there(self, ask: Callable[[], _T]) -> _T | None:
        """Return the answer, or None where the firmware was built without it."""
        try:
            return ask()
        except FirmwareRefusalError as error:
            if error.code in _ABSENT:
                return None
            raise
