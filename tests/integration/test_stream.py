"""Streams through real runtimes: order, dropping, silence, ends, and who may use the runner."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from asdic.contract.errors import ConfigError, DataError, LinkError, ReleaseError
from asdic.contract.target import Runtime
from asdic.contract.variant import ImageInput, MaskOutput
from asdic.device.runner.engine import AsyncEngine, open_engine
from asdic.device.runner.runner import Runner
from asdic.device.runner.stream import (
    Keep,
    NoSignal,
    Predicted,
    Refused,
    StreamEvent,
    TimedFrame,
)
from tests.support.models import labelled_discs, make_tiny_variant

DEADLINE_S = 20.0
FRAMES = [image for image, _ in labelled_discs(12)]
TARGETS = ("x86-openvino-int8", "jetson-orin-int8")


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variants")
    for target in TARGETS:
        make_tiny_variant(folder / target, target=target)
    return folder


@pytest.fixture(params=TARGETS)
def runner(variants: Path, request: pytest.FixtureRequest) -> Iterator[Runner]:
    simulate = request.param.startswith("jetson")
    with Runner.open(variants / request.param, simulate=simulate, threads=1) as runner:
        yield runner


@pytest.fixture
def openvino(variants: Path) -> Iterator[Runner]:
    with Runner.open(variants / TARGETS[0], threads=1) as runner:
        yield runner


def timed(frames: list[np.ndarray]) -> list[TimedFrame]:
    return [TimedFrame(image, float(number)) for number, image in enumerate(frames)]


class Camera:
    """Gives a frame whenever a test lets it, and ends when told to."""

    def __init__(self) -> None:
        self._next = threading.Semaphore(0)
        self.given = 0
        self.is_over = False

    def __iter__(self) -> Iterator[TimedFrame]:
        while self._next.acquire() and not self.is_over:
            self.given += 1
            yield TimedFrame(FRAMES[self.given % len(FRAMES)], time.monotonic())

    def give(self, count: int = 1) -> None:
        self._next.release(count)

    def end(self) -> None:
        self.is_over = True
        self._next.release()


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not holds():
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)


def predicted(events: list[StreamEvent]) -> list[Predicted]:
    assert all(isinstance(event, Predicted) for event in events)
    return [event for event in events if isinstance(event, Predicted)]


def test_a_file_gives_every_answer_in_order_and_as_predict_does(runner):
    events = predicted(list(runner.stream(timed(FRAMES), keep=Keep.ALL)))
    assert [event.number for event in events] == list(range(len(FRAMES)))
    assert [event.captured_s for event in events] == [float(n) for n in range(len(FRAMES))]
    assert {event.dropped for event in events} == {0}
    for event, image in zip(events, FRAMES, strict=True):
        expected = runner.predict(image)
        assert event.prediction.tensors["logits"].tobytes() == expected.tensors["logits"].tobytes()
        np.testing.assert_array_equal(event.prediction.mask, expected.mask)


def test_frames_of_many_sizes_do_not_mix(runner):
    sizes = [(32, 40), (64, 64), (20, 50), (32, 32), (90, 70)]
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, sizes[n % 5], np.uint8) for n in range(15)]
    events = predicted(list(runner.stream(timed(images), keep=Keep.ALL)))
    for event, image in zip(events, images, strict=True):
        np.testing.assert_array_equal(event.prediction.mask, runner.predict(image).mask)


def test_a_slow_reader_gets_the_newest_frames_and_the_count_of_the_others(runner):
    camera = Camera()
    with runner.stream(camera, waiting=2) as stream:
        events = iter(stream)
        camera.give()
        first = next(events)
        camera.give(100)
        until(lambda: camera.given == 101)
        camera.end()
        rest = predicted(list(events))
    numbers = [event.number for event in rest]
    assert isinstance(first, Predicted)
    assert numbers == sorted(set(numbers))
    assert numbers[-2:] == [99, 100]
    assert stream.dropped == 100 - len(rest) > 80
    assert rest[-1].dropped == stream.dropped


def test_a_source_that_ends_ends_the_stream(runner):
    assert list(runner.stream([])) == []
    assert runner.predict(FRAMES[0]).mask.any()


def test_silence_is_said_again_and_again_and_no_answer_is_repeated(openvino):
    camera = Camera()
    with openvino.stream(camera, stall_s=0.05) as stream:
        events = iter(stream)
        camera.give()
        assert isinstance(next(events), Predicted)
        silent = [next(events), next(events)]
        camera.give()
        after = next(event for event in events if not isinstance(event, NoSignal))
    assert all(isinstance(event, NoSignal) and event.last == 0 for event in silent)
    assert 0.05 <= silent[0].for_s < silent[1].for_s
    assert isinstance(after, Predicted)
    assert after.number == 1


def test_a_source_that_never_starts_is_no_signal(openvino):
    with openvino.stream(Camera(), stall_s=0.02) as stream:
        event = next(iter(stream))
    assert isinstance(event, NoSignal)
    assert event.last is None


def test_a_slow_model_is_no_lost_signal(openvino):
    """Frames that wait to be taken are no silence of the source."""
    events = iter(openvino.stream(timed(FRAMES), keep=Keep.ALL, stall_s=0.01))
    first = next(events)
    threading.Event().wait(0.05)
    assert all(isinstance(event, Predicted) for event in (first, *events))


def test_a_source_that_fails_is_said_after_its_last_answer(openvino):
    def broken() -> Iterator[TimedFrame]:
        yield from timed(FRAMES[:2])
        raise ValueError("cable out")

    events = iter(openvino.stream(broken(), keep=Keep.ALL))
    assert [next(events).number, next(events).number] == [0, 1]
    with pytest.raises(LinkError, match="frame source failed: cable out"):
        next(events)
    assert openvino.predict(FRAMES[0]).mask.any()


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (np.zeros((32, 40), np.float32), "uint8"),
        (np.zeros((32, 40, 4), np.uint8), r"\(H, W, 3\)"),
        (np.zeros((0, 40), np.uint8), "1 to 16384 pixels"),
        ({"other": np.zeros((32, 40), np.uint8)}, "takes the inputs"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused_in_its_place(openvino, frame, message):
    source = [*timed(FRAMES[:1]), TimedFrame(frame, 1.0), *timed(FRAMES[2:3])]
    events = list(openvino.stream(source, keep=Keep.ALL))
    assert [type(event) for event in events] == [Predicted, Refused, Predicted]
    assert [event.number for event in events] == [0, 1, 2]
    with pytest.raises(DataError, match=message):
        raise events[1].reason


def test_an_answer_that_does_not_fit_its_rule_ends_the_stream(variants):
    engine = open_engine(Runtime.OPENVINO, [variants / TARGETS[0] / "model.xml"], threads=1)
    rules = [MaskOutput(tensor="logits", activation="softmax")]
    with (
        Runner(
            engine,
            preprocessing=[ImageInput(tensor="image", height=32, width=32)],
            postprocessing=rules,
        ) as runner,
        pytest.raises(ReleaseError, match="does not fit softmax"),
    ):
        list(runner.stream(timed(FRAMES), keep=Keep.ALL))


def test_a_runner_that_streams_does_nothing_else(openvino):
    camera = Camera()
    other = openvino.stream(camera)
    with openvino.stream(camera) as stream:
        camera.give()
        events = iter(stream)
        next(events)
        with pytest.raises(ConfigError, match="streams"):
            openvino.predict(FRAMES[0])
        with pytest.raises(ConfigError, match="streams"):
            next(iter(other))
    assert openvino.predict(FRAMES[0]).mask.any()


def test_leaving_the_loop_gives_the_runner_back(openvino):
    for event in openvino.stream(timed(FRAMES), keep=Keep.ALL):
        assert isinstance(event, Predicted)
        break
    assert openvino.predict(FRAMES[0]).mask.any()


def test_closing_the_runner_ends_its_stream(variants):
    runner = Runner.open(variants / TARGETS[0], threads=1)
    camera = Camera()
    stream = runner.stream(camera)
    events = iter(stream)
    camera.give()
    next(events)
    runner.close()
    assert list(events) == []
    with pytest.raises(ConfigError, match="closed"):
        runner.stream(camera)


def test_no_thread_is_left_when_a_stream_ends(openvino):
    before = set(threading.enumerate())
    list(openvino.stream(timed(FRAMES), keep=Keep.ALL))
    until(lambda: set(threading.enumerate()) <= before)


def test_a_stream_is_read_once(openvino):
    stream = openvino.stream(timed(FRAMES))
    list(stream)
    with pytest.raises(ConfigError, match="once"):
        iter(stream)


@pytest.mark.parametrize(
    ("figures", "message"),
    [({"waiting": 0}, "frames may wait"), ({"stall_s": 0.0}, "positive"),
     ({"stall_s": float("nan")}, "positive")],
)  # fmt: skip
def test_figures_that_make_no_sense_are_refused(openvino, figures, message):
    with pytest.raises(ConfigError, match=message):
        openvino.stream([], **figures)


def test_openvino_infers_ahead_and_others_do_not(variants):
    openvino = open_engine(Runtime.OPENVINO, [variants / TARGETS[0] / "model.xml"], threads=1)
    assert isinstance(openvino, AsyncEngine)
    assert openvino.ahead == 2
    openvino.close()
