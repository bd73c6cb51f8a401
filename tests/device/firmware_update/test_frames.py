"""A release that needs frames of a format, and the ring that brings them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from asdic.contract.messages import UpdateState
from asdic.contract.variant import FrameFormat
from asdic.firmware_bridge.frame_writer import FrameWriter
from tests.support.boards import FIRST, digest_of_image
from tests.support.dock import Dock, docked
from tests.support.firmware_yard import LARGE, MORE, SMALL, Cable
from tests.support.yard import Yard

Frames = Callable[[FrameFormat], None]


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    return tmp_path / "ring"


@pytest.fixture
def play(ring: Path) -> Iterator[Frames]:
    """Returns what begins to write frames of a format, in the place of others."""
    stop = threading.Event()
    threads: list[threading.Thread] = []

    def write(frames: FrameFormat) -> None:
        with FrameWriter(ring, frames, slots=4) as writer:
            pixels = np.zeros((frames.height, frames.width), np.uint8)
            while not stop.wait(0.01):
                writer.write(pixels, time.monotonic())

    def begin(frames: FrameFormat) -> None:
        end()
        stop.clear()
        threads.append(threading.Thread(target=write, args=(frames,)))
        threads[-1].start()

    def end() -> None:
        stop.set()
        for thread in threads:
            thread.join()

    yield begin
    end()


@pytest.fixture
def with_ring(yard: Yard, cable: Cable, ring: Path, tmp_path: Path) -> Iterator[Dock]:
    with docked(Dock(yard, tmp_path, open_link=cable.opened, ring=ring)) as made:
        made.install("1.0.0")
        yield made


def test_a_ring_that_carries_other_frames_is_a_refusal(with_ring: Dock, play: Frames) -> None:
    play(LARGE)
    with_ring.install("3.3.0")
    assert (with_ring.state, with_ring.code) == (UpdateState.REJECTED, "wrong-frames")
    assert with_ring.reason == (
        "the model needs frames of 8 x 16 uint8 grey, the ring carries 16 x 16 uint8 grey"
    )


def test_a_ring_that_is_not_there_yet_is_waited_for(with_ring: Dock, play: Frames) -> None:
    with_ring.offer("3.3.0")
    with_ring.until(lambda: with_ring.update._work.visit.trouble is not None)
    assert with_ring.state is UpdateState.OFFERED
    play(SMALL)
    with_ring.until_over()
    assert with_ring.current == "3.3.0", with_ring.reason


def test_a_ring_that_never_comes_is_named(with_ring: Dock) -> None:
    with_ring.offer("3.3.0")
    with_ring.until(lambda: with_ring.update._work.visit.trouble is not None)
    with_ring.go_on(130.0)
    assert (with_ring.state, with_ring.code) == (UpdateState.FAILED, "frames-silent")


def test_new_firmware_is_kept_once_frames_of_its_format_came(
    with_ring: Dock, cable: Cable, play: Frames
) -> None:
    play(SMALL)
    with_ring.offer("2.1.0")
    with_ring.until_state(UpdateState.PROBATION)
    play(LARGE)
    with_ring.until_over()
    assert with_ring.current == "2.1.0", with_ring.reason
    assert cable.board.lasting == digest_of_image(MORE)


@pytest.mark.parametrize(("frames", "code"), [(SMALL, "wrong-frames"), (None, "frames-silent")])
def test_new_firmware_without_its_frames_goes_back(
    with_ring: Dock, cable: Cable, play: Frames, frames: FrameFormat | None, code: str
) -> None:
    if frames is not None:
        play(frames)
    with_ring.offer("2.1.0")
    with_ring.until_state(UpdateState.PROBATION)
    with_ring.until(lambda: with_ring.update._work.visit.trouble is not None)
    with_ring.go_on(200.0)
    with_ring.until_over()
    assert (with_ring.code, with_ring.current) == (code, "1.0.0")
    assert cable.board.lasting == digest_of_image(FIRST)
