"""A stream: frames in, answers out, in the same order, with the work on them overlapped.

Three threads: one waits for the source, one prepares, one infers; whoever iterates interprets.
OpenCV and the runtimes work without Python's lock, so on two cores two of these run at once.
Between them are lines of one or two frames: a longer one would only make answers older. Where
frames come faster than they are inferred, the oldest that waits is dropped, and counted.

::

    with runner.stream(camera) as events:
        for event in events:
            match event:
                case Predicted():
                    show(event.prediction.mask)
                case NoSignal():
                    show_no_signal()
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, DataError, LinkError
from asdic.contract.variant import InputRule
from asdic.device.runner.engine import AsyncEngine, Engine, Tensors
from asdic.device.runner.line import NO_MORE, NOT_YET, Line, Nothing
from asdic.device.runner.postprocess import Prediction
from asdic.device.runner.preprocess import Memory, Preparation

WAITING: Final = 2
STALL_S: Final = 2.0
WAITING_LIMIT: Final = 1_024
_SOONEST_S: Final = 0.001

Inputs: TypeAlias = NDArray[Any] | Mapping[str, NDArray[Any]]
Outputs: TypeAlias = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class TimedFrame:
    """An image, or named arrays, and when it was captured (``time.monotonic``, seconds)."""

    inputs: Inputs
    captured_s: float


class FrameSource(Protocol):
    """Gives frames in the order of their capture. It may block, end or fail.

    A frame's arrays must not change after it was given.
    """

    def __iter__(self) -> Iterator[TimedFrame]:
        """Start to give frames; called once, in a thread of the stream."""


class Keep(str, Enum):
    """Which frames are kept when as many wait as may: the newest ones, or all of them.

    ``ALL`` makes the source wait, which is for files.
    """

    NEWEST = "newest"
    ALL = "all"


@dataclass(frozen=True, eq=False)
class Predicted:
    """The answer to frame ``number`` (from 0, dropped ones counted).

    ``dropped`` is how many frames were dropped before this one was given out.
    """

    number: int
    captured_s: float
    prediction: Prediction
    dropped: int


@dataclass(frozen=True, eq=False)
class Refused:
    """Frame ``number`` does not fit the model; the stream goes on."""

    number: int
    captured_s: float
    reason: DataError
    dropped: int


@dataclass(frozen=True)
class NoSignal:
    """No frame came for ``for_s`` seconds; ``last`` is the number of the last one that did."""

    for_s: float
    last: int | None


StreamEvent: TypeAlias = Predicted | Refused | NoSignal
Size: TypeAlias = tuple[int, int] | None


@dataclass(frozen=True)
class Stages:
    """What a runner does to a frame, for a stream to overlap.

    ``lend`` gives the engine to a stream, or raises ``ConfigError``; ``named`` and ``check`` are
    the runner's own; ``size`` is that of the masks.
    """

    lend: Callable[[Stream], Engine]
    rules: Sequence[InputRule]
    named: Callable[[Inputs], Mapping[str, NDArray[Any]]]
    check: Callable[[Tensors], None]
    size: Callable[[Mapping[str, NDArray[Any]]], Size]
    interpret: Callable[[Outputs, Size], Prediction]


@dataclass(frozen=True, eq=False)
class _Job:
    """One frame on its way. ``memory`` holds its tensors until the model has read them."""

    number: int
    frame: TimedFrame
    tensors: Tensors
    memory: Memory
    size: Size
    reason: DataError | None


@dataclass(frozen=True, eq=False)
class _Answer:
    job: _Job
    outputs: Outputs


class Stream:
    """Frames of one source on their way through one runner. It can be iterated over once.

    Args:
        stages: What the runner does.
        source: Gives the frames.
        waiting: How many may wait for their turn.
        keep: What happens when more come.
        stall_s: How long without a frame is "no signal".

    Raises:
        ConfigError: A figure makes no sense.
    """

    def __init__(
        self, stages: Stages, source: FrameSource, *, waiting: int, keep: Keep, stall_s: float
    ) -> None:
        if not 1 <= waiting <= WAITING_LIMIT:
            raise ConfigError(f"1 to {WAITING_LIMIT} frames may wait in a stream, not {waiting}")
        if not stall_s > 0:
            raise ConfigError(f"no signal takes a positive number of seconds, not {stall_s}")
        self._stages = stages
        self._source = source
        self._keep = keep
        self._stall_s = stall_s
        self._frames: Line[tuple[int, TimedFrame]] = Line(waiting)
        self._jobs: Line[_Job] = Line(1)
        self._answers: Line[_Answer] = Line(1)
        self._memories: Line[Memory] = Line(WAITING_LIMIT)
        self._threads: list[threading.Thread] = []
        self._failure: BaseException | None = None
        self._waits_since: float | None = None
        self._last: int | None = None
        self._has_begun = False
        self.dropped = 0

    def __iter__(self) -> Iterator[StreamEvent]:
        if self._has_begun:
            raise ConfigError("a stream can be iterated over once; open another one")
        return self._events()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def runs(self) -> bool:
        """Whether it has the runner's engine in use."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        """End the stream and wait for the inference under way; a second time does nothing.

        A source that blocks cannot be ended from outside: its thread ends with its next frame,
        or with the process.
        """
        self._has_begun = True
        for line in (self._frames, self._jobs, self._answers, self._memories):
            line.shut()
        for thread in self._threads:
            thread.join()

    def _events(self) -> Iterator[StreamEvent]:
        self._begin()
        try:
            alarm_s = self._stall_s
            while True:
                silent_s = self._silent_s()
                alarm_s = min(alarm_s, silent_s + self._stall_s)
                answer = self._answers.get(max(alarm_s - silent_s, _SOONEST_S))
                if answer is NO_MORE:
                    break
                if answer is not NOT_YET:
                    yield self._event(answer)
                elif (silent_s := self._silent_s()) >= alarm_s:
                    alarm_s = silent_s + self._stall_s
                    yield NoSignal(for_s=silent_s, last=self._last)
        finally:
            self.stop()
        if self._failure is not None:
            raise self._failure

    def _begin(self) -> None:
        engine = self._stages.lend(self)
        self._has_begun = True
        start, ahead = _starter(engine)
        # One being prepared, one waiting, and those under way, of which one may be being read.
        preparation = Preparation(self._stages.rules)
        for _ in range(ahead + 3):
            self._memories.put(preparation.new_memory())
        works = (lambda: self._prepare_all(preparation), lambda: self._infer_all(start, ahead))
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,), name="asdic-stream", daemon=True)
            for work in works
        ]
        reader = threading.Thread(target=self._read_all, name="asdic-source", daemon=True)
        for thread in (*self._threads, reader):
            thread.start()

    def _guarded(self, work: Callable[[], None]) -> None:
        """Hand what goes wrong in a thread to whoever iterates."""
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - raised again by _events
            self._failure = error
            for line in (self._frames, self._jobs, self._answers, self._memories):
                line.shut()

    def _read_all(self) -> None:
        """Wait for frames, and drop the oldest ones that nobody has time for."""
        try:
            for number, frame in enumerate(self._arrivals()):
                self._last = number
                if self._keep is Keep.ALL:
                    self._frames.put((number, frame))
                elif self._frames.put_over((number, frame)) is not None:
                    self.dropped += 1
                if self._frames.is_shut:
                    return
        except Exception as error:  # noqa: BLE001 - the source is the user's code
            self._failure = LinkError(f"the frame source failed: {error}")
            self._failure.__cause__ = error
        finally:
            self._waits_since = None
            self._frames.finish()

    def _arrivals(self) -> Iterator[TimedFrame]:
        """Yield the source's frames and note since when it is waited for."""
        self._waits_since = time.monotonic()
        for frame in self._source:
            self._waits_since = None
            yield frame
            self._waits_since = time.monotonic()

    def _silent_s(self) -> float:
        since = self._waits_since
        return 0.0 if since is None else time.monotonic() - since

    def _prepare_all(self, preparation: Preparation) -> None:
        while not isinstance(item := self._frames.get(), Nothing):
            memory = self._memories.get()
            if isinstance(memory, Nothing):
                return
            self._jobs.put(self._job(*item, preparation, memory))
        self._jobs.finish()

    def _job(
        self, number: int, frame: TimedFrame, preparation: Preparation, memory: Memory
    ) -> _Job:
        try:
            named = self._stages.named(frame.inputs)
            tensors = preparation.tensors(named, memory)
            self._stages.check(tensors)
        except DataError as error:
            return _Job(number, frame, {}, memory, None, error)
        return _Job(number, frame, tensors, memory, self._stages.size(named), None)

    def _infer_all(self, start: Starter, ahead: int) -> None:
        """Keep up to ``ahead`` inferences under way, and give their answers in order."""
        under_way: deque[tuple[_Job, Callable[[], Outputs]]] = deque()
        while (job := self._jobs.get(0.0 if under_way else None)) is not NO_MORE:
            if under_way and (job is NOT_YET or len(under_way) == ahead):
                self._give(*under_way.popleft())
            if job is not NOT_YET:
                under_way.append((job, dict if job.reason else start(job.tensors)))
        # What is under way writes to memory that must outlast it.
        for job, wait in under_way:
            self._give(job, wait)
        self._answers.finish()

    def _give(self, job: _Job, wait: Callable[[], Outputs]) -> None:
        outputs = wait()
        self._memories.put(job.memory)
        self._answers.put(_Answer(job, outputs))

    def _event(self, answer: _Answer) -> StreamEvent:
        job = answer.job
        if job.reason is not None:
            return Refused(job.number, job.frame.captured_s, job.reason, self.dropped)
        prediction = self._stages.interpret(answer.outputs, job.size)
        return Predicted(job.number, job.frame.captured_s, prediction, self.dropped)


Starter: TypeAlias = Callable[[Tensors], Callable[[], Outputs]]


def _starter(engine: Engine) -> tuple[Starter, int]:
    """Return how to start an inference, and how many may be under way."""
    if isinstance(engine, AsyncEngine):
        return engine.start, engine.ahead

    def run(tensors: Tensors) -> Callable[[], Outputs]:
        outputs = engine.run(tensors)
        return lambda: outputs

    return run, 1
