"""The runner process: it runs what the agent's pointer names, and says what it runs.

It holds a ``LiveRunner``, as any program could. It decides nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from asdic.contract.errors import AsdicError, ConfigError, LinkError
from asdic.device.runner.frames import Frame, frames_for
from asdic.device.runner.live import LiveRunner
from asdic.device.runner.runner import Runner

AGENT_GONE_S: Final = 30.0
REFRESH_S: Final = 0.1

log = logging.getLogger("asdic.runner")


class RunnerService:
    """Runs the agent's current release until the agent is gone for long, or ``stopped``.

    Args:
        state: The device's state folder.
        simulate: Use the runtime that stands in for the target's.
        images: What to infer, in turn; none means the inputs of the golden set.
        fps: Inferences a second.
        stopped: Is asked between two frames.
    """

    def __init__(
        self,
        state: Path,
        *,
        simulate: bool,
        images: Sequence[Path],
        fps: float,
        stopped: Callable[[], bool],
    ) -> None:
        self._state = state
        self._images = images
        self._interval_s = 1.0 / fps
        self._stopped = stopped
        self._due_s = 0.0
        self._live = LiveRunner(state, simulate=simulate, prepare=self._prepare, alone=True)
        self._frames: Iterator[Frame] = iter(())
        self._next_frames: Iterator[Frame] = iter(())

    def run(self) -> None:
        """Run until stopped.

        Raises:
            LinkError: The agent did not answer for ``AGENT_GONE_S`` seconds.
        """
        with self._live:
            while not self._stopped():
                self._follow()
                time.sleep(self._infer_if_due())

    def _follow(self) -> None:
        """Do what the agent says, and speak to it, however seldom a frame is due."""
        if self._live.refresh():
            self._frames = self._next_frames
        if self._live.silence_s > AGENT_GONE_S:
            raise LinkError(f"no agent answers in {self._state}")

    def _infer_if_due(self) -> float:
        """Infer the next frame where it is time, and return for how many seconds to rest."""
        if self._live.release is None:
            return REFRESH_S
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + self._interval_s
            self._infer()
        return min(max(0.0, self._due_s - time.monotonic()), REFRESH_S)

    def _infer(self) -> None:
        try:
            self._live.predict(next(self._frames))
        except AsdicError as error:
            log.warning("an inference failed: %s", error)

    def _prepare(self, runner: Runner, folder: Path) -> None:
        """Find the frames for a model before it takes over."""
        if runner.variant is None:
            raise ConfigError(f"{folder} holds no variant")
        self._next_frames = frames_for(runner.variant, folder, self._images)
