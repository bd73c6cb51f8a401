"""Asking over SMP: one request and its answer, with bounded waiting, and errors of our own.

smpclient speaks the protocol; this is its synchronous face. After an answer that was late or made
no sense the connection is opened anew, so that no stale answer is taken for the next one's.
https://docs.zephyrproject.org/latest/services/device_mgmt/smp_protocol.html
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Generator, Iterator
from contextlib import suppress
from typing import Final, TypeVar

from smp.image_management import ImageUploadWriteResponse
from smp.message import Response
from smpclient import SMPClient
from smpclient.exceptions import SMPUploadError
from smpclient.generics import SMPRequest, TEr1, TEr2, TRep, success
from smpclient.requests.os_management import MCUMgrParametersRead
from smpclient.transport import SMPTransport, SMPTransportDisconnected

from asdic.contract.errors import LinkError
from asdic.firmware_bridge.connect import Address
from asdic.firmware_bridge.link import FirmwareRefusalError
from asdic.firmware_bridge.smp_transports import transport_for
from asdic.firmware_bridge.smp_words import printable, refusal_code

TRIES: Final = 3
ERASE_TIMEOUT_S: Final = 40.0
BUFFER_LEAST_BYTES: Final = 96
STALLS_LIMIT: Final = 8
RESTARTS_LIMIT: Final = 3
_DETAIL_LIMIT: Final = 160

_T = TypeVar("_T")

for _name in ("smp", "smpclient"):
    logging.getLogger(_name).addHandler(logging.NullHandler())  # they log what they also raise


class _Client(SMPClient):
    """smpclient, but for the refusal of an upload that it takes for an answer without an offset."""

    async def request(
        self, request: SMPRequest[TRep, TEr1, TEr2], timeout_s: float | None = None
    ) -> TRep | TEr1 | TEr2:
        """Return the answer to ``request``."""
        answer = await super().request(request, timeout_s)
        if isinstance(answer, ImageUploadWriteResponse) and answer.rc:
            return request._ErrorV1.loads(answer.smp_data)
        return answer


class SmpSession:
    """A connection to one SMP server, opened when it is needed. For one thread at a time.

    Args:
        address: Where it is.
        timeout_s: How long to wait for one answer.
        erase_timeout_s: How long to wait for the first answer to an upload, before which the slot
            is erased.
    """

    def __init__(
        self, address: Address, *, timeout_s: float, erase_timeout_s: float = ERASE_TIMEOUT_S
    ) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._erase_timeout_s = erase_timeout_s
        self._loop = asyncio.new_event_loop()
        self._open: tuple[SMPTransport, SMPClient] | None = None

    def ask(
        self,
        request: SMPRequest[TRep, TEr1, TEr2],
        doing: str,
        *,
        tries: int = TRIES,
        timeout_s: float | None = None,
    ) -> TRep:
        """Return the answer to ``request``.

        Args:
            request: What to ask.
            doing: What it is for, for the error: ``read the image slots``.
            tries: How often to ask; one where asking twice is not the same as asking once.
            timeout_s: How long to wait for this answer.

        Raises:
            LinkError: No answer came, or it made no sense.
            FirmwareRefusalError: The answer was no.
        """
        patience_s = timeout_s or self._timeout_s
        for left in reversed(range(tries)):
            answer = self._asked_once(request, patience_s)
            if isinstance(answer, Exception):
                if left == 0:
                    raise self._broken(answer, doing, tries, patience_s) from answer
            elif success(answer):
                return answer
            else:
                raise self._refusal(answer, doing)
        raise AssertionError(tries)

    def send_image(self, image: bytes, *, number: int, doing: str) -> Iterator[int]:
        """Write an image, and yield after each answer where to go on.

        Where an answer gets lost it asks again, and the server says how much it has.

        Args:
            image: The whole file.
            number: Which image of the microcontroller it is; 0 is the firmware.
            doing: What it is for, for the error.

        Raises:
            LinkError: No answer came, or it made no sense.
            FirmwareRefusalError: The answer was no.
        """
        watch = _Watch(len(image), self.address)
        failures = 0
        while not watch.is_done:
            before = watch.furthest
            error = yield from self._part(watch, image, number, doing)
            failures = 0 if watch.furthest > before else failures + 1
            if error is not None and failures == TRIES:
                raise self._broken(error, doing, TRIES, self._timeout_s) from error

    def disconnect(self) -> None:
        """Close the connection; the next question opens one."""
        if self._open is None:
            return
        (transport, _), self._open = self._open, None
        with suppress(Exception):  # it is given up, whatever it says
            self._run(transport.disconnect())

    def close(self) -> None:
        """Close the connection for good."""
        if self._loop.is_closed():
            return
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        self._run(asyncio.wait(left) if left else asyncio.sleep(0))
        self.disconnect()
        self._run(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _connected(self) -> SMPClient:
        if self._open is not None:
            return self._open[1]
        transport, name = transport_for(self.address)
        client = _Client(transport, name, timeout_s=self._timeout_s)
        self._run(transport.connect(name, self._timeout_s))
        self._open = (transport, client)
        found = self._run(client.request(MCUMgrParametersRead(), self._timeout_s))
        if success(found) and found.buf_size >= BUFFER_LEAST_BYTES:
            transport.initialize(found.buf_size)
        return client

    def _asked_once(
        self, request: SMPRequest[TRep, TEr1, TEr2], timeout_s: float
    ) -> TRep | TEr1 | TEr2 | Exception:
        """Return the answer, or whatever smpclient raises where there is none to be had."""
        try:
            return self._run(self._connected().request(request, timeout_s))
        except Exception as error:  # noqa: BLE001 - asserts and cbor2's own errors among them
            self.disconnect()
            return error

    def _part(
        self, watch: _Watch, image: bytes, number: int, doing: str
    ) -> Generator[int, None, Exception | None]:
        """Yield offsets until the end, or return what was raised before it."""
        try:
            for offset in self._offsets(image, number, doing):
                watch.advance(offset)
                yield offset
        except (LinkError, FirmwareRefusalError):
            raise
        except Exception as error:  # noqa: BLE001 - as in ``_asked_once``
            self.disconnect()
            return error
        return None

    def _offsets(self, image: bytes, number: int, doing: str) -> Iterator[int]:
        offsets = self._connected().upload(
            image,
            slot=number,
            first_timeout_s=max(self._timeout_s, self._erase_timeout_s),
            subsequent_timeout_s=self._timeout_s,
        )
        try:
            while True:
                yield self._run(anext(offsets))
        except StopAsyncIteration:
            return
        except SMPUploadError as error:
            if error.args and isinstance(error.args[0], Response):
                raise self._refusal(error.args[0], doing) from error
            raise

    def _run(self, awaitable: Awaitable[_T]) -> _T:
        return self._loop.run_until_complete(awaitable)

    def _refusal(self, answer: Response, doing: str) -> FirmwareRefusalError:
        code = refusal_code(answer)
        reason = getattr(answer, "rsn", None)
        said = f", {reason[:_DETAIL_LIMIT]!r}" if reason else ""
        return FirmwareRefusalError(
            code, f"the microcontroller at {self.address} refused to {doing}: {code}{said}"
        )

    def _broken(self, error: Exception, doing: str, tries: int, patience_s: float) -> LinkError:
        """Return the one error for all that smpclient and its transports raise."""
        if isinstance(error, TimeoutError | asyncio.TimeoutError):
            asked = "" if tries == 1 else f", asked {tries} times"
            return LinkError(
                f"no answer from the microcontroller at {self.address} within "
                f"{patience_s:g} s{asked} (to {doing})"
            )
        detail = printable(str(error).strip().partition("\n")[0], _DETAIL_LIMIT)
        detail = detail or type(error).__name__
        if isinstance(error, OSError | SMPTransportDisconnected):
            return LinkError(f"the link to {self.address} cannot be used: {detail}")
        return LinkError(
            f"the answer of the microcontroller at {self.address} makes no sense (to {doing}): "
            f"{detail}"
        )


class _Watch:
    """Sees to it that an upload moves on, whatever the server says."""

    def __init__(self, size: int, address: Address) -> None:
        self._size = size
        self._address = address
        self._last = -1
        self._stalls = 0
        self._restarts = 0
        self.furthest = -1

    @property
    def is_done(self) -> bool:
        return self._last == self._size

    def advance(self, offset: int) -> None:
        """Take the server's word for where to go on.

        Raises:
            LinkError: It makes no sense, or does not move on.
        """
        if not 0 <= offset <= self._size:
            raise LinkError(
                f"the microcontroller at {self._address} asks for byte {offset} of an image of "
                f"{self._size}"
            )
        self._stalls = self._stalls + 1 if offset == self._last else 0
        self._restarts += offset < self._last
        if self._stalls > STALLS_LIMIT or self._restarts > RESTARTS_LIMIT:
            raise LinkError(
                f"the upload to {self._address} does not move on: it stays at byte {offset} of "
                f"{self._size}"
            )
        self._last = offset
        self.furthest = max(offset, self.furthest)
