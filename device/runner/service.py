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
from asdic.device.runner.ring_source import RingSource
from asdic.device.runner.runner import Runner
from asdic.device.runner.stream import STALL_S

AGENT_GONE_S: Final = 30.0
REFRESH_S: Final = 0.1

log = logging.getLogger("asdic.runner")


class RunnerService:
    """Runs the agent's current release until the agent is gone for long, or ``stopped``.

    Args:
        state: The device's state folder.
        simulate: Use the runtime that stands in for the target's.
        images: What to infer, in turn; none means the inputs of the golden set.
        fps: Inferences a second; for a ring, at most.
        stopped: Is asked between two frames.
        ring: Infer the newest frame of this ring instead. A release that needs other frames is
            refused, and where no frame comes, nothing is inferred.
    """

    def __init__(
        self,
        state: Path,
        *,
        simulate: bool,
        images: Sequence[Path],
        fps: float,
        stopped: Callable[[], bool],
        ring: RingSource | None = None,
    ) -> None:
        self._state = state
        self._ring = ring
        self._trouble = ""
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
            if self._ring is not None and self._live.variant is not None:
                self._ring.required = self._live.variant.requires.frames
        if self._live.silence_s > AGENT_GONE_S:
            raise LinkError(f"no agent answers in {self._state}")

    def _infer_if_due(self) -> float:
        """Infer the next frame where it is time, and return for how many seconds to rest."""
        if self._live.release is None:
            return REFRESH_S
        if time.monotonic() >= self._due_s:
            self._due_s = time.monotonic() + self._interval_s
            self._infer() if self._ring is None else self._infer_from(self._ring)
        return min(max(0.0, self._due_s - time.monotonic()), REFRESH_S)

    def _infer(self) -> None:
        try:
            self._live.predict(next(self._frames))
        except AsdicError as error:
            log.warning("an inference failed: %s", error)

    def _infer_from(self, ring: RingSource) -> None:
        """Infer the newest frame of a ring; why there is none is said once."""
        try:
            frame = ring.next(REFRESH_S)
            if frame is not None:
                self._live.predict(frame.inputs)
            trouble = f"no signal: {ring.trouble}" if ring.silent_s > STALL_S else ""
        except AsdicError as error:
            trouble = f"an inference failed: {error}"
        if trouble != self._trouble:
            log.warning("%s", trouble or "there is a signal again")
            self._trouble = trouble

    def _prepare(self, runner: Runner, folder: Path) -> None:
        """Find the frames for a model before it takes over."""
        if runner.variant is None:
            raise ConfigError(f"{folder} holds no variant")
        if self._ring is not None:
            self._ring.check(runner.variant.requires.frames)
            return
        self._next_frames = frames_for(runner.variant, folder, self._images)
