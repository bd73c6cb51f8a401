"""The simulated board behind real datagrams: an SMP server on loopback, faults of the wire too.

The client does not know it from a board: it is asked by the same code over a UDP socket, and
answers as Zephyr does, in the messages of the package smp. One thread serves; faults strike in
order, one a request.
"""

from __future__ import annotations

import logging
import random
import socket
import threading
from collections.abc import Callable, Iterable
from enum import Enum
from types import MappingProxyType, TracebackType
from typing import Any, Final

import cbor2
from smp import enumeration_management as enumeration
from smp import image_management as images
from smp import os_management as system
from smp import shell_management as shell
from smp.error import MGMT_ERR
from smp.header import OP, CommandId, Flag, GroupId, Header
from smp.image_management import IMG_MGMT_ERR
from smp.message import Request
from smp.os_management import MCUbootMode

from asdic.firmware_bridge.image import IMAGE_START
from asdic.firmware_bridge.link import FirmwareRefusalError, ImageSlot, SlotState
from asdic.firmware_bridge.simulated_board import Boots, SimulatedBoard

_LOG = logging.getLogger(__name__)
BUFFER_BYTES: Final = 1024
DATAGRAM_LIMIT_BYTES: Final = 1 << 16
POLL_S: Final = 0.1

MODES: Final = MappingProxyType(
    {
        Boots.TESTED: MCUbootMode.SWAP_WITHOUT_SCRATCH,
        Boots.UPLOADED: MCUbootMode.OVERWRITE_ONLY,
        Boots.HIGHEST: MCUbootMode.RAM_LOADER,
    }
)
IMAGE_REFUSALS: Final = MappingProxyType(
    {
        "no-space": IMG_MGMT_ERR.INVALID_IMAGE_TOO_LARGE,
        "no-free-slot": IMG_MGMT_ERR.NO_FREE_SLOT,
        "invalid-image-data-overrun": IMG_MGMT_ERR.INVALID_IMAGE_DATA_OVERRUN,
        "invalid-image-header-magic": IMG_MGMT_ERR.INVALID_IMAGE_HEADER_MAGIC,
        "invalid-slot": IMG_MGMT_ERR.INVALID_SLOT,
        "hash-not-found": IMG_MGMT_ERR.HASH_NOT_FOUND,
    }
)
GENERAL_REFUSALS: Final = MappingProxyType(
    {
        "busy": MGMT_ERR.EBUSY,
        "not-supported": MGMT_ERR.ENOTSUP,
        "invalid": MGMT_ERR.EINVAL,
    }
)


class WireFault(str, Enum):
    """What happens to one request."""

    NONE = "none"
    LOST_REQUEST = "lost-request"
    LOST_ANSWER = "lost-answer"
    LATE_ANSWER = "late-answer"
    """It comes after the answer to the next request."""
    BUSY = "busy"
    NO_SPACE = "no-space"
    RESET = "reset"
    """The board restarts instead of answering."""
    GARBAGE = "garbage"
    """Random bytes are the answer."""
    WRONG_TYPES = "wrong-types"
    """An answer of the right form that says nonsense."""
    FLIPPED = "flipped"
    """One byte of the answer is another."""
    SILENT = "silent"
    """From now on nothing is answered."""


class SmpServer:
    """Serves one simulated board on a free port of loopback; a context manager.

    Args:
        board: What is served.
        faults: What happens to the requests, in order; after the last one all is well.
        port: Where; 0 chooses a free one.
        seed: Of the garbage.

    Attributes:
        address: Where it is, for ``open_link``.
        requests: How many have come in.
    """

    def __init__(
        self,
        board: SimulatedBoard,
        *,
        faults: Iterable[WireFault] = (),
        port: int = 0,
        seed: int = 0,
    ) -> None:
        self.board = board
        self.faults = list(faults)
        self.requests = 0
        self._random = random.Random(seed)  # noqa: S311 - garbage, not a secret
        self._is_silent = False
        self._late: bytes | None = None
        self._stopped = threading.Event()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", port))
        self._socket.settimeout(POLL_S)
        self.address = f"udp://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, name="smp-server", daemon=True)

    def __enter__(self) -> SmpServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._socket.sendto(b"", self._socket.getsockname())  # it wakes up
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while not self._stopped.is_set():
            try:
                data, peer = self._socket.recvfrom(DATAGRAM_LIMIT_BYTES)
            except TimeoutError:
                continue
            if self._stopped.is_set():
                return
            self.requests += 1
            for answer in self._answers(data):
                self._socket.sendto(answer, peer)

    def _answers(self, data: bytes) -> list[bytes]:
        """Return the datagrams that answer one, after its fault has struck."""
        fault = self.faults.pop(0) if self.faults else WireFault.NONE
        self._is_silent = self._is_silent or fault is WireFault.SILENT
        if self._is_silent or fault is WireFault.LOST_REQUEST:
            return []
        if fault is WireFault.RESET:
            self.board.restart()
            return []
        try:
            header = Header.loads(data[: Header.SIZE])
            answer = self._answer(header, data, fault)
        except Exception as error:  # noqa: BLE001 - a board does not end either, whatever it is sent
            _LOG.debug("a request that cannot be read: %s", error)
            return []
        return self._sent(answer, fault)

    def _sent(self, answer: bytes, fault: WireFault) -> list[bytes]:
        late, self._late = self._late, None
        sent: list[bytes]
        match fault:
            case WireFault.LOST_ANSWER:
                sent = []
            case WireFault.LATE_ANSWER:
                self._late = answer
                sent = []
            case WireFault.GARBAGE:
                sent = [self._random.randbytes(self._random.randrange(1, 200))]
            case WireFault.FLIPPED:
                sent = [self._flipped(answer)]
            case WireFault.WRONG_TYPES:
                sent = [answer[: Header.SIZE] + bytes([0xA1, 0x61, 0x78, 0x80])]
            case _:
                sent = [answer]
        return sent if late is None else [*sent, late]

    def _flipped(self, answer: bytes) -> bytes:
        damaged = bytearray(answer)
        damaged[self._random.randrange(len(answer))] = self._random.randrange(256)
        return bytes(damaged)

    def _answer(self, header: Header, data: bytes, fault: WireFault) -> bytes:
        if fault is WireFault.BUSY:
            return _refusal(header, "busy")
        if fault is WireFault.NO_SPACE:
            return _refusal(header, "no-space")
        found = HANDLERS.get((header.group_id, header.command_id, header.op))
        if found is None:
            return _refusal(header, "not-supported")
        kind, handle = found
        try:
            return _packed(header, handle(self.board, kind.loads(data)))
        except FirmwareRefusalError as error:
            return _refusal(header, error.code)


_Answer = dict[str, Any]


def _echo(_board: SimulatedBoard, asked: Any) -> _Answer:
    return {"r": asked.d}


def _reset(board: SimulatedBoard, _asked: Any) -> _Answer:
    board.restart()
    return {}


def _parameters(_board: SimulatedBoard, _asked: Any) -> _Answer:
    return {"buf_size": BUFFER_BYTES, "buf_count": 1}


def _application(board: SimulatedBoard, _asked: Any) -> _Answer:
    return {"output": board.name}


def _bootloader(board: SimulatedBoard, asked: Any) -> _Answer:
    if asked.query != "mode":
        return {"bootloader": "MCUboot"}
    return {"mode": int(MODES[board.boots])}


def _states(board: SimulatedBoard, _asked: Any) -> _Answer:
    held = [slot for slot in board.slots() if slot.state is not SlotState.EMPTY]
    return {"images": [_state(slot, with_image=board.has_partitions) for slot in held]}


def _set_state(board: SimulatedBoard, asked: Any) -> _Answer:
    if asked.hash is not None and not asked.confirm:
        board.mark(asked.hash.hex())
    elif asked.hash is None and asked.confirm:
        board.confirm()
    else:
        raise FirmwareRefusalError("invalid", "neither a test nor a confirmation")
    return _states(board, asked)


def _upload(board: SimulatedBoard, asked: Any) -> _Answer:
    if asked.off == 0:
        if asked.len is None:
            raise FirmwareRefusalError("invalid", "no length")
        if asked.data[: len(IMAGE_START)] != IMAGE_START[: len(asked.data)]:
            raise FirmwareRefusalError("invalid-image-header-magic", "no image")
        there = board.begin(asked.len, asked.sha, number=asked.image or 0)
        if there:
            return {"off": there}
    return {"off": board.write(asked.off, asked.data)}


def _erase(board: SimulatedBoard, asked: Any) -> _Answer:
    board.erase(1 if asked.slot is None else asked.slot)
    return {}


def _shell(board: SimulatedBoard, asked: Any) -> _Answer:
    if asked.argv != ["kernel", "uptime"]:
        return {"o": f"{asked.argv[0]}: command not found", "ret": -8}
    return {"o": f"Uptime: {board.uptime_s * 1000:.0f} ms\r\n", "ret": 0}


def _groups(_board: SimulatedBoard, _asked: Any) -> _Answer:
    known = {group for group, _, _ in HANDLERS}
    return {"groups": tuple(sorted(known))}


_Handler = tuple[type[Request], Callable[[SimulatedBoard, Any], _Answer]]
_OS = CommandId.OSManagement
_IMAGE = CommandId.ImageManagement

HANDLERS: Final = MappingProxyType[tuple[int, int, OP], _Handler](
    {
        (GroupId.OS_MANAGEMENT, _OS.ECHO, OP.WRITE): (system.EchoWriteRequest, _echo),
        (GroupId.OS_MANAGEMENT, _OS.RESET, OP.WRITE): (system.ResetWriteRequest, _reset),
        (GroupId.OS_MANAGEMENT, _OS.MCUMGR_PARAMETERS, OP.READ): (
            system.MCUMgrParametersReadRequest,
            _parameters,
        ),
        (GroupId.OS_MANAGEMENT, _OS.OS_APPLICATION_INFO, OP.READ): (
            system.OSApplicationInfoReadRequest,
            _application,
        ),
        (GroupId.OS_MANAGEMENT, _OS.BOOTLOADER_INFO, OP.READ): (
            system.BootloaderInformationReadRequest,
            _bootloader,
        ),
        (GroupId.IMAGE_MANAGEMENT, _IMAGE.STATE, OP.READ): (images.ImageStatesReadRequest, _states),
        (GroupId.IMAGE_MANAGEMENT, _IMAGE.STATE, OP.WRITE): (
            images.ImageStatesWriteRequest,
            _set_state,
        ),
        (GroupId.IMAGE_MANAGEMENT, _IMAGE.UPLOAD, OP.WRITE): (
            images.ImageUploadWriteRequest,
            _upload,
        ),
        (GroupId.IMAGE_MANAGEMENT, _IMAGE.ERASE, OP.WRITE): (images.ImageEraseRequest, _erase),
        (GroupId.SHELL_MANAGEMENT, CommandId.ShellManagement.EXECUTE, OP.WRITE): (
            shell.ExecuteRequest,
            _shell,
        ),
        (GroupId.ENUM_MANAGEMENT, CommandId.EnumManagement.LIST_OF_GROUPS, OP.READ): (
            enumeration.ListOfGroupsRequest,
            _groups,
        ),
    }
)


def _state(slot: ImageSlot, *, with_image: bool) -> _Answer:
    image, number = divmod(slot.number, 2)
    return {
        **({"image": image} if with_image else {}),
        "slot": number,
        "version": (slot.version or "").replace("+", "."),  # as Zephyr prints a build number
        "hash": bytes.fromhex(slot.digest or ""),
        "bootable": slot.bootable,
        "pending": slot.state is SlotState.PENDING,
        "confirmed": slot.state is SlotState.CONFIRMED,
        "active": slot.state in {SlotState.CONFIRMED, SlotState.TESTING},
        "permanent": False,
    }


def _refusal(header: Header, code: str) -> bytes:
    """Return a no: in the image group's own numbers where it has one for it, as Zephyr does."""
    if code in IMAGE_REFUSALS and header.group_id == GroupId.IMAGE_MANAGEMENT:
        return _packed(
            header, {"err": {"group": int(header.group_id), "rc": int(IMAGE_REFUSALS[code])}}
        )
    return _packed(header, {"rc": int(GENERAL_REFUSALS.get(code, MGMT_ERR.EUNKNOWN))})


def _packed(header: Header, answer: _Answer) -> bytes:
    """Return an answer to the request with this header."""
    content = cbor2.dumps(answer)
    head = Header(
        op=OP.READ_RSP if header.op is OP.READ else OP.WRITE_RSP,
        version=header.version,
        flags=Flag(0),
        length=len(content),
        group_id=header.group_id,
        sequence=header.sequence,
        command_id=header.command_id,
    )
    return bytes(head) + content
