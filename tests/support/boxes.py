"""Boxes: state folders with real agent processes, to be started, watched, stopped and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from asdic.contract.broker import BrokerAddress
from asdic.contract.messages import UpdateState
from asdic.device.config import (
    AgentConfig,
    Probation,
    StateFolder,
    Timing,
    read_config,
    write_config,
)
from asdic.device.identity import make_key
from asdic.device.reports import read_last_report
from asdic.device.status import DeviceStatus, read_status
from asdic.device.update.state import FINAL
from asdic.device.update.storage import Storage
from asdic.device.update.trust import TrustFolder

AGENT: Final = (sys.executable, "-m", "asdic.cli.agent")
PATIENCE_S: Final = 60.0
POLL_S: Final = 0.02

QUICK: Final = Timing(
    tick_s=0.05,
    reconnect_min_s=0.1,
    reconnect_max_s=0.5,
    runner_restart_s=0.1,
    bench_s=0.1,
    deadlines_s={"probation": 30.0, "rolling-back": 30.0, "offered": 30.0},
)
"""Patience for tests, where everything that can be quick is."""

PATH_TO_COMMIT: Final = (
    UpdateState.OFFERED,
    UpdateState.FETCHING,
    UpdateState.VERIFYING,
    UpdateState.STAGED,
    UpdateState.GATING,
    UpdateState.ACTIVATING,
    UpdateState.PROBATION,
    UpdateState.COMMITTED,
)
"""The states of an update that ends well."""

NOWHERE: Final = BrokerAddress(host="127.0.0.1", port=9)
"""Nobody listens there."""

NO_EXTRA: Final[Mapping[str, str]] = MappingProxyType({})


class Box:
    """One device: its state folder, and the agent that works on it now, if any.

    The agent's words are in ``log``.
    """

    def __init__(self, folder: Path) -> None:
        self.state = StateFolder(folder.resolve())
        self.log = folder.resolve().with_name(f"{folder.name}.log")
        self._process: subprocess.Popen[bytes] | None = None
        self._reports_before = 0

    @classmethod
    def make(
        cls,
        folder: Path,
        *,
        roots: tuple[str, str],
        device: str = "box1",
        target: str = "jetson-orin-int8",
        simulated: bool = True,
        broker: BrokerAddress = NOWHERE,
        timing: Timing = QUICK,
        probation: Probation = Probation(inferences=2),  # noqa: B008 (frozen)
    ) -> Box:
        """Return a box that is enrolled by hand: no manager takes part."""
        box = cls(folder)
        storage = Storage()
        storage.make_folder(box.state.path)
        make_key(box.state, storage)
        image_root, director_root = roots
        TrustFolder(box.state.trust, storage).bootstrap(
            image_root=image_root, director_root=director_root
        )
        write_config(
            box.state,
            AgentConfig(
                device=device,
                target=target,
                simulated=simulated,
                broker=broker,
                timing=timing,
                probation=probation,
            ),
        )
        return box

    @property
    def config(self) -> AgentConfig:
        """The content of ``agent.toml``."""
        return read_config(self.state)

    @property
    def status(self) -> DeviceStatus:
        """What the state folder says now."""
        return read_status(self.state)

    @property
    def is_running(self) -> bool:
        """Whether the agent that was started still runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process of the agent that was started."""
        assert self._process is not None, "the agent was not started"
        return self._process.pid

    @property
    def words(self) -> str:
        """What all agents of this box wrote to stderr."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def start(
        self,
        *options: str,
        command: tuple[str, ...] = (*AGENT, "run"),
        environment: Mapping[str, str] = NO_EXTRA,
    ) -> None:
        """Start ``asdic-agent run`` in the background."""
        report = read_last_report(self.state)
        self._reports_before = report.number if report else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--state", str(self.state.path), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )

    def stop(self) -> int:
        """Ask the agent to end and return its exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """End the agent with ``kill -9``."""
        return self._end(signal.SIGKILL)

    def install(
        self, folder: Path, *options: str, timeout_s: float = PATIENCE_S
    ) -> subprocess.CompletedProcess[str]:
        """Run ``asdic-agent install FOLDER`` to its end."""
        return self.call("install", str(folder), *options, timeout_s=timeout_s)

    def call(self, *words: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        """Run one verb of ``asdic-agent`` on this box to its end."""
        return subprocess.run(
            [*AGENT, *words, "--state", str(self.state.path)],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def wait_for(
        self, condition: Callable[[DeviceStatus], bool], *, patience_s: float = PATIENCE_S
    ) -> DeviceStatus:
        """Return the first status for which ``condition`` holds.

        Raises:
            AssertionError: It never held, or the agent ended; the agent's words are in it.
        """
        return wait_until(
            lambda: (self.status, condition(self.status)),
            patience_s=patience_s,
            complain=lambda: f"{self.state.path.name}: {self.status}\n{self.words}",
        )

    def wait_for_end(self, version: str) -> DeviceStatus:
        """Return the status once the update to ``version`` has ended and is reported."""
        return self.wait_for(
            lambda status: (
                status.journal.version == version
                and status.journal.state in FINAL
                and status.report is not None
                and status.report.state is status.journal.state
            )
        )

    def wait_until_runs(self, version: str) -> DeviceStatus:
        """Return the status once this agent says that the program has acknowledged ``version``."""
        return self.wait_for(
            lambda status: (
                runs(status) == version
                and status.report is not None
                and status.report.number > self._reports_before
            )
        )

    def wait_for_state(self, state: UpdateState) -> DeviceStatus:
        """Return the status once the update is in ``state``."""
        return self.wait_for(lambda status: status.journal.state is state)

    def _end(self, number: signal.Signals) -> int:
        assert self._process is not None, "the agent was not started"
        self._process.send_signal(number)
        code = self._process.wait(PATIENCE_S)
        self._process = None
        return code

    def __enter__(self) -> Box:
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_running:
            self.kill()


def runs(status: DeviceStatus) -> str | None:
    """Return the version that the last report says is loaded."""
    loaded = status.report.loaded if status.report else None
    return loaded.version if loaded else None


def wait_until(
    probe: Callable[[], tuple[DeviceStatus, bool]],
    *,
    patience_s: float,
    complain: Callable[[], str],
) -> DeviceStatus:
    """Return what ``probe`` found once it says that it is what was wanted."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        found, is_wanted = probe()
        if is_wanted:
            return found
        time.sleep(POLL_S)
    raise AssertionError(f"waited {patience_s:.0f} s in vain; {complain()}")
