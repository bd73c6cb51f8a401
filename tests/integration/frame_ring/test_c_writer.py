"""The writer in C: what compilers and sanitizers say of it, and what it does with other rings."""

from __future__ import annotations

import numpy as np
import pytest

from asdic.contract.variant import FrameFormat
from asdic.firmware_bridge.frame_writer import FrameWriter
from asdic.firmware_bridge.frames import RingReader
from tests.support.ring_writers import (
    FRAMES,
    STRICT,
    WARNINGS,
    compiled,
    is_pattern,
    next_frame,
    ran,
)


@pytest.mark.parametrize("language", STRICT)
def test_a_strict_compiler_says_nothing(language, tmp_path, path):
    program = compiled(tmp_path, *STRICT[language], *WARNINGS)
    assert ran(program, path, 512, 512, 0, 3).returncode == 0
    with RingReader.open(path) as reader:
        assert is_pattern(next_frame(reader).pixels, 2)


def test_the_watched_writer_touches_nothing_but_its_ring(watched, path):
    for words in ((33, 17, 0, 100), (33, 17, 0, 100), (34, 17, 0, 100), (512, 512, 0, 100)):
        assert ran(watched, path, *words).stderr == ""
    with RingReader.open(path) as reader:
        assert (reader.generation, reader.written) == (3, 100)


def test_the_watched_writer_outlives_every_damaged_header(watched, path):
    ran(watched, path, 4, 4, 0, 3)
    sound = path.read_bytes()
    chance = np.random.default_rng(0)
    for _ in range(40):
        damaged = bytearray(sound)
        damaged[chance.integers(8, 96)] ^= 1 << int(chance.integers(8))
        path.write_bytes(damaged[: int(chance.choice([8, 95, 200, len(damaged)]))])
        assert ran(watched, path, 4, 4, 0, 2).stderr == ""
        with RingReader.open(path) as reader:
            assert next_frame(reader).number == 1


def test_c_goes_on_in_a_ring_of_python_and_python_in_one_of_c(pattern, path):
    frames = FrameFormat(height=16, width=24)
    with FrameWriter(path, frames) as writer:
        writer.write(np.zeros((16, 24), np.uint8))
    assert ran(pattern, path, 16, 24, 0, 5).returncode == 0
    with FrameWriter(path, frames) as writer, RingReader.open(path) as reader:
        assert (writer.number, reader.generation) == (6, 1)
        assert is_pattern(next_frame(reader).pixels, 5)


def test_the_c_writer_replaces_nothing_but_rings(watched, path):
    path.write_text("the only copy of something")
    done = ran(watched, path, 8, 8, 0, 1)
    assert (done.returncode, done.stderr) == (
        1,
        f"{path}: the file is not a frame ring; remove it\n",
    )
    assert path.read_text() == "the only copy of something"


@pytest.mark.parametrize("words", [(0, 8), (8, 16_385), (16_384, 16_384)])
def test_the_c_writer_names_what_no_ring_can_be(watched, path, words):
    done = ran(watched, path, *words, 0, 1)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert not path.exists()


def test_the_c_writer_is_the_only_one(pattern, path):
    with FrameWriter(path, FRAMES):
        assert "another process writes the ring" in ran(pattern, path, 512, 512, 0, 1).stderr
