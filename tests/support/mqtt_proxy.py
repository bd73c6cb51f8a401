"""A TCP proxy between one device and its broker that knows where an MQTT packet ends.

What happens to a packet is a ``Courier``'s choice: pass it on, tear it, double it, hold it back.
Packet format: MQTT 3.1.1, section 2.2 (fixed header) and 3.3 (PUBLISH).
"""

from __future__ import annotations

import random
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from asdic.contract.broker import BrokerAddress
from asdic.contract.messages import parse_chunk_topic

PUBLISH: Final = 3
PUBACK: Final = 4
RETAINED: Final = 1
QOS_1: Final = 2
IDLE_S: Final = 0.02
READ_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class Packet:
    """One MQTT packet; ``number`` counts both directions and all connections, from 0."""

    number: int
    is_down: bool
    data: bytes

    @property
    def topic(self) -> str:
        """On which topic it publishes with QoS 1; empty for all other packets."""
        if self.data[0] >> 4 != PUBLISH or not self.data[0] & QOS_1:
            return ""
        start, end = self._topic
        return self.data[start + 2 : end].decode()

    @property
    def payload(self) -> bytes:
        """What it publishes."""
        return self.data[self._topic[1] + 2 :]

    @property
    def chunk(self) -> tuple[str, int] | None:
        """Which chunk of which blob it carries to the device, if any."""
        return parse_chunk_topic(self.topic) if self.is_down else None

    def acknowledgement(self) -> bytes:
        """Return what acknowledges a publication."""
        end = self._topic[1]
        return bytes([PUBACK << 4, 2]) + self.data[end : end + 2]

    def without_acknowledgement(self) -> bytes:
        """Return the same publication with QoS 0, which the receiver need not acknowledge."""
        start, end = self._topic
        body = self.data[start:end] + self.payload
        return bytes([self.data[0] & ~QOS_1]) + _encoded(len(body)) + body

    @property
    def _topic(self) -> tuple[int, int]:
        """Where a publication's topic lies, its two bytes of length included."""
        start = _body(self.data)
        return start, start + 2 + int.from_bytes(self.data[start : start + 2], "big")


class Wire:
    """One end of a connection, to which both threads of it may write."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self._lock = threading.Lock()

    def send(self, data: bytes) -> None:
        """Send all of it, and nothing in between."""
        with self._lock:
            self.socket.sendall(data)

    def cut(self) -> None:
        """End it in both directions."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)


class Way:
    """One direction of one connection."""

    def __init__(self, proxy: MqttProxy, source: Wire, sink: Wire) -> None:
        self._proxy = proxy
        self.source = source
        self._sink = sink

    def send(self, packet: Packet) -> None:
        """Pass a packet on."""
        self._sink.send(packet.data)
        self._proxy.note(packet)

    def send_acknowledged(self, packet: Packet) -> None:
        """Pass a chunk on that was acknowledged before."""
        self._sink.send(packet.without_acknowledgement())
        self._proxy.note(packet)

    def repeat(self, packet: Packet) -> None:
        """Pass a chunk on once more, which counts for nothing that was fetched."""
        self._sink.send(packet.without_acknowledgement())

    def acknowledge(self, packet: Packet) -> None:
        """Acknowledge a chunk in the device's place: rumqttd insists on its own order."""
        self.source.send(packet.acknowledgement())

    def tear(self, packet: Packet) -> None:
        """Pass half of a packet on and cut the connection."""
        with suppress(OSError):
            self._sink.send(packet.data[: len(packet.data) // 2])
        self.cut()

    def cut(self) -> None:
        """Cut the connection, both directions of it."""
        self.source.cut()
        self._sink.cut()


class Courier:
    """Passes everything on. The others do something else with some packets."""

    def carry(self, packet: Packet, way: Way) -> None:
        """Do with ``packet`` what this courier does."""
        way.send(packet)

    def idle(self, way: Way) -> None:
        """Nothing has come for a moment."""


class Cut(Courier):
    """Tears packet ``number`` in the middle, once."""

    def __init__(self, number: int) -> None:
        self.number = number

    def carry(self, packet: Packet, way: Way) -> None:
        """Tear or pass on."""
        if packet.number == self.number:
            way.tear(packet)
        else:
            way.send(packet)


class Twice(Courier):
    """Brings each chunk twice."""

    def carry(self, packet: Packet, way: Way) -> None:
        """Pass on, and chunks once more."""
        way.send(packet)
        if packet.chunk is not None:
            way.repeat(packet)


class Shuffled(Courier):
    """Holds chunks back until no more come, and brings them in another order.

    ``seed`` None is the reverse order.
    """

    def __init__(self, seed: int | None) -> None:
        self._random = None if seed is None else random.Random(seed)  # noqa: S311
        self._held: dict[Way, list[Packet]] = {}

    def carry(self, packet: Packet, way: Way) -> None:
        """Hold a chunk back."""
        if packet.chunk is None:
            way.send(packet)
        else:
            way.acknowledge(packet)
            self._held.setdefault(way, []).append(packet)

    def idle(self, way: Way) -> None:
        """Bring what was held back."""
        held = self._held.pop(way, [])
        held.reverse()
        if self._random is not None:
            self._random.shuffle(held)
        for packet in held:
            way.send_acknowledged(packet)


class Late(Courier):
    """Brings each chunk ``delay_s`` late."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._held: dict[Way, list[tuple[float, Packet]]] = {}

    def carry(self, packet: Packet, way: Way) -> None:
        """Note when a chunk is due."""
        if packet.chunk is None:
            way.send(packet)
        else:
            due_s = time.monotonic() + self._delay_s
            self._held.setdefault(way, []).append((due_s, packet))
        self.idle(way)

    def idle(self, way: Way) -> None:
        """Bring what is due."""
        held = self._held.get(way, [])
        while held and held[0][0] <= time.monotonic():
            way.send(held.pop(0)[1])


class Muted(Courier):
    """Keeps what a device publishes on ``topic`` to itself, in ``held``, while ``is_muted``."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self.is_muted = True
        self.held: list[bytes] = []

    def carry(self, packet: Packet, way: Way) -> None:
        """Keep or pass on."""
        if self.is_muted and packet.topic == self._topic and not packet.is_down:
            self.held.append(packet.payload)
            way.acknowledge(packet)
        else:
            way.send(packet)


class OnChunk(Courier):
    """Sets ``reached`` when the ``count``-th chunk goes by, and passes everything on."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.reached = threading.Event()

    def carry(self, packet: Packet, way: Way) -> None:
        """Pass on and count."""
        way.send(packet)
        if packet.chunk is not None:
            self._count -= 1
            if self._count <= 0:
                self.reached.set()


class MqttProxy:
    """Listens on loopback and connects whoever comes to ``target``.

    Attributes:
        packets: How many packets have come, in both directions.
        delivered: How often each chunk was passed on to the device.
        refetched_bytes: What was passed on of chunks that had been before.
    """

    def __init__(self, target: BrokerAddress, courier: Courier) -> None:
        self._target = target
        self._courier = courier
        self._lock = threading.Lock()
        self._open: list[Wire] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.packets = 0
        self.delivered: Counter[tuple[str, int]] = Counter()
        self.refetched_bytes = 0

    @property
    def address(self) -> BrokerAddress:
        """Where it listens."""
        return BrokerAddress(host="127.0.0.1", port=self._listener.getsockname()[1])

    def __enter__(self) -> MqttProxy:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Cut all connections there are now."""
        with self._lock:
            connections, self._open = self._open, []
        for one in connections:
            one.cut()

    def note(self, packet: Packet) -> None:
        """Count what has arrived at the device."""
        chunk = packet.chunk
        if chunk is None or packet.data[0] & RETAINED:
            return
        with self._lock:
            self.delivered[chunk] += 1
            if self.delivered[chunk] > 1:
                self.refetched_bytes += len(packet.data)

    def _accept(self) -> None:
        while True:
            try:
                device, _ = self._listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection((self._target.host, self._target.port))
            except OSError:
                device.close()
                continue
            up, down = Wire(broker), Wire(device)
            with self._lock:
                self._open += [up, down]
            for way, is_down in ((Way(self, down, up), False), (Way(self, up, down), True)):
                threading.Thread(target=self._carry, args=(way, is_down), daemon=True).start()

    def _carry(self, way: Way, is_down: bool) -> None:
        source = way.source.socket
        try:
            for data in _packets(source):
                if data is None:
                    self._courier.idle(way)
                else:
                    self._courier.carry(Packet(self._next(), is_down, data), way)
        except OSError:
            pass
        finally:
            way.cut()
            source.close()

    def _next(self) -> int:
        with self._lock:
            self.packets += 1
            return self.packets - 1


def _packets(source: socket.socket) -> Iterator[bytes | None]:
    """Yield whole packets until the connection ends, and None whenever nothing comes."""
    held = bytearray()
    while True:
        if not select.select([source], [], [], IDLE_S)[0]:
            yield None
            continue
        data = source.recv(READ_BYTES)
        if not data:
            return
        held += data
        while (length := _length(held)) is not None and len(held) >= length:
            packet, held = bytes(held[:length]), held[length:]
            yield packet


def _length(data: bytearray) -> int | None:
    """Return how long the packet is that ``data`` begins with, or None where that is not known."""
    size, shift = 0, 0
    for at in range(1, min(5, len(data))):
        size |= (data[at] & 0x7F) << shift
        shift += 7
        if not data[at] & 0x80:
            return at + 1 + size
    return None


def _body(data: bytes) -> int:
    """Return where a packet's variable header begins."""
    return next(at for at in range(1, 5) if not data[at] & 0x80) + 1


def _encoded(size: int) -> bytes:
    """Return a remaining length."""
    encoded = bytearray()
    while size > 0x7F:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*encoded, size])
