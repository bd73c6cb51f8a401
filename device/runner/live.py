"""A model that follows the agent: the newest release that it names, swapped between two frames.

::

    with LiveRunner.connect(Path("box1")) as live:
        for frame in camera:
            live.refresh()
            show(live.predict(frame))

The next release is opened, its digests are compared and it is warmed up in a thread of its own
while the old one goes on answering; the swap is one assignment in ``refresh``. This module
decides nothing: what to run is the agent's word.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import AsdicError, NoModelError
from asdic.contract.variant import Variant
from asdic.device.application import REASON_LIMIT, Call, CurrentRelease, HealthCall, loaded_call
from asdic.device.process import resident_bytes
from asdic.device.runner.cache import keep_in
from asdic.device.runner.conversation import Conversation
from asdic.device.runner.postprocess import Prediction
from asdic.device.runner.runner import Runner

HEALTH_S: Final = 0.5
LATENCIES_KEPT: Final = 100
RETRY_S: Final = 10.0
END_PATIENCE_S: Final = 30.0
POLL_S: Final = 0.01

log = logging.getLogger("asdic.runner")


class LiveRunner:
    """The model that the agent of a state folder names. For use by one thread.

    Args:
        state: The device's state folder.
        simulate: Use the runtime that stands in for the target's.
        overlap: Keep the old model until the next one is ready, which takes memory for both;
            without it there is no model in between.
        prepare: Is called in the opening's thread with each newly opened runner and its folder;
            an ``AsdicError`` of it refuses the release.
        alone: This process does nothing else, so that what it grows by is the model's, and is
            held against the limit of its release.
    """

    def __init__(
        self,
        state: Path,
        *,
        simulate: bool = False,
        overlap: bool = True,
        prepare: Callable[[Runner, Path], None] = lambda _runner, _folder: None,
        alone: bool = False,
    ) -> None:
        self._simulate = simulate
        self._alone = alone
        self._overlap = overlap
        self._prepare = prepare
        self._agent = Conversation(state)
        self._model: _Model | None = None
        self._opening: _Opening | None = None
        self._failed: HealthCall | None = None
        self._retry_at_s = 0.0
        self._health_at_s = 0.0

    @classmethod
    def connect(cls, state: Path, *, simulate: bool = False, overlap: bool = True) -> LiveRunner:
        """Return a runner for ``state``; an agent that is not there yet is found when it comes.

        It has no model until ``refresh`` has been called a few times; ``wait`` does that.
        """
        live = cls(state, simulate=simulate, overlap=overlap)
        live.refresh()
        return live

    def __enter__(self) -> LiveRunner:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def release(self) -> CurrentRelease | None:
        """The release that answers now."""
        return self._model.release if self._model is not None else None

    @property
    def variant(self) -> Variant | None:
        """The description of the model that answers now."""
        return self._model.runner.variant if self._model is not None else None

    @property
    def silence_s(self) -> float:
        """For how many seconds the agent has not answered."""
        return time.monotonic() - self._agent.heard_s

    def refresh(self) -> bool:
        """Follow the agent; call it between frames. Return whether another model answers now.

        It waits for nothing: what the agent says is taken at the next call, and a model that is
        not ready yet at a later one. An agent that is gone changes nothing.
        """
        self._agent.listen()
        is_swapped = self._follow()
        if self._agent.can_say and (call := self._due()) is not None:
            self._agent.say(call)
        return is_swapped

    def wait(self, timeout_s: float = 60.0) -> None:
        """Wait until there is a model.

        Raises:
            NoModelError: There is none within ``timeout_s`` seconds.
        """
        deadline_s = time.monotonic() + timeout_s
        while self._model is None and time.monotonic() < deadline_s:
            if not self.refresh():
                time.sleep(POLL_S)
        if self._model is None:
            raise NoModelError(f"no model: {self._why()}")

    def predict(self, inputs: NDArray[Any] | Mapping[str, NDArray[Any]]) -> Prediction:
        """Return what the model says, as ``Runner.predict`` does.

        What goes wrong is raised, and counted in what the agent is told of the release: while
        that is on probation, one failure ends it.

        Raises:
            NoModelError: There is no model; the message says why.
            DataError: An input does not fit.
            ReleaseError: An answer does not fit its rule, or is not a number.
        """
        if self._model is None:
            raise NoModelError(f"no model: {self._why()}")
        return self._model.predict(inputs)

    def close(self) -> None:
        """Free the models and hang up: this program runs nothing any more."""
        self._agent.close()
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.discard(END_PATIENCE_S)
        model, self._model = self._model, None
        if model is not None:
            model.close()

    # What to run

    def _follow(self) -> bool:
        """Go one step towards what the agent wants; return whether the model was swapped."""
        wanted = self._agent.wanted
        if wanted is None:
            return False
        if self._opening is not None:
            return self._opening.is_done and self._take(self._opening, wanted)
        held = self._model.release.manifest if self._model is not None else None
        if wanted.manifest == held:
            self._failed = None
        elif wanted.manifest is None:
            self._failed = None
            self._let_go()
        elif not self._has_failed(wanted):
            self._open(wanted)
        return False

    def _has_failed(self, wanted: CurrentRelease) -> bool:
        is_same = self._failed is not None and self._failed.manifest == wanted.manifest
        return is_same and time.monotonic() < self._retry_at_s

    def _open(self, wanted: CurrentRelease) -> None:
        """Begin to open a release; the process's environment is changed between two frames."""
        if not self._overlap:
            self._let_go()
        if wanted.cache is not None:
            keep_in(Path(wanted.cache))
        before = resident_bytes(os.getpid()) if self._alone else None
        self._opening = _Opening(
            wanted, simulate=self._simulate, prepare=self._prepare, memory_before=before
        )

    def _take(self, opening: _Opening, wanted: CurrentRelease) -> bool:
        """Take what was opened, unless the agent wants something else by now."""
        self._opening = None
        if opening.release.manifest != wanted.manifest:
            opening.discard()
            return False
        if opening.model is None:
            self._refuse(opening)
            return False
        old, self._model = self._model, opening.model
        self._failed = None
        if old is not None:
            _close_aside(old)
        log.info("release %s answers", opening.release.version)
        return True

    def _refuse(self, opening: _Opening) -> None:
        """Remember why a release cannot be opened, for the agent, and try again later."""
        log.warning("release %s cannot be opened: %s", opening.release.version, opening.error)
        self._failed = HealthCall(
            manifest=opening.release.manifest,
            errors=1,
            reason=opening.error,
            still=self._model.release.manifest if self._model is not None else None,
        )
        self._retry_at_s = time.monotonic() + RETRY_S
        self._health_at_s = 0.0

    def _let_go(self) -> None:
        model, self._model = self._model, None
        if model is not None:
            log.info("release %s is let go", model.release.version)
            _close_aside(model)
            self._health_at_s = 0.0

    # What to say

    def _due(self) -> Call | None:
        """Return what is to be said now, if anything."""
        model = self._model
        if model is not None and model.inferences and model.acknowledged_over != self._agent.number:
            model.acknowledged_over = self._agent.number
            return model.acknowledgement()
        if time.monotonic() < self._health_at_s:
            return None
        self._health_at_s = time.monotonic() + HEALTH_S
        return self._failed or (model.health() if model is not None else HealthCall())

    def _why(self) -> str:
        wanted = self._agent.wanted
        if self._opening is not None:
            return f"release {self._opening.release.version} is being opened"
        if self._failed is not None and wanted is not None:
            return f"release {wanted.version} cannot be opened: {self._failed.reason}"
        if wanted is None or self._agent.trouble:
            return self._agent.trouble or "the agent has not answered yet"
        if wanted.manifest is None:
            return "no release is installed"
        return f"release {wanted.version} is opened next"


class _Model:
    """One open release and what it did so far."""

    def __init__(self, release: CurrentRelease, runner: Runner, memory_before: int | None) -> None:
        self._memory_before = memory_before
        self.release = release
        self.runner = runner
        self.inferences = 0
        self.acknowledged_over = 0
        self._errors = 0
        self._reason = ""
        self._latencies_ms: deque[float] = deque(maxlen=LATENCIES_KEPT)

    def predict(self, inputs: NDArray[Any] | Mapping[str, NDArray[Any]]) -> Prediction:
        """Infer, and note how it went."""
        started = time.perf_counter()
        try:
            prediction = self.runner.predict(inputs)
        except AsdicError as error:
            self._errors += 1
            self._reason = str(error)[:REASON_LIMIT]
            raise
        self.inferences += 1
        self._latencies_ms.append((time.perf_counter() - started) * 1e3)
        return prediction

    def acknowledgement(self) -> Call:
        """Return that it is loaded and has answered."""
        return loaded_call(self.release, inferences=self.inferences, runtime=self.runner.facts())

    def health(self) -> HealthCall:
        """Return how it went so far."""
        gluttony = self._gluttony()
        return HealthCall(
            manifest=self.release.manifest,
            inferences=self.inferences,
            errors=self._errors + bool(gluttony),
            latency_ms_p50=median(self._latencies_ms) if self._latencies_ms else None,
            reason=gluttony or self._reason,
        )

    def _gluttony(self) -> str:
        """Return by how much this process has outgrown the model's limit, or nothing."""
        if self._memory_before is None or self.runner.variant is None:
            return ""
        taken = resident_bytes(os.getpid()) - self._memory_before
        allowed = self.runner.variant.limits.memory_bytes
        if taken <= allowed:
            return ""
        return f"it takes {taken >> 20} MiB of memory, {allowed >> 20} MiB are allowed"

    def close(self) -> None:
        """Free the model."""
        self.runner.close()


class _Opening:
    """A release that is being opened in a thread of its own."""

    def __init__(
        self,
        release: CurrentRelease,
        *,
        simulate: bool,
        prepare: Callable[[Runner, Path], None],
        memory_before: int | None,
    ) -> None:
        self._memory_before = memory_before
        self.release = release
        self.model: _Model | None = None
        self.error = ""
        self._simulate = simulate
        self._prepare = prepare
        self._thread = threading.Thread(target=self._run, name="opening", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Whether there is a model or an error."""
        return not self._thread.is_alive()

    def discard(self, patience_s: float | None = None) -> None:
        """Free the model that no one wants any more, once it is there."""
        self._thread.join(patience_s)
        if self.model is not None:
            _close_aside(self.model)

    def _run(self) -> None:
        try:
            self.model = self._opened(Path(self.release.folder or ""))
        except Exception as error:  # noqa: BLE001 - whatever it is, the old model runs on
            self.error = (str(error) or type(error).__name__)[:REASON_LIMIT]

    def _opened(self, folder: Path) -> _Model:
        runner = Runner.open(folder, simulate=self._simulate)
        try:
            self._prepare(runner, folder)
            runner.infer({spec.name: np.zeros(spec.shape, np.float32) for spec in runner.inputs})
        except BaseException:
            runner.close()
            raise
        return _Model(self.release, runner, self._memory_before)


def _close_aside(model: _Model) -> None:
    """Free a model without keeping a frame waiting."""
    threading.Thread(target=model.close, name="closing", daemon=True).start()
