"""The agent: one loop that moves messages between the link, the update and the program.

It is light on purpose: it runs all year beside a model that needs the memory, so it imports no
runtime, no OpenCV, no numpy, and python-tuf only when an offer arrives. A test holds it to that.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from typing_extensions import assert_never

from asdic.contract.errors import AsdicError, ConfigError
from asdic.device.application import CurrentRelease
from asdic.device.application_socket import ApplicationSocket
from asdic.device.by_hand import Requests
from asdic.device.config import AgentConfig, StateFolder
from asdic.device.identity import read_key
from asdic.device.link import (
    Arrival,
    BenchOrdered,
    ChunkArrived,
    Connected,
    Link,
    NumberTold,
    OfferArrived,
)
from asdic.device.numbering import told_number
from asdic.device.orders import BenchOrders
from asdic.device.peripherals import frames_for, microcontroller_for
from asdic.device.reports import Reporter
from asdic.device.supervisor import Supervisor
from asdic.device.update.journal import Journal
from asdic.device.update.microcontroller import Microcontroller
from asdic.device.update.state import FINAL
from asdic.device.update.storage import Storage
from asdic.device.update.store import Pointer, Store
from asdic.device.update.trust import TrustFolder
from asdic.device.update.update import Update
from asdic.device.update.work import OpenTrial, open_trial

ARRIVALS_A_TICK: Final = 32

log = logging.getLogger("asdic.agent")


class FolderInUseError(ConfigError):
    """An agent works on the state folder."""


class Agent:
    """One device's agent. Who calls it holds the folder's lock (``locked``).

    Args:
        state: The device's state folder.
        config: Its configuration.
        link: The way to the manager.
        storage: The door to the disk.
        supervisor: The runner process; None where the box's own program runs the model.
        again: Try an offer anew that has failed before, because a person asks for it.
        now: Update also while an exam is in progress, because a person asks for it.
        open_trial: Starts the trial of a candidate.
        microcontroller: The one beside the box; None: the one that the configuration names.
        clock: Monotonic seconds, for the update's deadlines.
    """

    def __init__(
        self,
        state: StateFolder,
        config: AgentConfig,
        *,
        link: Link,
        storage: Storage,
        supervisor: Supervisor | None = None,
        again: bool = False,
        now: bool = False,
        open_trial: OpenTrial = open_trial,
        microcontroller: Microcontroller | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._link = link
        self._supervisor = supervisor
        self._again = again
        self._now = now
        self._complaint = ""
        self._device = config.device
        self._trust = TrustFolder(state.trust, storage)
        self._store = Store(state.path, storage)
        self._socket = ApplicationSocket(
            state.application, self._current, busy_limit_s=config.timing.busy_limit_s
        )
        self._reporter = Reporter(state, config, read_key(state), storage, link.send_report)
        self._orders = BenchOrders(state, config.device, storage=storage, send=link.send_bench)
        self._tick_s = config.timing.tick_s
        self.update = Update(
            state,
            config,
            storage=storage,
            source=link,
            program=self._socket,
            crashes=lambda: supervisor.crashes if supervisor is not None else 0,
            changed=self._report,
            open_trial=open_trial,
            microcontroller=microcontroller or microcontroller_for(config),
            frames=frames_for(config),
            clock=clock,
        )
        self._requests = Requests(state, self.update, storage)

    def run(self, until: Callable[[], bool]) -> None:
        """Work until ``until`` is true, which is asked several times a second."""
        with ExitStack() as stack:
            stack.callback(self._socket.close)
            self._socket.start()
            stack.callback(self._link.close)
            self._link.start()
            stack.callback(self.update.stop)
            stack.callback(self._orders.stop)
            if self._supervisor is not None:
                stack.callback(self._supervisor.stop)
            self._guarded(self.update.resume)
            while not until():
                self._guarded(self._turn)

    def _turn(self) -> None:
        """Take what arrived, then do what is due."""
        for number in range(ARRIVALS_A_TICK):
            arrival = self._link.receive(0.0 if number else self._tick_s)
            if arrival is None:
                break
            self._take(arrival)
        if self._supervisor is not None:
            self._supervisor.tick(silence_s=self._socket.silence_s(self._supervisor.pid))
        self._requests.tick()
        self.update.tick()
        has_time = not self._socket.is_busy() and self.update.journal.state in FINAL
        self._orders.tick(may_run=has_time)
        self._reporter.report_news(self.update.journal, self._socket.program())

    def _take(self, arrival: Arrival) -> None:
        match arrival:
            case Connected():
                self._report(self.update.journal)
                self.update.connected()
                self._orders.send_again()
            case NumberTold():
                self._continue_after(arrival.data)
            case BenchOrdered():
                self._orders.take(arrival.data)
            case OfferArrived():
                self.update.take_offer(arrival.data, again=self._again, now=self._now)
            case ChunkArrived():
                self.update.take_chunk(arrival.blob, arrival.number, arrival.data)
            case _:
                assert_never(arrival)

    def _guarded(self, work: Callable[[], None]) -> None:
        """Keep the agent alive where the disk or the network is not: the next turn tries again."""
        try:
            work()
        except (AsdicError, OSError) as error:
            if str(error) != self._complaint:
                log.warning("%s; trying again", error)
            self._complaint = str(error)
            time.sleep(self._tick_s)
        else:
            self._complaint = ""

    def _report(self, journal: Journal) -> None:
        self._reporter.report(journal, self._socket.program())

    def _continue_after(self, data: bytes) -> None:
        """Be heard again: what a restored folder reports has numbers that the manager knows."""
        try:
            number = told_number(data, device=self._device, trust=self._trust.read().director)
        except AsdicError as error:
            log.warning("a report's number was not believed: %s", error)
            return
        if self._reporter.continue_after(number):
            log.warning(
                "the manager has had report %d of this device already: this state folder was "
                "restored from an old copy, or another box has a copy of it",
                number,
            )
            self._report(self.update.journal)

    def _current(self) -> CurrentRelease:
        """Answer what to run: called by the application socket's threads."""
        digest = self._store.pointer(Pointer.CURRENT)
        if digest is None:
            return CurrentRelease()
        release = self._store.release(digest)
        return CurrentRelease(
            manifest=release.manifest,
            version=release.version,
            folder=str(release.folder),
            cache=str(self._store.cache_folder(digest)),
        )


@contextmanager
def locked(state: StateFolder) -> Iterator[None]:
    """Hold the state folder for one agent; a killed one lets go of it.

    Raises:
        FolderInUseError: Another one works on it.
    """
    descriptor = os.open(state.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _lock(descriptor, state)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, state: StateFolder) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FolderInUseError(f"an agent already works on {state.path}; stop it first") from error
