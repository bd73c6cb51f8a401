"""Three ways to carry SMP, as smpclient's transports: datagrams, a serial port, a TCP socket."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Callable
from typing import Final, TypeVar

from serial import SerialException
from smpclient.transport import SMPTransport
from smpclient.transport.serial import SMPSerialTransport
from smpclient.transport.udp import SMPUDPTransport

from asdic.firmware_bridge.connect import Address

RETRY_S: Final = 0.1
READ_BYTES: Final = 16 << 10

_T = TypeVar("_T")


class DatagramTransport(SMPUDPTransport):
    """Datagrams to any port, and none longer than the server's buffer."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self._port = port

    async def connect(self, address: str, timeout_s: float, port: int | None = None) -> None:
        """Open the socket; nothing is sent."""
        await super().connect(address, timeout_s, port or self._port)

    @property
    def max_unencoded_size(self) -> int:
        """The longest request: a datagram, or the server's buffer where it has told."""
        return min(super().max_unencoded_size, self._smp_server_transport_buffer_size or 1 << 16)


class SocketPort:
    """A TCP connection with the face of a serial port, as far as smpclient looks at it."""

    out_waiting: Final = 0

    def __init__(self, address: Address, timeout_s: float) -> None:
        self.port = str(address)
        self._socket = socket.create_connection((address.host, address.port), timeout_s)
        self._has_rested = True

    def write(self, data: bytes) -> int:
        """Send ``data``."""
        self._socket.sendall(data)
        return len(data)

    def read_all(self) -> bytes:
        """Return what has come in; every other time nothing, so that smpclient sees its clock."""
        self._has_rested = not self._has_rested
        if self._has_rested or not select.select([self._socket], [], [], 0)[0]:
            return b""
        data = self._socket.recv(READ_BYTES)
        if not data:
            raise SerialException("the other side closed the connection")
        return data

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


class SocketTransport(SMPSerialTransport):
    """A serial console at the other end of a TCP connection."""

    def __init__(self, address: Address) -> None:
        super().__init__()
        self._remote = address

    async def connect(self, address: str, timeout_s: float) -> None:  # noqa: ARG002 - as smpclient's
        """Connect, trying until the time is over."""
        self._reset_state()
        port = await _retried(lambda: SocketPort(self._remote, timeout_s), timeout_s)
        object.__setattr__(self, "_conn", port)


class SerialTransport(SMPSerialTransport):
    """A serial port; one that cannot be opened says why."""

    async def connect(self, address: str, timeout_s: float) -> None:
        """Open the port, trying until the time is over: one of USB is gone during a reset."""
        self._reset_state()
        self._conn.port = address
        await _retried(self._conn.open, timeout_s)
        self._conn.reset_input_buffer()


def transport_for(address: Address) -> tuple[SMPTransport, str]:
    """Return the transport of an address, and what it connects to."""
    if address.kind == "udp":
        return DatagramTransport(address.port), address.host
    if address.kind == "socket":
        return SocketTransport(address), str(address)
    return SerialTransport(baudrate=address.baud, exclusive=True), address.device


async def _retried(connect: Callable[[], _T], timeout_s: float) -> _T:
    """Return what ``connect`` returns, trying until the time is over.

    Raises:
        OSError: Of the last try.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            return connect()
        except OSError:
            if time.monotonic() >= deadline_s:
                raise
        await asyncio.sleep(RETRY_S)
