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
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, TypeAlias, TypeVar

import msgspec

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import AsdicError
from asdic.contract.messages import (
    REPORT_TYPE,
    UpdateState,
)
from asdic.contract.release import hex_of
from asdic.contract.trust import open_envelope, public_hex
from asdic.device.config import AgentConfig, Probation, StateFolder
from asdic.device.reports import Reporter
from asdic.device.update import trusted
from asdic.device.update.journal import Journal
from asdic.device.update.microcontroller import Question, asked_over
from asdic.device.update.storage import Storage
from asdic.device.update.update import Update
from tests.faults.around import Bytes, Inferring, Memory, Shore, SimulatedTrial
from tests.faults.disk import SimulatedDisk
from tests.support.boards import Wire
from tests.support.yard import JETSON

_T = TypeVar("_T")

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
        self.wire = Wire(memory.board) if memory.board is not None else None
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
            microcontroller=AskedAtOnce(self.wire) if self.wire is not None else None,
            clock=lambda: self.seconds,
            now=self.now,
        )
        self._is_started = True
        self._guarded(self.update.resume)
        if self.memory.retained is not None:
            self.update.take_offer(self.memory.retained)

    def _compare(self) -> None:
        """Note whether what runs is older than what the device has said that it has committed."""
        running = self.shore.releases.get(f"sha256:{self.program.running}")
        version = running.version if running is not None else ""
        if version < self.memory.committed and not self.program.is_deaf:
            self.memory.has_lost_it = True
        if self.memory.board is not None:
            self.memory.booted.add(self.memory.board.running)
        files = [path.stat() for path in self.state.path.glob("store/[bp]*/*")]
        held = sum({file.st_ino: file.st_size for file in files}.values())
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
            self._check_pair(f"{report['manifest']}")

    def _check_pair(self, manifest: str) -> None:
        """Note a release that is said to be committed beside firmware that it does not go with."""
        board, release = self.memory.board, self.shore.releases.get(manifest)
        if board is not None and release is not None and release.firmware:
            self.memory.has_lost_it |= board.lasting != release.firmware

    @functools.cached_property
    def _public(self) -> str:
        return public_hex(self.shore.key)


@dataclass(frozen=True)
class AskedAtOnce:
    """A microcontroller that answers while the device waits, so that a stop has its place."""

    wire: Wire

    def ask(self, question: Question[_T]) -> _T | None:
        """Return the answer, or raise what the agent would have been told."""
        return asked_over(self.wire.opened, question)

    def leave(self) -> None:
        """Nothing is on its way."""


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
