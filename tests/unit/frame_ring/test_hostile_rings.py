"""Damaged and hostile frame rings: what is refused, and what a writer may replace."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asdic.contract.errors import ConfigError, LinkError
from asdic.contract.variant import FrameFormat
from asdic.firmware_bridge.frame_writer import FrameWriter
from asdic.firmware_bridge.frames import RingReader
from asdic.firmware_bridge.ring import SHARED_MEMORY, NoRingError, boot_number, ring_path
from asdic.firmware_bridge.ring_layout import (
    SEQUENCE,
    WRITTEN,
    DamagedRingError,
    RingHeader,
    format_id,
    parse_header,
)
from tests.support.small_rings import FRAMES, SLOTS, spoiled, write


def test_every_damaged_byte_of_a_header_is_refused():
    header = RingHeader(FRAMES, SLOTS, 1, boot_number())
    data = header.packed()
    assert parse_header(data, ring_bytes=header.ring_bytes, what="it") == header
    for place in range(len(data)):
        for flip in (0x01, 0x80, 0xFF):
            damaged = bytearray(data)
            damaged[place] ^= flip
            with pytest.raises(DamagedRingError):
                parse_header(bytes(damaged), ring_bytes=header.ring_bytes, what="it")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_ring_or_a_clear_error(data):
    with pytest.raises(DamagedRingError):
        parse_header(b"ASDICRNG" + data, ring_bytes=4096, what="it")


@pytest.mark.parametrize("size", [0, 7, 95, 4096, 5000])
def test_a_ring_that_was_cut_short_is_refused(path, writer, size):
    os.truncate(path, size)
    with pytest.raises(DamagedRingError):
        RingReader.open(path)


def test_a_ring_that_is_longer_than_it_says_is_refused(path, writer):
    os.truncate(path, path.stat().st_size + 64)
    with pytest.raises(DamagedRingError, match="its header tells of"):
        RingReader.open(path)


def test_a_file_that_is_too_large_is_refused_before_it_is_mapped(path, writer):
    os.truncate(path, 2 << 30)
    with pytest.raises(DamagedRingError, match="no frame ring"):
        RingReader.open(path)


def test_a_ring_of_a_later_layout_is_named(path, writer):
    with path.open("r+b") as file:
        file.seek(8)
        file.write(struct.pack("=I", 2))
    with pytest.raises(DamagedRingError, match="has layout 2, this asdic reads 1"):
        RingReader.open(path)


def test_a_ring_of_another_byte_order_is_named(path, writer):
    with path.open("r+b") as file:
        file.seek(12)
        file.write(bytes(reversed(struct.pack("=I", 0x01020304))))
    with pytest.raises(DamagedRingError, match="byte order"):
        RingReader.open(path)


def test_a_ring_from_before_the_machine_was_started_is_refused(path):
    header = RingHeader(FRAMES, SLOTS, 1, boot_number() ^ 1)
    path.write_bytes(header.packed().ljust(header.ring_bytes, b"\0"))
    with pytest.raises(DamagedRingError, match="before this start of the machine"):
        RingReader.open(path)
    with FrameWriter(path, FRAMES, slots=SLOTS) as writer, RingReader.open(path) as reader:
        write(writer, 1)
        assert reader.read() is not None


@pytest.mark.parametrize("written", [0, 1, 6, 1 << 63, (1 << 64) - 1])
def test_a_count_of_frames_that_cannot_be_is_an_error(path, writer, reader, written):
    write(writer, 1, 2)
    assert reader.read() is not None
    spoiled(path, WRITTEN, written)
    with pytest.raises(DamagedRingError):
        reader.read()


def test_a_slot_that_holds_another_frame_is_an_error(path, writer, reader):
    write(writer, 1)
    spoiled(path, 4096 // 8 + SEQUENCE, 77)
    with pytest.raises(DamagedRingError, match="frame 0 is not in its slot"):
        reader.read()


WORDS = [
    *range(WRITTEN, WRITTEN + 3),
    *((4096 + slot * 128) // 8 + n for slot in (0, 1) for n in range(4)),
]


@given(st.lists(st.tuples(st.sampled_from(WORDS), st.integers(0, 2**64 - 1)), max_size=6))
def test_whatever_the_words_say_a_reader_stays_within_the_ring(tmp_path_factory, changes):
    path = tmp_path_factory.mktemp("hostile") / "ring"
    with FrameWriter(path, FRAMES, slots=2) as writer:
        write(writer, 1, 2, 3)
    with RingReader.open(path, in_order=True) as reader:
        for word, value in changes:
            spoiled(path, word, value)
        try:
            frame = reader.read()
        except LinkError:
            return
        assert frame is None or frame.pixels.shape == (6, 8)


def test_there_is_no_ring_yet(path):
    with pytest.raises(NoRingError, match="there is no frame ring"):
        RingReader.open(path)


def test_a_link_is_not_followed(path, writer, tmp_path):
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ConfigError, match="cannot open"):
        RingReader.open(tmp_path / "link")


def test_a_pipe_is_not_a_ring(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DamagedRingError, match="is not a frame ring"):
        RingReader.open(tmp_path / "pipe")


def test_a_ring_that_anyone_may_write_is_refused(path, writer):
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="chmod o-w"):
        RingReader.open(path)


def test_a_strangers_ring_in_a_folder_for_all_is_refused(tmp_path, path, writer):
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, -1)
    RingReader.open(path).close()
    tmp_path.chmod(0o1777)
    with pytest.raises(ConfigError, match="belongs to user 12345"):
        RingReader.open(path)


def test_a_writer_replaces_a_damaged_ring(path, writer):
    writer.close()
    with path.open("r+b") as file:
        file.seek(40)
        file.write(b"\xff" * 20)
    with FrameWriter(path, FRAMES, slots=SLOTS) as second, RingReader.open(path) as reader:
        write(second, 4)
        assert reader.read().pixels.max() == 4


def test_a_writer_replaces_nothing_but_rings(path):
    path.write_text("the only copy of something")
    with pytest.raises(DamagedRingError, match="is not a frame ring"):
        FrameWriter(path, FRAMES)
    assert path.read_text() == "the only copy of something"


@pytest.mark.parametrize(
    ("frames", "slots", "why"),
    [
        (FrameFormat(height=0, width=8), 4, "height is 1 to 16384"),
        (FrameFormat(height=8, width=16_385), 4, "width is 1 to 16384"),
        (FrameFormat(height=8, width=8, dtype="complex64"), 4, "not 'complex64'"),
        (FrameFormat(height=8, width=8, channels="bgr"), 4, "grey, rgb, not 'bgr'"),
        (FrameFormat(height=8, width=8, scale=0.0), 4, "positive number"),
        (FrameFormat(height=8, width=8, scale=float("nan")), 4, "positive number"),
        (FRAMES, 1, "2 to 1024 slots"),
        (FRAMES, 1_025, "2 to 1024 slots"),
        (FrameFormat(height=16_384, width=16_384), 4, "a ring has 1024 at most"),
    ],
)
def test_what_no_ring_can_be_is_named(path, frames, slots, why):
    with pytest.raises(ConfigError, match=why):
        FrameWriter(path, frames, slots=slots)
    assert not path.exists()


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot lock"):
        FrameWriter(tmp_path / "missing" / "ring", FRAMES)


@pytest.mark.parametrize("name", ["", "..", ".hidden", "a b", "x" * 65])
def test_a_name_is_plain(name):
    with pytest.raises(ConfigError, match="cannot name a frame ring"):
        ring_path(name)


def test_a_name_lies_in_shared_memory_and_a_path_where_it_says():
    assert ring_path("probe") == SHARED_MEMORY / "asdic-probe"
    assert ring_path("/run/acquisition/probe") == Path("/run/acquisition/probe")


def test_formats_have_ids():
    other = FrameFormat(height=8, width=6)
    assert format_id(FRAMES) == format_id(FrameFormat(height=6, width=8))
    assert format_id(FRAMES) != format_id(other)
