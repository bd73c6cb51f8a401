"""The shore: the manager's end of the wire for device tests, by hand and without a manager."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from asdic.contract.broker import BrokerAddress
from asdic.contract.files import parse_json
from asdic.contract.messages import (
    CHUNK_BYTES,
    MISSING_TYPE,
    PROGRESS_TYPE,
    REPORT_TYPE,
    Missing,
    Progress,
    Report,
    chunk_topic,
    offer_topic,
    repair_topic,
    up_topic,
)
from asdic.contract.trust import open_envelope, public_hex
from asdic.device.identity import read_key
from asdic.fleet.director import encode_offer
from tests.support.boxes import Box
from tests.support.yard import Yard

PATIENCE_S = 60.0


class Shore:
    """One MQTT client that offers, gives chunks, and hears what a box says."""

    def __init__(self, address: BrokerAddress, yard: Yard, box: Box) -> None:
        self.reports: list[Report] = []
        self.progress: list[Progress] = []
        self.missing: list[Missing] = []
        self.presence: list[bytes] = []
        self._yard = yard
        self._device = box.config.device
        self._key = public_hex(read_key(box.state))
        self._messages: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _client, _data, message: self._messages.put(message)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect(address.host, address.port)
        self._client.loop_start()
        assert self._subscribed.wait(PATIENCE_S)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def offer(self, version: str, *, rollout: str = "") -> None:
        """Retain an offer."""
        offer = self._yard.offer(version, device=self._device, rollout=rollout)
        self.publish(offer_topic(self._device), encode_offer(offer), retain=True)

    def give(self, blob: str, *numbers: int, broadcast: bool = True) -> None:
        """Publish chunks of a blob."""
        data = self._yard.layout.blob_path(f"sha256:{blob}").read_bytes()
        for number in numbers:
            topic = (
                chunk_topic(blob, number) if broadcast else repair_topic(self._device, blob, number)
            )
            self.publish(topic, data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES])

    def give_all(self) -> None:
        """Publish, as they are asked for, all chunks that progress says are missing."""
        for progress in tuple(self.progress):
            self.progress.remove(progress)
            self.give(progress.blob, *range(progress.first_missing, progress.chunks))

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain)

    def until(self, condition: Callable[[], bool], *, serve: bool = True) -> None:
        """Hear, and give what is asked for if ``serve``, until ``condition`` holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"in vain; the last report is {self.reports[-1:]}"
            self._hear()
            if serve:
                self.give_all()

    def until_report(self, condition: Callable[[Report], bool]) -> Report:
        """Return the first report from now on for which ``condition`` holds."""
        start = len(self.reports)
        self.until(lambda: any(condition(report) for report in self.reports[start:]))
        return next(report for report in self.reports[start:] if condition(report))

    def _on_connect(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe(up_topic(self._device, "+"), qos=1)

    def _hear(self) -> None:
        try:
            message = self._messages.get(timeout=0.05)
        except queue.Empty:
            return
        payload = bytes(message.payload)
        match message.topic.rpartition("/")[2]:
            case "reported":
                opened = open_envelope(payload, REPORT_TYPE, self._key)
                self.reports.append(parse_json(opened, Report, what="report"))
            case "progress":
                opened = open_envelope(payload, PROGRESS_TYPE, self._key)
                self.progress.append(parse_json(opened, Progress, what="progress"))
            case "missing":
                opened = open_envelope(payload, MISSING_TYPE, self._key)
                self.missing.append(parse_json(opened, Missing, what="missing"))
            case "presence":
                self.presence.append(payload)


@contextmanager
def shore_for(address: BrokerAddress, yard: Yard, box: Box) -> Iterator[Shore]:
    """Yield a shore that listens to ``box``."""
    shore = Shore(address, yard, box)
    try:
        yield shore
    finally:
        shore.close()
