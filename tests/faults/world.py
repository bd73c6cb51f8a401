"""A whole device without its hardware: real update, store, trust and reports, a simulated disk.

Simulated are the disk, the clock, the way of the bytes, the trial's process and the program that
infers. A ``World`` is one boot: it runs until the device comes to rest, or the power goes.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asdic.contract.errors import AsdicError
from asdic.contract.messages import (
    CHUNK_BYTES,
    REPORT_TYPE,
    GateFacts,
    Loaded,
    Missing,
    Progress,
    Refusal,
    UpdateState,
)
from asdic.contract.release import Descriptor, hex_of
from asdic.contract.trust import open_envelope, public_hex
from asdic.contract.variant import read_variant
from asdic.device.application import HealthCall, Program
from asdic.device.config import AgentConfig, BrokerAddress, Probation, StateFolder
from asdic.device.reports import Reporter
from asdic.device.update import trusted
from asdic.device.update.gate import Verdict
from asdic.device.update.journal import Journal
from asdic.device.update.storage import Storage
from asdic.device.update.store import Store
from asdic.device.update.update import Update
from asdic.device.update.work import Work
from tests.faults.disk import SimulatedDisk
from tests.support.yard import JETSON

TICK_S: Final = 1.0
BOOTED_S: Final = 1000.0
TICKS_LIMIT: Final = 900
DEVICE: Final = "box1"
CONFIG: Final = AgentConfig(
    device=DEVICE,
    target=JETSON,
    simulated=True,
    broker=BrokerAddress(host="127.0.0.1", port=9),
    probation=Probation(inferences=2),
)


@dataclass(frozen=True, kw_only=True)
class Release:
    """What the yard signed: the offer of it as it came, and how its model behaves here."""

    version: str
    manifest: str
    offer: bytes
    passes_gate: bool = True
    works_in_use: bool = True


@dataclass(kw_only=True)
class Memory:
    """What outlives a boot beside the disk: what the broker retains, and what the oracle knows.

    ``retained`` is the offer at the broker, None where there never was one; ``done`` the states
    whose part of the scenario has been played; ``committed`` the last version of which the device
    has said so, and ``has_lost_it`` whether it was found with an older one or none after that;
    ``most_bytes`` is how much its store has held at most.
    """

    retained: bytes | None = None
    done: set[UpdateState] = field(default_factory=set)
    reports: list[dict[str, Any]] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    gated: set[str] = field(default_factory=set)
    committed: str = ""
    has_lost_it: bool = False
    most_bytes: int = 0
    boots: int = 0

    def copy(self) -> Memory:
        """Return one that goes its own way."""
        return Memory(
            retained=self.retained,
            done=set(self.done),
            reports=list(self.reports),
            ran=list(self.ran),
            gated=set(self.gated),
            committed=self.committed,
            has_lost_it=self.has_lost_it,
            most_bytes=self.most_bytes,
            boots=self.boots,
        )


class Inferring:
    """The program: it loads what ``current`` names as ``asdic-runner`` does, and infers."""

    def __init__(self, state: StateFolder, releases: Mapping[str, Release], memory: Memory) -> None:
        self._state = state
        self._releases = releases
        self._memory = memory
        self._loaded: Loaded | None = None
        self._failed: HealthCall | None = None
        self._handled: str | None = None
        self._errors = 0
        self._store = Store(state.path, Storage())
        self.busy = False
        self.is_deaf = False

    def program(self) -> Program:
        """Return what it has said."""
        health = self._failed
        if self._loaded is not None:
            health = HealthCall(
                manifest=self._loaded.manifest,
                inferences=self._loaded.inferences,
                errors=self._errors,
            )
        return Program(loaded=self._loaded, health=health)

    def is_busy(self) -> bool:
        """Return whether an exam is in progress."""
        return self.busy

    @property
    def running(self) -> str | None:
        """The manifest (hex) that is loaded."""
        return hex_of(self._loaded.manifest) if self._loaded else None

    def tick(self) -> None:
        """Follow the pointer, then infer once."""
        if self.is_deaf:
            return
        link = self._state.path / "current"
        wanted = link.readlink().name if link.is_symlink() else None
        if wanted != self._handled:
            self._handled = wanted
            self._load(wanted)
        elif self._loaded is not None:
            self._infer(self._loaded)

    def _load(self, wanted: str | None) -> None:
        self._loaded, self._failed, self._errors = None, None, 0
        if wanted is None:
            return
        digest = f"sha256:{wanted}"
        try:
            # What the agent answers to ``current``, and what opening it checks.
            release = self._store.release(digest)
            read_variant(release.folder)
        except AsdicError as error:
            self._failed = HealthCall(manifest=digest, errors=1, reason=str(error))
            return
        self._loaded = Loaded(manifest=digest, version=release.version, pid=1, inferences=0)
        self._infer(self._loaded)

    def _infer(self, loaded: Loaded) -> None:
        self._memory.ran.append(hex_of(loaded.manifest))
        release = self._releases.get(loaded.manifest)
        if release is None or not release.works_in_use:
            self._errors += 1
        self._loaded = msgspec.structs.replace(loaded, inferences=loaded.inferences + 1)


class SimulatedTrial:
    """A trial that knows its verdict; it opens the files as the real one does."""

    def __init__(self, work: Work, world: World) -> None:
        self._digest = work.digest
        self._world = world
        self._passes = world.shore.releases[work.digest].passes_gate and world.trials_pass
        self._polls = 0
        self._refusal = ""
        try:
            read_variant(work.store.release(work.digest).folder)
        except AsdicError as error:
            self._refusal = str(error)

    def poll(self) -> Verdict | None:
        """Return the verdict at the second look."""
        self._polls += 1
        if self._polls < 2 or self._world.trials_hang:
            return None
        if self._refusal:
            return Refusal(code="damaged", message=self._refusal)
        if not self._passes:
            return Refusal(code="golden", message="other outputs than those of the golden set")
        self._world.memory.gated.add(hex_of(self._digest))
        return GateFacts(
            outputs_checked=8,
            worst_difference=0.0,
            metric="dice",
            measured=90.0,
            limit=85.0,
            latency_ms_p50=1.0,
            load_s=0.1,
            memory_bytes=1 << 20,
        )

    def stop(self) -> None:
        """Nothing runs."""


class Bytes:
    """The way of the bytes: whatever is asked for arrives at the next tick."""

    def __init__(self, blobs: Callable[[str], bytes]) -> None:
        self._blobs = blobs
        self._followed: dict[str, Descriptor] = {}
        self.is_cut = False
        self.spoils = 0

    def follow(self, blob: Descriptor) -> None:
        """Send it from now on."""
        self._followed[blob.digest] = blob

    def leave(self, blob: Descriptor) -> None:
        """Send no more."""
        self._followed.pop(blob.digest, None)

    def send_progress(self, progress: Progress) -> None:
        """Nobody counts."""

    def send_missing(self, missing: Missing) -> None:
        """All of it comes anyway."""

    def tick(self, update: Update) -> None:
        """Deliver."""
        for digest, blob in () if self.is_cut else tuple(self._followed.items()):
            data = self._blobs(digest)
            if self.spoils:
                self.spoils -= 1
                data = bytes(len(data))
            for number in range(-(-blob.size // CHUNK_BYTES)):
                chunk = data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
                update.take_chunk(hex_of(digest), number, chunk)


@dataclass(frozen=True, kw_only=True)
class Shore:
    """What lies on shore: releases by manifest, offers by name, blobs, and the time there.

    ``key`` is the device's own, which no fault of this table is about.
    """

    key: Ed25519PrivateKey
    releases: Mapping[str, Release]
    offers: Mapping[str, bytes]
    blobs: Mapping[str, bytes]
    now: datetime

    def release(self, version: str) -> Release:
        """Return a release by its version."""
        return next(one for one in self.releases.values() if one.version == version)


Script: TypeAlias = Mapping[UpdateState, Callable[["World"], None]]
NOTHING: Final[Script] = MappingProxyType({})


class World:
    """One boot of the device.

    Args:
        disk: Its disk, with what a boot finds on it.
        shore: What it can be sent.
        memory: What is known from the boots before.
        script: What happens around the device when a state is entered for the first time.
        clock_off: How far the device's clock is from the true time.
    """

    def __init__(
        self,
        disk: SimulatedDisk,
        shore: Shore,
        memory: Memory,
        *,
        script: Script = NOTHING,
        config: AgentConfig = CONFIG,
        clock_off: timedelta = timedelta(),
    ) -> None:
        self.disk = disk
        self.shore = shore
        self.memory = memory
        self.config = config
        self.clock_off = clock_off
        self.seconds = BOOTED_S
        self.trials_pass = True
        self.trials_hang = False
        self.entered: Callable[[UpdateState], None] = lambda _state: None
        self._script = script
        self._soon: list[Callable[[World], None]] = []
        self._is_started = False
        self.state = StateFolder(disk.folder)
        self.storage = Storage(disk)
        self.program = Inferring(self.state, shore.releases, memory)
        self.source = Bytes(shore.blobs.__getitem__)
        memory.boots += 1

    def run(self) -> None:
        """Boot, and go on until the device is at rest; a failing disk is met as the agent does.

        Raises:
            PowerCut: The disk says so.
            RuntimeError: The device's code has stopped itself.
        """
        self.start()
        self.go_on()

    def start(self) -> None:
        """Boot."""
        self._quiet = 0
        self._guarded(self._start_update)

    def go_on(self, ticks: int = TICKS_LIMIT) -> None:
        """Let time pass until the device is at rest, or for so many seconds."""
        for _ in range(ticks):
            self._guarded(self.tick)
            if self.is_at_rest:
                break
        self._guarded(self._say_last)

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing more will happen by itself."""
        if not self._is_started or self.update.has_pending or not self.update.is_settled:
            return False
        current = self.update.store.pointers().current
        running = self.program.running
        return running == (hex_of(current) if current else None) and self._quiet > 1

    def tick(self) -> None:
        """Let a second pass."""
        if not self._is_started:
            self._start_update()
        soon, self._soon = self._soon, []
        for action in soon:
            action(self)
        self.seconds += TICK_S
        self.source.tick(self.update)
        self.program.tick()
        self._compare()
        before = self.update.journal
        self.update.tick()
        self._quiet = self._quiet + 1 if self.update.journal == before else 0
        self.reporter.report_news(self.update.journal, self.program.program())

    def journal_on_disk(self) -> tuple[str, str | None]:
        """Return state and rollout of the journal as anyone can read them."""
        try:
            line = (self.disk.folder / "journal.json").read_bytes().partition(b"\n")[0]
        except FileNotFoundError:
            return "idle", None
        journal = json.loads(line)
        return journal["state"], journal["rollout"]

    def is_in(self, state: UpdateState) -> bool:
        """Return whether the update is in a state now."""
        return self._is_started and self.update.journal.state is state

    def publish(self, name: str) -> None:
        """Retain another offer at the broker; an empty one withdraws it."""
        offer = self.shore.offers[name]
        self.memory.retained = offer
        self.update.take_offer(offer)

    def soon(self, action: Callable[[World], None]) -> None:
        """Do something at the beginning of the next tick."""
        self._soon.append(action)

    def now(self) -> datetime:
        """Return the device's own idea of the time."""
        return self.shore.now + self.clock_off

    def _start_update(self) -> None:
        self.reporter = Reporter(self.state, self.config, self.shore.key, self.storage, self._hear)
        self.update = Update(
            self.state,
            self.config,
            storage=self.storage,
            source=self.source,
            program=self.program,
            crashes=lambda: 0,
            changed=self._changed,
            open_trial=lambda work: SimulatedTrial(work, self),
            clock=lambda: self.seconds,
            now=self.now,
        )
        self.update.resume()
        self._is_started = True
        if self.memory.retained is not None:
            self.update.take_offer(self.memory.retained)

    def _compare(self) -> None:
        """Note whether what runs is older than what the device has said that it has committed."""
        running = self.shore.releases.get(f"sha256:{self.program.running}")
        version = running.version if running is not None else ""
        if version < self.memory.committed and not self.program.is_deaf:
            self.memory.has_lost_it = True
        held = sum(path.stat().st_size for path in self.state.path.glob("store/[bp]*/*"))
        self.memory.most_bytes = max(self.memory.most_bytes, held)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (AsdicError, OSError):
            self.seconds += TICK_S
            self._quiet = 0

    def _changed(self, journal: Journal) -> None:
        self.entered(journal.state)
        if journal.state in self._script and journal.state not in self.memory.done:
            self.memory.done.add(journal.state)
            self.soon(self._script[journal.state])
        self.reporter.report(journal, self.program.program())

    def _say_last(self) -> None:
        """Send what a heartbeat would say, so that the last word is about what runs now."""
        if self._is_started:
            self.reporter.report(self.update.journal, self.program.program())

    def _hear(self, envelope: bytes) -> None:
        payload = open_envelope(envelope, REPORT_TYPE, self._public)
        report = json.loads(payload)
        self.memory.reports.append(report)
        if report["state"] == "committed":
            self.memory.committed = report["version"] or ""

    @functools.cached_property
    def _public(self) -> str:
        return public_hex(self.shore.key)


@contextmanager
def remembered_signatures() -> Iterator[None]:
    """Check equal offers against equal trust once: that check is pure, and takes 5 ms."""
    true = trusted.verify_offer
    known: dict[tuple[bytes, ...], Any] = {}

    def verify(offer: Any, *, trust: Any, device: Any, now: datetime) -> Any:
        key = (msgspec.json.encode(offer), msgspec.json.encode(trust), now.isoformat().encode())
        if key not in known:
            try:
                known[key] = true(offer, trust=trust, device=device, now=now)
            except AsdicError as error:
                known[key] = error
        if isinstance(known[key], AsdicError):
            raise known[key]
        return known[key]

    trusted.verify_offer = verify
    try:
        yield
    finally:
        trusted.verify_offer = true


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the device's warnings about what is done to it here off the screen."""
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
