"""The one runner process that the agent keeps alive, and the count of how often it ended."""

from __future__ import annotations

import logging
import math
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Final

from asdic.contract.messages import UpdateState
from asdic.device.config import Timing

STEADY_S: Final = 60.0
STOP_PATIENCE_S: Final = 5.0

log = logging.getLogger("asdic.supervisor")


class Supervisor:
    """Starts a command, and starts it again when it ends, more slowly the more often it does."""

    def __init__(
        self,
        command: Sequence[str],
        timing: Timing,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._command = list(command)
        self._timing = timing
        self._clock = clock
        self._process: subprocess.Popen[bytes] | None = None
        # A model that hangs must not take the time in which the box has to be on the old one.
        self._silence_limit_s = (timing.deadline_s(UpdateState.ROLLING_BACK) or math.inf) / 2
        self._delay_s = timing.runner_restart_s
        self._start_at_s = 0.0
        self._started_s = 0.0
        self.crashes = 0

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return self._process.pid if self._process is not None else None

    def tick(self, *, silence_s: float = 0.0) -> None:
        """Start the process if it is not there and its time has come.

        One that has said nothing for ``silence_s`` hangs, and is ended if that is too long.
        """
        if self._process is not None and silence_s > self._silence_limit_s:
            log.warning("the runner has said nothing for %.0f s; it is ended", silence_s)
            self._process.kill()
        if self._process is not None and self._process.poll() is not None:
            self._note_end(self._process.returncode)
        if self._process is None and self._clock() >= self._start_at_s:
            self._started_s = self._clock()
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL)

    def stop(self) -> None:
        """Ask the process to end, and insist."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _note_end(self, status: int) -> None:
        self.crashes += 1
        self._process = None
        if self._clock() - self._started_s >= STEADY_S:
            self._delay_s = self._timing.runner_restart_s
        log.warning(
            "the runner ended with code %d; starting it again in %.1f s", status, self._delay_s
        )
        self._start_at_s = self._clock() + self._delay_s
        self._delay_s = min(2 * self._delay_s, self._timing.runner_restart_max_s)
