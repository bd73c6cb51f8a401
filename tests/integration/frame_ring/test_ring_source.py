"""Who reads a frame ring: the stream, the runner service, and the verb."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from asdic.cli.main import asdic
from asdic.contract.errors import LinkError
from asdic.contract.variant import (
    VARIANT_FILE,
    FrameFormat,
    Requirements,
    encode_variant,
    read_variant,
)
from asdic.device.runner.ring_source import RingSource, ring_named
from asdic.device.runner.runner import Runner
from asdic.device.runner.service import RunnerService
from asdic.device.runner.stream import NoSignal, Predicted, StreamEvent
from asdic.firmware_bridge.frame_writer import FrameWriter
from tests.support.desk import Desk, until
from tests.support.models import labelled_discs, make_tiny_variant
from tests.support.ring_writers import DEADLINE_S, FRAMES, opened

MAIN = "from asdic.cli.main import main; main()"


# The stream and the runner service


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    with Runner.open(make_tiny_variant(tmp_path_factory.mktemp("variant")), threads=1) as made:
        yield made


def disc() -> np.ndarray:
    return next(iter(labelled_discs(1)))[0]


def discs(path: Path) -> FrameWriter:
    height, width = disc().shape
    return FrameWriter(path, FrameFormat(height=height, width=width))


def test_a_stream_reads_a_ring_and_says_no_signal_when_the_writer_is_gone(runner, path):
    events: list[StreamEvent] = []
    with RingSource(str(path)) as source, runner.stream(source, stall_s=0.1) as stream:
        answers = iter(stream)
        assert isinstance(next(answers), NoSignal)
        assert "there is no frame ring" in source.trouble
        with discs(path) as writer:
            writer.write(disc())
            events = [first_of(answers, Predicted), next(answers), next(answers)]
        with FrameWriter(path, FrameFormat(height=40, width=50)) as writer:
            event = answer_to(writer, np.zeros((40, 50), np.uint8), answers)
    assert [type(event) for event in events] == [Predicted, NoSignal, NoSignal]
    np.testing.assert_array_equal(events[0].prediction.mask, runner.predict(disc()).mask)
    assert event.prediction.mask.shape == (40, 50)


def first_of(answers: Iterator[StreamEvent], kind: type) -> StreamEvent:
    return next(event for event in answers if isinstance(event, kind))


def answer_to(
    writer: FrameWriter, pixels: np.ndarray, answers: Iterator[StreamEvent]
) -> StreamEvent:
    writer.write(pixels)
    return first_of(answers, Predicted)


def test_a_stream_of_the_wrong_frames_ends_with_the_reason(runner, path):
    source = RingSource(str(path), required=FRAMES)
    expected = pytest.raises(LinkError, match="the model needs 512 x 512 uint8 grey")
    with discs(path), runner.stream(source) as stream, source, expected:
        list(stream)


def test_a_damaged_ring_is_trouble_and_is_left_for_the_next_one(path):
    with RingSource(str(path)) as source:
        path.write_bytes(b"ASDICRNG" + bytes(5_000))
        assert source.next(0.01) is None
        assert "has layout 0" in source.trouble or "byte order" in source.trouble
        with discs(path) as writer:
            writer.write(disc())
            assert source.next(DEADLINE_S) is not None
        assert source.trouble == ""


def test_a_source_counts_what_it_did_not_give_through_all_rings(path):
    with RingSource(str(path)) as source:
        for side in (16, 24):
            with FrameWriter(path, FrameFormat(height=side, width=side)) as writer:
                writer.write(np.zeros((side, side), np.uint8))
                assert source.next(DEADLINE_S) is not None
                for _ in range(3):
                    writer.write(np.zeros((side, side), np.uint8))
                assert source.next(DEADLINE_S) is not None
        assert source.lost == 4


def make_demanding_variant(frames: FrameFormat) -> Callable[[Path], object]:
    """Return what makes a variant that needs such frames."""

    def make(folder: Path) -> None:
        variant = read_variant(make_tiny_variant(folder))
        demanding = msgspec.structs.replace(variant, requires=Requirements(frames=frames))
        (folder / VARIANT_FILE).write_bytes(encode_variant(demanding))

    return make


@contextmanager
def service(state: Path, ring: Path) -> Iterator[RingSource]:
    """Run the runner service on a ring."""
    source = ring_named(f"ring:{ring}")
    assert source is not None
    stop = threading.Event()
    made = RunnerService(
        state, simulate=False, images=(), fps=1_000, stopped=stop.is_set, ring=source
    )
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield source
    finally:
        stop.set()
        thread.join()


def test_the_runner_service_infers_what_the_ring_carries_and_nothing_else(tmp_path, path):
    height, width = disc().shape
    with Desk(tmp_path) as desk, service(tmp_path, path), discs(path) as writer:
        desk.add("1.0.0", make_demanding_variant(FrameFormat(height=height, width=width)))
        desk.point("1.0.0")
        until(lambda: desk.program.health is not None)
        assert desk.loaded is None
        until(lambda: writer.write(disc()) and desk.loaded is not None)
        inferences = desk.loaded.inferences
        assert inferences <= writer.number


def test_the_runner_service_refuses_a_release_that_needs_other_frames(tmp_path, path):
    with Desk(tmp_path) as desk, discs(path), service(tmp_path, path):
        desk.add("1.0.0", make_demanding_variant(FRAMES))
        desk.point("1.0.0")
        until(lambda: desk.program.health is not None and desk.program.health.errors > 0)
        assert "the model needs 512 x 512 uint8 grey" in desk.program.health.reason


# The verb


def test_a_folder_is_played_and_looked_at(tmp_path, path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((20, 30), np.uint8))
    words = ["frames", "play", tmp_path, "--ring", path, "--fps", "200"]
    player = subprocess.Popen([sys.executable, "-c", MAIN, *words], stdout=subprocess.PIPE)
    try:
        opened(path).close()
        done = CliRunner().invoke(asdic, ["frames", "show", str(path), "--seconds", "0.3"])
    finally:
        player.terminate()
        said, _ = player.communicate(timeout=DEADLINE_S)
    assert "20 x 30 uint8 grey, 8 slots" in done.output
    assert "frames a second; ready after" in done.output
    assert b"frames were played into" in said
