"""Where the frames of a benchmark come from, and what happens when they stop coming."""

from __future__ import annotations

import itertools
import queue
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from asdic.contract.errors import ConfigError, LinkError
from asdic.contract.variant import ImageInput
from asdic.device.runner.golden import Inputs, read_golden
from asdic.device.runner.runner import Runner

STALL_S: Final = 5.0
FRAMES_LIMIT: Final = 64
_AHEAD: Final = 4


class FramesEndedError(LinkError):
    """The frame source has no more frames, or stalled; what was measured so far is kept."""


class FrameSource(Protocol):
    """Gives the next frame: an image, or arrays by the tensor's name."""

    def next_frame(self) -> Inputs:
        """Return the next frame.

        Raises:
            FramesEndedError: There are no more, or none came in time.
        """


class RepeatedFrames:
    """Frames in memory, in turn, without end."""

    def __init__(self, frames: Sequence[Inputs]) -> None:
        if not frames:
            raise ConfigError("a benchmark needs at least one frame")
        self._frames = itertools.cycle(frames)

    def next_frame(self) -> Inputs:
        """Return the next frame."""
        return next(self._frames)


class LiveFrames:
    """Frames from an iterable that may be slow, stall, end or fail, such as a camera.

    A thread keeps a few ready, so that waiting for a frame has an end.
    """

    def __init__(self, frames: Iterable[Inputs], *, stall_s: float = STALL_S) -> None:
        self._frames = iter(frames)
        self._stall_s = stall_s
        self._ready: queue.Queue[Inputs | FramesEndedError] = queue.Queue(maxsize=_AHEAD)
        self._end: FramesEndedError | None = None
        threading.Thread(target=self._fill, daemon=True, name="asdic-frames").start()

    def next_frame(self) -> Inputs:
        """Return the next frame, waiting for at most ``stall_s`` seconds."""
        if self._end is not None:
            raise self._end
        try:
            found = self._ready.get(timeout=self._stall_s)
        except queue.Empty:
            self._end = FramesEndedError(f"the frame source gave nothing for {self._stall_s:g} s")
            raise self._end from None
        if isinstance(found, FramesEndedError):
            self._end = found
            raise found
        return found

    def _fill(self) -> None:
        try:
            for frame in self._frames:
                self._ready.put(frame)
            end = FramesEndedError("the frame source ended")
        except Exception as error:  # noqa: BLE001 - a source is the user's code; it is told below
            end = FramesEndedError(f"the frame source failed: {error}")
        self._ready.put(end)


def frames_for(runner: Runner, folder: Path) -> RepeatedFrames:
    """Return the golden inputs, which are real ones, or else noise of the right shape."""
    if runner.variant is None or runner.variant.golden is None:
        return RepeatedFrames([_noise(runner)])
    samples = read_golden(folder / runner.variant.golden.file.name)
    return RepeatedFrames([sample.inputs for sample in samples[:FRAMES_LIMIT]])


def read_frames(paths: Sequence[Path]) -> RepeatedFrames:
    """Return the images at ``paths``, read now, so that no disk is measured.

    Raises:
        ConfigError: There are none.
        DataError: One is not an image.
    """
    from asdic.device.runner.frames import read_image

    return RepeatedFrames([read_image(path) for path in paths[:FRAMES_LIMIT]])


def _noise(runner: Runner) -> Inputs:
    random = np.random.default_rng(0)
    shapes = {spec.name: spec.shape for spec in runner.inputs}
    return {
        rule.tensor: (
            random.integers(0, 256, (rule.height, rule.width), np.uint8)
            if isinstance(rule, ImageInput)
            else random.standard_normal(shapes[rule.tensor]).astype(np.float32)
        )
        for rule in runner.preprocessing
    }
