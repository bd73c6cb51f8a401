"""The manager's MQTT connection: what comes up goes into one queue, what goes down is counted."""

from __future__ import annotations

import logging
import queue
import sys
import uuid
from dataclasses import dataclass
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import LinkError
from asdic.contract.messages import up_topic
from asdic.contract.mqtt import Outage, link_reason, secure

_RECONNECT_S: Final = (1, 30)
_CHANNELS: Final = ("reported", "progress", "missing", "presence", "bench")

log: Final = logging.getLogger(__name__)


@dataclass(frozen=True)
class Received:
    """One message of a device: who, on which of its topics, and the payload."""

    device: str
    channel: str
    payload: bytes


@dataclass(frozen=True)
class Connected:
    """The link is up, for the first time or again: what was retained may be gone."""


class MqttLink:
    """A connection that comes back by itself.

    ``inbox`` holds ``Connected`` after each connection and ``Received`` for each message.
    """

    def __init__(self, address: BrokerAddress) -> None:
        self.inbox: queue.Queue[Received | Connected] = queue.Queue(maxsize=10_000)
        self._address = address
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=f"asdic-manager-{uuid.uuid4().hex[:12]}"
        )
        secure(self._client, address)
        self._client.reconnect_delay_set(*_RECONNECT_S)
        self._outage = Outage(address, log)
        self._client.on_connect = self._on_connect
        self._client.on_connect_fail = self._on_connect_fail
        self._client.on_disconnect = self._on_disconnect
        self._client.on_message = self._on_message
        self._client.on_publish = self._on_publish
        self._closing = False
        self._published = 0
        self._acknowledged = 0

    def open(self) -> None:
        """Connect.

        Raises:
            LinkError: Nobody listens there.
        """
        try:
            self._client.connect(self._address.host, self._address.port, keepalive=30)
        except OSError as error:
            reason = link_reason(error)
            raise LinkError(f"no broker at {self._address}: {reason}") from error
        self._client.loop_start()

    def close(self) -> None:
        """Say goodbye and stop the thread."""
        self._closing = True
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send ``payload`` with QoS 1; paho keeps it until the broker has acknowledged it."""
        self._published += 1
        self._client.publish(topic, payload, qos=1, retain=retain)

    def backlog(self) -> int:
        """Return how many messages the broker has not acknowledged."""
        return self._published - self._acknowledged

    def _on_connect(
        self, client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _p: Any
    ) -> None:
        if reason.is_failure:
            self._outage.begin(f"refuses the manager: {reason}")
            return
        self._outage.end()
        client.subscribe([(up_topic("+", channel), 1) for channel in _CHANNELS])
        self._put(Connected())

    def _on_connect_fail(self, _client: mqtt.Client, _data: Any) -> None:
        # paho calls this while it handles the error, and does not say which.
        self._outage.begin(f"cannot be reached ({link_reason(sys.exc_info()[1])})")

    def _on_disconnect(
        self, _client: mqtt.Client, _data: Any, _flags: Any, reason: Any, _p: Any
    ) -> None:
        if reason.is_failure and not self._closing:
            self._outage.begin(f"is gone ({reason})")

    def _on_message(self, _client: mqtt.Client, _data: Any, message: mqtt.MQTTMessage) -> None:
        match message.topic.split("/"):
            case ["asdic", "v1", device, "up", channel]:
                self._put(Received(device, channel, bytes(message.payload)))

    def _on_publish(self, _client: mqtt.Client, _data: Any, _mid: int, _code: Any, _p: Any) -> None:
        self._acknowledged += 1

    def _put(self, item: Received | Connected) -> None:
        """Wait while the manager is busy: the broker then holds the rest back."""
        while not self._closing:
            try:
                self.inbox.put(item, timeout=0.5)
            except queue.Full:
                continue
            return
