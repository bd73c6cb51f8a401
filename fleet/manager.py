"""The fleet manager: inventory, director, rollouts and transfer around one loop.

All that matters is in the database and the director's folder before it has an effect, so a
manager that was killed goes on where it stood: it publishes again what an embedded broker forgot.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from asdic.contract.bench import BenchOrder
from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import AsdicError, ConfigError
from asdic.contract.files import canonical_json, parse_json
from asdic.contract.messages import (
    MISSING_TYPE,
    PROGRESS_TYPE,
    EnrolGrant,
    EnrolReply,
    EnrolRequest,
    Missing,
    Presence,
    Progress,
    number_topic,
)
from asdic.contract.release import Layout, Release
from asdic.contract.trust import proof_of
from asdic.fleet.conflicts import Conflict, signed_number
from asdic.fleet.database import Database
from asdic.fleet.decision import (
    Decisions,
    OfferRelease,
    RolloutEvent,
    RolloutState,
    WithdrawOffer,
)
from asdic.fleet.director import Director
from asdic.fleet.inventory import Device, Inventory
from asdic.fleet.link import Connected, MqttLink, Received
from asdic.fleet.measurements import BenchWish, Measurements
from asdic.fleet.offers import Offers
from asdic.fleet.records import RolloutRecords
from asdic.fleet.rollout import Rollout, advance, move
from asdic.fleet.stage import MemberState, Policy, parse_steps, plan
from asdic.fleet.transfer import Transfer, TransferLimits

log: Final = logging.getLogger(__name__)
DATABASE_FILE: Final = "fleet.db"
DIRECTOR_FOLDER: Final = "director"
_MESSAGES_A_TURN: Final = 500


@dataclass(frozen=True, kw_only=True)
class FleetConfig:
    """Where the manager's files are, whom it accepts, and how it paces itself."""

    state: Path
    releases: Path
    accept_simulated: bool = False
    tick_s: float = 0.2
    transfer: TransferLimits = field(default_factory=TransferLimits)


class Push(msgspec.Struct, frozen=True, kw_only=True):
    """A wish to bring a release to devices."""

    version: str
    selection: str = "all"
    stages: str = "100%"
    policy: Policy = Policy()


class Fleet:
    """A running fleet. Its methods may be called from any thread."""

    def __init__(self, config: FleetConfig, broker: BrokerAddress) -> None:
        self.config = config
        self.broker = broker
        self._database = Database(config.state / DATABASE_FILE)
        self.inventory = Inventory(
            self._database,
            accept_simulated=config.accept_simulated,
            on_conflict=self._tell_number,
        )
        self.records = RolloutRecords(self._database)
        self.director = Director(config.state / DIRECTOR_FOLDER)
        self._link = MqttLink(broker)
        self.offers = Offers(config.releases, self.director, self._link)
        self.measurements = Measurements(
            self._database, self.inventory, self.director.keys, self._link
        )
        self.transfer = Transfer(self._blob_path, self._link, config.transfer)
        self._reports = self.inventory.reports()
        self._watched = {one.id: one for one in self.records.all() if one.is_watched}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)
        self.failure: BaseException | None = None
        self.on_failure: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Connect to the broker and start the loop.

        Raises:
            LinkError: The broker does not answer.
        """
        self.inventory.forget_presence()
        self._link.open()
        self._thread.start()

    def stop(self) -> None:
        """Stop the loop and close everything; what is durable stays."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()
        self._link.close()
        self.transfer.close()
        self._database.close()

    def enrol(self, request: EnrolRequest) -> EnrolReply:
        """Take a device into the fleet and return what it needs, proven by the claim's secret.

        Raises:
            ReleaseError: The claim is not good, or no release was signed yet.
            ConfigError: The device is not welcome.
        """
        with self._lock:
            image_root = self.director.image_root(self.config.releases)
            body, secret = self.inventory.enrol(request, time.time())
            grant = EnrolGrant(
                device=body.device,
                image_root=image_root,
                director_root=self.director.first_root(),
                broker_host=self.broker.host,
                broker_port=self.broker.port,
                broker_ca=self.broker.ca,
            )
        text = canonical_json(grant)
        return EnrolReply(body=text.decode(), proof=proof_of(secret.encode(), text))

    def push(self, push: Push) -> Rollout:
        """Start a rollout; one that is still open for any of its devices is superseded.

        Raises:
            ConfigError: The release or a device is unknown, or the stages make no sense.
            ReleaseError: The release is not signed, is damaged, or fits no selected device.
        """
        steps = parse_steps(push.stages)
        with self._lock:
            layout = Layout.open(self.config.releases)
            release = layout.release(push.version)
            chosen = self.inventory.select(push.selection)
            manifests = self.offers.check(layout, release, chosen)
            salt = secrets.token_hex(8)
            stages, members, unsupported = plan(
                {device.id: device.target for device in chosen}, manifests, steps=steps, salt=salt
            )
            rollout = Rollout(
                id=f"{push.version}-{secrets.token_hex(4)}",
                version=push.version,
                salt=salt,
                selection=push.selection,
                created_s=time.time(),
                stages=stages,
                members=members,
                unsupported=unsupported,
                policy=push.policy,
            )
            self._supersede(rollout)
            self._apply(*move(rollout, RolloutEvent.START, reason="", now=time.time()))
            self._advance(rollout.id)
            return self.records.get(rollout.id)

    def roll_back(self, version: str | None = None) -> Rollout:
        """Bring the devices of the newest effective rollout back to a release that finished.

        Raises:
            ConfigError: No other release finished before.
        """
        with self._lock:
            history = self.records.all()
            current = next((one for one in history if _has_effect(one)), None)
            selection = current.selection if current else "all"
            wanted = version or _finished_before(history, current)
            count = len(self.inventory.select(selection))
            return self.push(
                Push(
                    version=wanted, selection=selection, policy=Policy(failure_limit=max(count, 1))
                )
            )

    def order(self, rollout_id: str, event: RolloutEvent, reason: str) -> Rollout:
        """Pause, resume or cancel a rollout on a person's word.

        Raises:
            ConfigError: There is no such rollout, or it cannot do that now.
        """
        with self._lock:
            rollout = self.records.get(rollout_id)
            self._apply(*move(rollout, event, reason=reason, now=time.time()))
            if event is RolloutEvent.RESUME:
                self._issue_missing(self.records.get(rollout_id))
                self._advance(rollout_id)
            return self.records.get(rollout_id)

    def export(self, version: str, selection: str) -> dict[str, bytes]:
        """Return an offer for each selected device that the release has a variant for.

        The device takes the newest decision: an offer that waits for it on the broker is signed
        again afterwards.

        Raises:
            ConfigError: The release or a device is unknown.
            ReleaseError: The release is not signed, or fits no selected device.
        """
        with self._lock:
            layout = Layout.open(self.config.releases)
            release = layout.release(version)
            chosen = self.inventory.select(selection)
            self.offers.check(layout, release, chosen)
            served = [device for device in chosen if device.target in release.variants]
            return {device.id: self._exported(layout, release, device) for device in served}

    def bench(self, wish: BenchWish) -> tuple[BenchOrder, ...]:
        """Ask devices to measure what they run.

        Raises:
            ConfigError: A device is unknown, or the times make no sense.
        """
        with self._lock:
            return self.measurements.order(wish, time.time())

    def _exported(self, layout: Layout, release: Release, device: Device) -> bytes:
        standing = self.offers.standing_rollout(device.id)
        exported = self.offers.export(layout, release, device)
        if standing is not None:
            self.offers.issue(self.records.get(standing), device.id)
        return exported

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._take_messages()
                self._turn()
        except BaseException as error:  # noqa: BLE001 (whoever waits for the server raises it)
            self.failure = error
            self.on_failure()

    def _turn(self) -> None:
        with self._lock:
            for rollout_id in tuple(self._watched):
                self._advance(rollout_id)
            self.transfer.pump(time.monotonic())

    def _take_messages(self) -> None:
        """Handle what has come in; wait for the first message one tick at most."""
        timeout = self.config.tick_s
        for _ in range(_MESSAGES_A_TURN):
            try:
                message = self._link.inbox.get(block=timeout > 0, timeout=timeout)
            except queue.Empty:
                return
            timeout = 0.0
            with self._lock:
                self._handle(message)

    def _handle(self, message: Received | Connected) -> None:
        if isinstance(message, Connected):
            self._on_connected()
            return
        try:
            _CHANNELS[message.channel](self, message.device, message.payload)
        except AsdicError as error:
            log.warning("%s of %s: %s", message.channel, message.device, error)

    def _on_connected(self) -> None:
        for rollout in tuple(self._watched.values()):
            if rollout.is_open:
                self._issue_missing(rollout)
        devices = [device.id for device in self.inventory.all()]
        self.offers.publish_standing(devices)
        self.measurements.publish_standing(devices)

    def _on_report(self, device: str, payload: bytes) -> None:
        report = self.inventory.accept_report(device, payload, time.time())
        if report is not None:
            self._reports[device] = report

    def _tell_number(self, conflict: Conflict) -> None:
        """Let a restored device go on where its reports stood, so that it is heard again.

        Only the device's own key makes new reports, so nobody can play old ones by this.
        """
        key = self.director.keys.private_key("targets")
        order = signed_number(conflict, key)
        self._link.publish(number_topic(conflict.device), order)

    def _on_presence(self, device: str, payload: bytes) -> None:
        presence = parse_json(payload, Presence, what="the presence")
        self.inventory.set_online(device, presence.online, time.time())

    def _on_progress(self, device: str, payload: bytes) -> None:
        progress = self.inventory.open_message(device, payload, PROGRESS_TYPE, Progress)
        if progress is not None:
            self.transfer.on_progress(device, progress, time.monotonic())

    def _on_missing(self, device: str, payload: bytes) -> None:
        missing = self.inventory.open_message(device, payload, MISSING_TYPE, Missing)
        if missing is not None:
            self.transfer.on_missing(device, missing, time.monotonic())

    def _on_bench(self, device: str, payload: bytes) -> None:
        self.measurements.accept(device, payload, time.time())

    def _advance(self, rollout_id: str) -> None:
        rollout = self._watched.get(rollout_id)
        if rollout is None:
            return
        following, decisions = advance(rollout, self._reports, time.time())
        if following != rollout:
            self._apply(following, decisions)

    def _apply(self, rollout: Rollout, decisions: Decisions) -> None:
        """Store what was decided, then do it."""
        self.records.save(rollout, decisions, time.time())
        for decision in decisions:
            log.info("rollout %s: %s", rollout.id, decision)
        if rollout.is_watched:
            self._watched[rollout.id] = rollout
        else:
            self._watched.pop(rollout.id, None)
        try:
            for decision in decisions:
                match decision:
                    case OfferRelease(device=device):
                        self.offers.issue(rollout, device)
                    case WithdrawOffer(device=device):
                        if self.offers.withdraw(rollout, device):
                            self.transfer.leave(device)
                    case _:
                        pass
        except AsdicError as error:
            self._pause(rollout, str(error))

    def _issue_missing(self, rollout: Rollout) -> None:
        try:
            self.offers.issue_missing(rollout)
        except AsdicError as error:
            self._pause(rollout, str(error))

    def _pause(self, rollout: Rollout, reason: str) -> None:
        log.warning("rollout %s: %s", rollout.id, reason)
        if rollout.state is RolloutState.RUNNING:
            self._apply(*move(rollout, RolloutEvent.PAUSE, reason=reason, now=time.time()))

    def _supersede(self, newer: Rollout) -> None:
        devices = {member.device for member in newer.members}
        for rollout in tuple(self._watched.values()):
            if rollout.is_open and devices & {member.device for member in rollout.members}:
                reason = f"superseded by {newer.id}"
                event = RolloutEvent.SUPERSEDE
                self._apply(*move(rollout, event, reason=reason, now=time.time()))

    def _blob_path(self, digest: str) -> Path:
        return Layout.open(self.config.releases).blob_path(digest)


_CHANNELS: Final[Mapping[str, Callable[[Fleet, str, bytes], None]]] = MappingProxyType(
    {
        "reported": Fleet._on_report,
        "presence": Fleet._on_presence,
        "progress": Fleet._on_progress,
        "missing": Fleet._on_missing,
        "bench": Fleet._on_bench,
    }
)


def _has_effect(rollout: Rollout) -> bool:
    return rollout.count(MemberState.COMMITTED) + rollout.count(MemberState.UPDATING) > 0


def _finished_before(history: tuple[Rollout, ...], current: Rollout | None) -> str:
    older = history[history.index(current) + 1 :] if current else ()
    finished = (one.version for one in older if one.state is RolloutState.FINISHED)
    for version in finished:
        if current is not None and version != current.version:
            return version
    raise ConfigError("no other release finished before; say which one with --to VERSION")
