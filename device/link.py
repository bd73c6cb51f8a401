"""The device's link to its manager: over MQTT, or out of a folder that someone carried here.

A link carries bytes and trusts nothing. What arrives is put in one bounded inbox that the agent
reads; what is sent is signed by the device's key, so that any transport may carry it.
"""

from __future__ import annotations

import logging
import os
import queue
import random
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paho.mqtt.enums import CallbackAPIVersion

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import ConfigError, DigestError, LinkError, ReleaseError
from asdic.contract.files import canonical_json
from asdic.contract.messages import (
    CHUNK_BYTES,
    MISSING_TYPE,
    PROGRESS_TYPE,
    Missing,
    Presence,
    Progress,
    bench_topic,
    chunk_count,
    chunks_filter,
    number_topic,
    offer_topic,
    parse_chunk_topic,
    repair_topic,
    up_topic,
)
from asdic.contract.mqtt import Outage, link_reason, secure
from asdic.contract.release import Descriptor, Layout, hex_of
from asdic.contract.trust import OFFER_LIMIT_BYTES, parse_offer, sign_envelope
from asdic.device.carried import plain_size, read_plain
from asdic.device.config import Timing
from asdic.device.update.fetch import BlobSource

INBOX_MESSAGES: Final = 64
INBOX_PATIENCE_S: Final = 5.0
KEEPALIVE_S: Final = 30

log = logging.getLogger("asdic.link")


@dataclass(frozen=True)
class Connected:
    """The link is up: say again what the manager has to know."""


@dataclass(frozen=True)
class OfferArrived:
    """An offer; empty bytes withdraw the last one."""

    data: bytes


@dataclass(frozen=True)
class ChunkArrived:
    """One chunk of a blob, whose name is its hex digest."""

    blob: str
    number: int
    data: bytes


@dataclass(frozen=True)
class BenchOrdered:
    """A benchmark order; empty bytes withdraw the last one."""

    data: bytes


@dataclass(frozen=True)
class NumberTold:
    """The manager says which report of this device it accepted last."""

    data: bytes


Arrival: TypeAlias = Connected | OfferArrived | ChunkArrived | BenchOrdered | NumberTold


class Link(BlobSource, Protocol):
    """A way to the manager and back."""

    def start(self) -> None:
        """Connect, now or as soon as it can be."""

    def receive(self, timeout_s: float) -> Arrival | None:
        """Return what arrived next, or None after ``timeout_s`` seconds."""

    def send_report(self, envelope: bytes) -> None:
        """Send a signed report, which replaces the last one; it may get lost."""

    def send_bench(self, envelope: bytes) -> None:
        """Send a signed benchmark result; it may get lost."""

    def close(self) -> None:
        """Say goodbye and stop."""


class MqttLink:
    """The link over an MQTT 3.1.1 broker.

    Nothing is queued while the broker is away: after a new connection the agent says again how
    things stand. A full inbox makes the network thread wait, so TCP slows the broker down.

    Args:
        address: The broker, and the authority that vouches for it, if it speaks TLS.
        device: Who we are.
        key: Signs what we say.
        timing: How patient we are.
        signed_s: Returns the newest signed time that the device has seen; 0 for none.
    """

    def __init__(
        self,
        address: BrokerAddress,
        device: str,
        key: Ed25519PrivateKey,
        timing: Timing,
        *,
        signed_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._address = address
        self._device = device
        self._key = key
        self._inbox: queue.Queue[Arrival] = queue.Queue(maxsize=INBOX_MESSAGES)
        self._followed: dict[str, None] = {}
        self._outage = Outage(address, log)
        self._client = self._make_client(timing)
        secure(self._client, address, signed_s=signed_s)

    def start(self) -> None:
        """Connect in the background and keep trying."""
        self._client.connect_async(self._address.host, self._address.port, KEEPALIVE_S)
        self._client.loop_start()

    def receive(self, timeout_s: float) -> Arrival | None:
        """Return what arrived next, or None after ``timeout_s`` seconds."""
        try:
            return self._inbox.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def follow(self, blob: Descriptor) -> None:
        """Subscribe to the chunks of ``blob``, again after each new connection."""
        name = chunks_filter(hex_of(blob.digest))
        self._followed[name] = None
        if self._client.is_connected():
            self._client.subscribe(name, qos=1)

    def leave(self, blob: Descriptor) -> None:
        """Unsubscribe."""
        name = chunks_filter(hex_of(blob.digest))
        if name in self._followed:
            del self._followed[name]
            if self._client.is_connected():
                self._client.unsubscribe(name)

    def send_progress(self, progress: Progress) -> None:
        """Send a signed ``Progress``."""
        self._send("progress", canonical_json(progress), PROGRESS_TYPE)

    def send_missing(self, missing: Missing) -> None:
        """Send a signed ``Missing``."""
        self._send("missing", canonical_json(missing), MISSING_TYPE)

    def send_report(self, envelope: bytes) -> None:
        """Publish the report, retained."""
        self._publish("reported", envelope, retain=True)

    def send_bench(self, envelope: bytes) -> None:
        """Publish the result."""
        self._publish("bench", envelope, retain=False)

    def close(self) -> None:
        """Say that this device is offline, and disconnect."""
        if self._client.is_connected():
            self._publish("presence", canonical_json(Presence(online=False)), retain=True)
        self._client.disconnect()
        self._client.loop_stop()

    def _make_client(self, timing: Timing) -> mqtt.Client:
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"asdic-{self._device}",
            clean_session=True,
            protocol=mqtt.MQTTv311,
        )
        offline = canonical_json(Presence(online=False))
        client.will_set(up_topic(self._device, "presence"), offline, qos=1, retain=True)
        # paho doubles the delay from the first to the second number; the draw keeps a fleet from
        # coming back in step after the broker was away.
        client.reconnect_delay_set(
            min_delay=timing.reconnect_min_s * random.uniform(1.0, 2.0),  # type: ignore[arg-type] # noqa: S311
            max_delay=timing.reconnect_max_s * random.uniform(0.75, 1.25),  # type: ignore[arg-type] # noqa: S311
        )
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        return client

    def _on_connect(
        self, client: mqtt.Client, _data: object, _flags: object, reason: Any, _props: object
    ) -> None:
        if reason.is_failure:
            self._outage.begin(f"refuses this device: {reason}")
            return
        self._outage.end()
        repairs = repair_topic(self._device, "+", 0).removesuffix("0") + "+"
        own = (offer_topic(self._device), bench_topic(self._device), number_topic(self._device))
        for name in (*own, repairs, *tuple(self._followed)):
            client.subscribe(name, qos=1)
        self._publish("presence", canonical_json(Presence(online=True)), retain=True)
        self._put(Connected())

    def _on_connect_fail(self, _client: mqtt.Client, _data: object) -> None:
        # paho calls this while it handles the error, and does not say which.
        self._outage.begin(f"cannot be reached ({link_reason(sys.exc_info()[1])})")

    def _on_disconnect(
        self, _client: mqtt.Client, _data: object, _flags: object, reason: Any, _props: object
    ) -> None:
        if reason.is_failure:
            self._outage.begin(f"is gone ({reason})")

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        arrival = self._arrival(message)
        if arrival is not None:
            self._put(arrival)

    def _arrival(self, message: mqtt.MQTTMessage) -> Arrival | None:
        if message.topic == offer_topic(self._device):
            return OfferArrived(bytes(message.payload))
        if message.topic == bench_topic(self._device):
            return BenchOrdered(bytes(message.payload))
        if message.topic == number_topic(self._device):
            return NumberTold(bytes(message.payload))
        chunk = parse_chunk_topic(message.topic)
        # No manager retains a chunk: what a broker has kept of one is not to be built on.
        if chunk is None or message.retain or len(message.payload) > CHUNK_BYTES:
            return None
        return ChunkArrived(*chunk, bytes(message.payload))

    def _put(self, arrival: Arrival) -> None:
        try:
            self._inbox.put(arrival, timeout=INBOX_PATIENCE_S)
        except queue.Full:
            log.warning("the inbox is full; a %s was dropped", type(arrival).__name__)

    def _send(self, what: str, payload: bytes, payload_type: str) -> None:
        self._publish(what, sign_envelope(payload, payload_type, self._key), retain=False)

    def _publish(self, what: str, payload: bytes, *, retain: bool) -> None:
        if self._client.is_connected():
            self._client.publish(up_topic(self._device, what), payload, qos=1, retain=retain)


class FolderLink:
    """The link out of a release folder with an ``offers/`` folder in it, as on a USB stick.

    The same offer, the same chunks, the same checks; only nobody hears the reports, which the
    next connection to the manager makes up for. A link, a pipe or a device among its files is
    refused: it would lead out of the folder, or never end.

    Raises:
        ConfigError: The folder is no release folder, or holds no offer for ``device``.
        ReleaseError: The offer is damaged.
        LinkError: A file cannot be read, or is no plain file.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._layout = Layout.open(folder)
        self._inbox: deque[Arrival] = deque()
        self._chunks: dict[str, deque[int]] = {}
        self._sizes: dict[str, int] = {}
        self._unreadable: dict[str, str] = {}
        for name in ("oci-layout", "index.json"):
            plain_size(folder / name)
        path = folder / "offers" / f"{device}.json"
        if not os.path.lexists(path):
            raise ConfigError(
                f"{folder} holds no offer for this device ({path.relative_to(folder)} is missing); "
                f"make it with `asdic export VERSION --to {device} --out {folder}`"
            )
        self._offer = read_plain(path, 0, OFFER_LIMIT_BYTES + 1)
        if len(self._offer) > OFFER_LIMIT_BYTES:
            raise ReleaseError(f"{path} is larger than the {OFFER_LIMIT_BYTES} bytes of an offer")
        parse_offer(self._offer)

    def start(self) -> None:
        """Hand out the offer."""
        self._inbox.extend((Connected(), OfferArrived(self._offer)))

    def receive(self, timeout_s: float) -> Arrival | None:
        """Return the next message, or the next chunk that is wanted."""
        arrival = self._inbox.popleft() if self._inbox else self._next_chunk()
        if arrival is None:
            time.sleep(timeout_s)
        return arrival

    def follow(self, blob: Descriptor) -> None:
        """Hand out the chunks of ``blob``.

        Raises:
            DigestError: The folder lacks it, or holds another length than was signed.
            LinkError: It cannot be read, or is no plain file.
        """
        path = self._layout.blob_path(blob.digest)
        if not os.path.lexists(path):
            raise DigestError(f"blob {blob.digest} is missing in {self._layout.folder}")
        size = plain_size(path)
        if size != blob.size:
            raise DigestError(
                f"blob {blob.digest} in {self._layout.folder} has {size} bytes, "
                f"{blob.size} were signed"
            )
        self._unreadable.pop(blob.digest, None)
        self._sizes[blob.digest] = blob.size
        self._chunks[blob.digest] = deque(range(chunk_count(blob.size)))

    def leave(self, blob: Descriptor) -> None:
        """Hand out no more of it."""
        self._chunks.pop(blob.digest, None)

    def send_progress(self, progress: Progress) -> None:
        """Nobody needs to know."""

    def send_missing(self, missing: Missing) -> None:
        """Read the missing chunks once more.

        Raises:
            LinkError: They could not be read before.
        """
        digest = f"sha256:{missing.blob}"
        if digest in self._unreadable:
            raise LinkError(self._unreadable[digest])
        wanted = (n for first, last in missing.ranges for n in range(first, last + 1))
        self._chunks[digest] = deque(wanted)

    def send_report(self, envelope: bytes) -> None:
        """Nobody is there to hear it."""

    def send_bench(self, envelope: bytes) -> None:
        """Nobody is there to hear it."""

    def close(self) -> None:
        """Forget what was wanted."""
        self._chunks.clear()

    def _next_chunk(self) -> ChunkArrived | None:
        for digest, numbers in self._chunks.items():
            if numbers:
                return self._read(digest, numbers.popleft())
        return None

    def _read(self, digest: str, number: int) -> ChunkArrived | None:
        """Return a chunk; None where it cannot be read, which ``send_missing`` will say."""
        offset = number * CHUNK_BYTES
        wanted = min(CHUNK_BYTES, self._sizes.get(digest, 0) - offset)
        try:
            data = read_plain(self._layout.blob_path(digest), offset, CHUNK_BYTES)
        except LinkError as error:
            self._unreadable[digest] = str(error)
            return None
        if len(data) != wanted:
            self._unreadable[digest] = f"blob {digest} changed while it was read"
            return None
        return ChunkArrived(hex_of(digest), number, data)
