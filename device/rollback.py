"""Going back by hand: who does it, when it is over, and what came of it.

Where an agent works on the state folder it is asked to; where none does, this process is the agent
until it is over, as for ``install``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

import msgspec

from asdic.contract.errors import AsdicError, InstallError
from asdic.contract.messages import Missing, Progress, UpdateState
from asdic.contract.release import Descriptor
from asdic.device.agent import Agent, FolderInUseError, locked
from asdic.device.by_hand import POLL_S, ask_to_go_back
from asdic.device.config import AgentConfig, StateFolder
from asdic.device.link import Arrival
from asdic.device.log import keep_warnings
from asdic.device.status import DeviceStatus, read_status
from asdic.device.supervisor import Supervisor
from asdic.device.update.state import FINAL
from asdic.device.update.storage import Storage
from asdic.device.update.store import Store
from asdic.device.update.update import Update

PATIENCE_S: Final = 2.0
SILENT_HEARTBEATS: Final = 3.0

log = logging.getLogger("asdic.rollback")


class WentBack(msgspec.Struct, frozen=True, kw_only=True):
    """The release that runs now, by the program's own word, and the one that it ran before.

    ``left`` is a version, or the manifest's digest where the release is too damaged to have one.
    """

    device: str
    version: str
    manifest: str
    left: str

    def line(self) -> str:
        """Return it for a person."""
        return f"{self.version} runs; {self.left} comes back with another rollout, or by hand"


class NoLink:
    """A link that brings nothing, and on which nobody hears."""

    def start(self) -> None:
        """Nobody is there."""

    def receive(self, timeout_s: float) -> Arrival | None:
        """Wait in vain."""
        time.sleep(timeout_s)
        return None

    def follow(self, blob: Descriptor) -> None:
        """It will not come."""

    def leave(self, blob: Descriptor) -> None:
        """It was not coming."""

    def send_progress(self, progress: Progress) -> None:
        """Nobody hears it."""

    def send_missing(self, missing: Missing) -> None:
        """Nobody hears it."""

    def send_report(self, envelope: bytes) -> None:
        """Nobody hears it; the next connection makes up for it."""

    def send_bench(self, envelope: bytes) -> None:
        """Nobody hears it."""

    def close(self) -> None:
        """Nothing is open."""


def go_back(
    state: StateFolder,
    config: AgentConfig,
    *,
    supervisor: Supervisor | None,
    now: bool,
    is_stopped: Callable[[], bool],
) -> WentBack:
    """Go back to the release before the current one, and return what runs then.

    Args:
        state: The device's state folder.
        config: Its configuration.
        supervisor: Runs the model where no agent does; None where the box's own program does.
        now: Also while an exam is in progress.
        is_stopped: Whether the person has lost patience.

    Raises:
        InstallError: The box did not go back; the message says why.
    """
    before = read_status(state)
    is_at_rest = before.journal.state in FINAL
    left = before.current if is_at_rest else before.journal.manifest
    version = _version_of(state, left)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(state))
        except FolderInUseError:
            after = _ask_the_agent(state, config, now=now, is_stopped=is_stopped)
        else:
            after = _be_the_agent(state, config, supervisor, now=now, is_stopped=is_stopped)
    return _result(after, left, version)


def _version_of(state: StateFolder, digest: str | None) -> str:
    if digest is None:
        return "nothing"
    try:
        return Store(state.path, Storage()).release(digest).version
    except AsdicError:
        return digest


def _be_the_agent(
    state: StateFolder,
    config: AgentConfig,
    supervisor: Supervisor | None,
    *,
    now: bool,
    is_stopped: Callable[[], bool],
) -> DeviceStatus:
    keep_warnings(state)
    agent = Agent(state, config, link=NoLink(), storage=Storage(), supervisor=supervisor)
    going = _GoingBack(agent.update, now=now)
    agent.run(lambda: is_stopped() or going.is_over())
    return read_status(state)


class _GoingBack:
    """The way back that this process's own agent goes."""

    def __init__(self, update: Update, *, now: bool) -> None:
        self._update = update
        self._now = now
        self._waiting = _Waiting(now=now)
        self._has_begun = False

    def is_over(self) -> bool:
        """Begin, or return whether that has ended.

        Raises:
            InstallError: There is no way back.
        """
        if not self._has_begun:
            self._update.send_back(now=self._now)
            self._has_begun = True
        self._waiting.see(self._update.journal.state)
        return self._update.is_settled


def _ask_the_agent(
    state: StateFolder, config: AgentConfig, *, now: bool, is_stopped: Callable[[], bool]
) -> DeviceStatus:
    """Ask the running agent, and return its status once it has reported how that ended.

    Raises:
        InstallError: It refuses, or is silent for longer than it ever is.
    """
    ask_to_go_back(state, Storage(), now=now)
    waiting = _Waiting(now=now)
    said, said_s = 0, time.monotonic()
    while True:
        status = read_status(state)
        waiting.see(status.journal.state, tells=True)
        if is_stopped() or _is_reported(status):
            return status
        number = status.report.number if status.report else 0
        if number != said:
            said, said_s = number, time.monotonic()
        if time.monotonic() - said_s > SILENT_HEARTBEATS * config.timing.heartbeat_s:
            raise InstallError(f"the agent on {state.path} says nothing any more")
        time.sleep(POLL_S)


def _is_reported(status: DeviceStatus) -> bool:
    """Return whether no update is in hand, and the last report says so."""
    report = status.report
    return (
        status.journal.state in FINAL
        and report is not None
        and (report.state, report.manifest) == (status.journal.state, status.journal.manifest)
    )


class _Waiting:
    """Says on the log what is waited for."""

    def __init__(self, *, now: bool) -> None:
        self._now = now
        self._state = UpdateState.IDLE
        self._since_s = time.monotonic()
        self._has_explained = now

    def see(self, state: UpdateState, *, tells: bool = False) -> None:
        """Note where the update stands; ``tells``: nobody else says so."""
        if state is not self._state:
            self._state, self._since_s = state, time.monotonic()
            if tells:
                log.info("the update is %s", state.value)
        is_long = time.monotonic() - self._since_s > PATIENCE_S
        if is_long and state is UpdateState.ROLLING_BACK and not self._has_explained:
            self._has_explained = True
            log.info("an exam holds it back, if one is in progress; `--now` overrides that")


def _result(status: DeviceStatus, left: str | None, version: str) -> WentBack:
    """Return what runs now.

    Raises:
        InstallError: It is not an earlier release.
    """
    loaded = status.report.loaded if status.report else None
    if status.journal.state not in FINAL:
        raise InstallError(
            f"the way back has not ended, the update is {status.journal.state.value}; the agent "
            "goes on with it"
        )
    if status.current is None:
        raise InstallError("the earlier release is damaged on this disk, so no model runs")
    if loaded is None or not loaded.is_certain or loaded.manifest in {None, left}:
        raise InstallError(
            f"this box did not go back: the update is {status.journal.state.value}, and the "
            "program has not said that it runs the earlier release"
        )
    return WentBack(
        device=status.device, version=loaded.version, manifest=loaded.manifest, left=version
    )
