"""A folder of pictures that is played into a frame ring."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.variant import FrameFormat
from asdic.firmware_bridge.frame_writer import FrameWriter
from asdic.firmware_bridge.frames import RingReader
from asdic.firmware_bridge.playback import play, read_pictures


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "pictures"
    made.mkdir()
    for value in (10, 20, 30):
        image = np.zeros((12, 16, 3), np.uint8)
        image[..., 0] = value  # OpenCV's blue
        cv2.imwrite(str(made / f"{value}.png"), image)
    return made


def test_pictures_come_by_name_in_one_format(folder):
    frames, pictures = read_pictures(folder, height=6, width=8, channels="rgb")
    assert frames == FrameFormat(height=6, width=8, channels="rgb")
    assert [image[0, 0].tolist() for image in pictures] == [[0, 0, 10], [0, 0, 20], [0, 0, 30]]


def test_a_folder_is_played_in_turn(folder, path):
    frames, pictures = read_pictures(folder)
    with FrameWriter(path, frames) as writer, RingReader.open(path, in_order=True) as reader:
        assert play(writer, pictures, fps=1_000, count=4) == 4
        seen = [frame.pixels[0, 0] for frame in iter(reader.read, None)]
        assert seen == [pictures[n][0, 0] for n in (0, 1, 2, 0)][-len(seen) :]


def test_a_picture_that_comes_too_late_counts_as_lost(folder, path):
    frames, pictures = read_pictures(folder)
    pause = threading.Event()
    with FrameWriter(path, frames) as writer, RingReader.open(path) as reader:
        play(writer, pictures, fps=200, count=3, rest=lambda _: pause.wait(0.05) and None)
        assert reader.writer_lost >= 9


def test_playing_ends_when_it_is_told_to(folder, path):
    frames, pictures = read_pictures(folder)
    with FrameWriter(path, frames) as writer:
        assert play(writer, pictures, fps=1_000, stopped=lambda: writer.number == 2) == 2


@pytest.mark.parametrize("fps", [0, -1, float("nan"), 20_000])
def test_a_frame_rate_that_makes_no_sense_is_named(folder, path, fps):
    frames, pictures = read_pictures(folder)
    with FrameWriter(path, frames) as writer, pytest.raises(ConfigError, match="frames a second"):
        play(writer, pictures, fps=fps)


def test_a_folder_without_images_is_named(tmp_path):
    with pytest.raises(ConfigError, match="holds no images"):
        read_pictures(tmp_path)


def test_a_damaged_picture_is_named(folder):
    (folder / "40.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"40\.png is not an image"):
        read_pictures(folder)
