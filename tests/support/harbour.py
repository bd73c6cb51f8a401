"""A harbour: releases, a broker in a process of its own, and a real fleet manager in this one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from asdic.contract.broker import BrokerAddress
from asdic.contract.messages import CHUNK_BYTES
from asdic.contract.release import FILE_NAME, hex_of
from asdic.contract.trust import Offer
from asdic.contract.variant import VARIANT_FILE
from asdic.device.identity import read_key
from asdic.fleet.inventory import Device
from asdic.fleet.manager import Fleet, FleetConfig, Push
from asdic.fleet.rollout import Rollout
from asdic.fleet.transfer import TransferLimits
from tests.faults.oracle import Signed
from tests.support.boxes import Box
from tests.support.broker_process import BrokerProcess
from tests.support.paper_box import enrolment
from tests.support.yard import JETSON, Yard

OLD: Final = "1.0.0"
NEW: Final = "2.0.0"
NEW_CHUNKS: Final = 12
"""Chunks of the new release's ballast; its other files are smaller than one each."""

LIMITS: Final = TransferLimits(window=4, gather_s=0.05)
"""A window much smaller than the ballast, so that more than a window can be fetched twice."""

POLL_S: Final = 0.005


class Harbour:
    """Everything on shore.

    Attributes:
        yard: The releases, of which the manager's own director makes the offers.
        fleet: The manager.
        broker: The broker's process.
        signed: What the oracle knows of the releases.
    """

    def __init__(self, folder: Path, broker: BrokerProcess) -> None:
        self.folder = folder
        self.broker = broker
        self.yard = Yard(folder / "yard")
        self.yard.add(OLD)
        self.yard.add(NEW, offset=0.25, ballast_bytes=NEW_CHUNKS * CHUNK_BYTES)
        config = FleetConfig(
            state=folder / "fleet",
            releases=self.yard.releases,
            accept_simulated=True,
            tick_s=0.02,
            transfer=LIMITS,
        )
        self.fleet = Fleet(config, broker.address)
        self.signed = MappingProxyType({self.hex(one): self._signed(one) for one in (OLD, NEW)})

    def hex(self, version: str) -> str:
        """Return a release's manifest in hex."""
        return hex_of(self.yard.manifest(version))

    def box(self, name: str, *, broker: BrokerAddress | None = None) -> Box:
        """Return a new box that has joined the fleet."""
        roots = (
            self.fleet.director.image_root(self.yard.releases),
            self.fleet.director.first_root(),
        )
        box = Box.make(
            self.folder / "boxes" / name,
            roots=roots,
            device=name,
            broker=broker or self.broker.address,
        )
        self.enrol(box)
        return box

    def enrol(self, box: Box) -> None:
        """Take a box into the fleet, for the first time or again."""
        token = self.fleet.inventory.new_token(time.time())
        name, key = box.config.device, read_key(box.state)
        self.fleet.enrol(enrolment(token, name, key, JETSON, simulated=True))

    def push(self, version: str, device: str) -> Rollout:
        """Start a rollout for one device."""
        return self.fleet.push(Push(version=version, selection=device))

    def state(self, rollout: Rollout) -> str:
        """Return where a rollout stands."""
        return self.fleet.records.get(rollout.id).state.value

    def device(self, name: str) -> Device:
        """Return what the manager knows of a device."""
        return self.fleet.inventory.select(name)[0]

    def believes(self, name: str) -> str | None:
        """Return the manifest (hex) that the manager takes for what a device runs."""
        report = self.device(name).report
        return hex_of(report.loaded.manifest) if report and report.loaded else None

    def offer(self, version: str, device: str, *, rollout: str) -> Offer:
        """Return an offer that the director signs now, and that nobody sends."""
        return self.fleet.director.offer_for(
            device=device,
            target=JETSON,
            release=self.yard.layout.release(version),
            layout=self.yard.layout,
            rollout=rollout,
        )

    def _signed(self, version: str) -> Signed:
        manifest = self.yard.layout.manifest(self.yard.layout.release(version), JETSON)
        files = {layer.annotations[FILE_NAME]: hex_of(layer.digest) for layer in manifest.layers}
        return Signed(
            version=version,
            security_counter=1,
            files={VARIANT_FILE: hex_of(manifest.config.digest), **files},
        )


@contextmanager
def harbour_in(folder: Path) -> Iterator[Harbour]:
    """Yield a harbour that is open."""
    with BrokerProcess(folder / "broker") as broker:
        harbour = Harbour(folder, broker)
        harbour.fleet.start()
        try:
            yield harbour
            if harbour.fleet.failure is not None:
                raise harbour.fleet.failure
        finally:
            harbour.fleet.stop()


class Stranger:
    """Somebody else who may publish what he likes: the broker is not trusted."""

    def __init__(self, address: BrokerAddress) -> None:
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.connect(address.host, address.port)
        self._client.loop_start()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish, and wait until the broker has it."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(10.0)

    def __enter__(self) -> Stranger:
        return self

    def __exit__(self, *_: Any) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def holds(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Return whether ``condition`` came to hold in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True
