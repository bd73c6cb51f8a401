"""The runner process: it runs what the agent's pointer names, and says what it runs.

It speaks the application contract (``asdic.device.application``) as any program would: it swaps
between two frames when the agent names another release, acknowledges a release only after its
first inference, and reports its health twice a second. It decides nothing.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from asdic.contract.errors import AsdicError, LinkError
from asdic.device.application import Application, CurrentRelease, HealthCall
from asdic.device.runner.cache import keep_in
from asdic.device.runner.frames import Frame, frames_for
from asdic.device.runner.runner import Runner

HEALTH_S: Final = 0.5
LATENCIES_KEPT: Final = 100
RECONNECT_S: Final = 0.5
RETRY_S: Final = 10.0
AGENT_GONE_S: Final = 30.0
REASON_LIMIT: Final = 500

log = logging.getLogger("asdic.runner")


class LoadedModel:
    """One open release and what it did so far."""

    def __init__(self, release: CurrentRelease, *, simulate: bool, images: Sequence[Path]) -> None:
        folder = Path(release.folder or "")
        if release.cache is not None:
            keep_in(Path(release.cache))
        self.release = release
        self.inferences = 0
        self.errors = 0
        self.reason = ""
        self.runner = Runner.open(folder, simulate=simulate)
        self._latencies_ms: deque[float] = deque(maxlen=LATENCIES_KEPT)
        try:
            self._frames: Iterator[Frame] = self._frames_in(folder, images)
        except AsdicError:
            self.close()
            raise

    def infer(self) -> None:
        """Infer the next frame and note how it went."""
        try:
            frame = next(self._frames)
            started = time.perf_counter()
            self.runner.predict(frame)
        except AsdicError as error:
            self.errors += 1
            self.reason = str(error)[:REASON_LIMIT]
            log.warning("an inference failed: %s", error)
        else:
            self.inferences += 1
            self._latencies_ms.append((time.perf_counter() - started) * 1e3)

    def health(self) -> HealthCall:
        """Return how it went so far."""
        return HealthCall(
            manifest=self.release.manifest,
            inferences=self.inferences,
            errors=self.errors,
            latency_ms_p50=median(self._latencies_ms) if self._latencies_ms else None,
            reason=self.reason,
        )

    def close(self) -> None:
        """Free the model."""
        self.runner.close()

    def _frames_in(self, folder: Path, images: Sequence[Path]) -> Iterator[Frame]:
        if self.runner.variant is None:
            raise AsdicError(f"{folder} holds no variant")
        return frames_for(self.runner.variant, folder, images)


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
        self._simulate = simulate
        self._images = images
        self._interval_s = 1.0 / fps
        self._stopped = stopped
        self._application: Application | None = None
        self._model: LoadedModel | None = None
        self._wanted = CurrentRelease()
        self._handled: str | None = None
        self._failed: HealthCall | None = None
        self._retry_at_s = 0.0
        self._connect_at_s = 0.0
        self._health_s = 0.0
        self._heard_s = time.monotonic()

    def run(self) -> None:
        """Run until stopped.

        Raises:
            LinkError: The agent did not answer for ``AGENT_GONE_S`` seconds.
        """
        try:
            while not self._stopped():
                started = time.monotonic()
                self._talk()
                self._follow()
                self._infer()
                time.sleep(max(0.0, started + self._interval_s - time.monotonic()))
        finally:
            self._let_go()
            if self._application is not None:
                self._application.close()

    def _talk(self) -> None:
        """Keep the connection, and say how it goes where that is due."""
        try:
            if self._application is None:
                if time.monotonic() >= self._connect_at_s:
                    self._connect()
            elif time.monotonic() - self._health_s >= HEALTH_S:
                self._say_health(self._application)
        except LinkError as error:
            self._lose_agent(error)
        except AsdicError as error:
            log.warning("%s", error)

    def _connect(self) -> None:
        self._application = Application.connect(self._state)
        self._wanted = self._application.current()
        self._heard_s = time.monotonic()
        if self._model is not None and self._model.inferences:
            self._acknowledge(self._application, self._model)

    def _say_health(self, application: Application) -> None:
        health = self._model.health() if self._model else self._failed or HealthCall()
        self._health_s = time.monotonic()
        self._wanted = application.health(health)
        self._heard_s = self._health_s

    def _lose_agent(self, error: LinkError) -> None:
        """Go on inferring; an agent that restarts is back within seconds."""
        if self._application is not None:
            self._application.close()
            self._application = None
        now = time.monotonic()
        if now - self._heard_s > AGENT_GONE_S:
            raise error
        self._connect_at_s = now + RECONNECT_S

    def _follow(self) -> None:
        """Swap the model where the agent names another release than the last one seen to."""
        if self._failed is not None and time.monotonic() >= self._retry_at_s:
            self._handled = None
        if self._application is None or self._wanted.manifest == self._handled:
            return
        self._let_go()
        self._failed = None
        self._say_nothing(self._application)
        self._handled = self._wanted.manifest
        if self._wanted.manifest is None:
            log.info("no model")
        else:
            self._open(self._wanted)

    def _say_nothing(self, application: Application) -> None:
        """Say that nothing is loaded before the next model is opened, which may take a while."""
        try:
            self._wanted = application.health(HealthCall())
        except LinkError as error:
            self._lose_agent(error)

    def _open(self, release: CurrentRelease) -> None:
        try:
            self._model = LoadedModel(release, simulate=self._simulate, images=self._images)
        except AsdicError as error:
            log.warning("release %s cannot be opened: %s", release.version, error)
            self._failed = HealthCall(
                manifest=release.manifest, errors=1, reason=str(error)[:REASON_LIMIT]
            )
            self._retry_at_s = time.monotonic() + RETRY_S
            self._health_s = 0.0
        else:
            log.info("release %s is open", release.version)

    def _infer(self) -> None:
        if self._model is None:
            return
        self._model.infer()
        if self._model.inferences == 1 and self._application is not None:
            try:
                self._acknowledge(self._application, self._model)
            except LinkError as error:
                self._lose_agent(error)

    def _acknowledge(self, application: Application, model: LoadedModel) -> None:
        self._wanted = application.loaded(
            model.release, inferences=model.inferences, runtime=model.runner.facts()
        )

    def _let_go(self) -> None:
        if self._model is not None:
            self._model.close()
            self._model = None
