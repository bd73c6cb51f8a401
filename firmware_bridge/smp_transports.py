"""Three ways to carry SMP, as smpclient's transports: datagrams, a serial port, a TCP socket."""

from __future__ import annotations

import asyncio
import time
from typing import Final

import serial
from smpclient.transport import SMPTransport
from smpclient.transport.serial import SMPSerialTransport
from smpclient.transport.udp import SMPUDPTransport

from asdic.firmware_bridge.connect import Address

RETRY_S: Final = 0.1


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


class SocketTransport(SMPSerialTransport):
    """A serial console at the other end of a TCP connection (pyserial's ``socket://``)."""

    async def connect(self, address: str, timeout_s: float) -> None:
        """Connect, trying until the time is over."""
        self._reset_state()
        deadline_s = time.monotonic() + timeout_s
        while True:
            try:
                port = serial.serial_for_url(address, timeout=0, write_timeout=0)
                break
            except (OSError, serial.SerialException) as error:
                if time.monotonic() >= deadline_s:
                    raise TimeoutError(str(error)) from error
            await asyncio.sleep(RETRY_S)
        port.out_waiting = 0  # smpclient asks, and a socket of pyserial has none
        object.__setattr__(self, "_conn", port)


def transport_for(address: Address) -> tuple[SMPTransport, str]:
    """Return the transport of an address, and what it connects to."""
    if address.kind == "udp":
        return DatagramTransport(address.port), address.host
    if address.kind == "socket":
        return SocketTransport(), str(address)
    return SMPSerialTransport(baudrate=address.baud, exclusive=True), address.device
