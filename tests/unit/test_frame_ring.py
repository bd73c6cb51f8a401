"""The frame ring in one process: what is given, what is counted, and what is refused."""

from __future__ import annotations

import os
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asdic.contract.errors import ConfigError, DataError, LinkError
from asdic.contract.variant import FrameFormat
from asdic.firmware_bridge.frame_writer import FrameWriter
from asdic.firmware_bridge.frames import FormatChangedError, FrameOverwrittenError, RingReader
from asdic.firmware_bridge.playback import play, read_pictures
from asdic.firmware_bridge.rhythm import LONGEST_NAP_NS, NAP_NS, Rhythm
from asdic.firmware_bridge.ring import (
    SHARED_MEMORY,
    NoRingError,
    boot_number,
    open_ring,
    ring_lock,
    ring_path,
)
from asdic.firmware_bridge.ring_layout import (
    SEQUENCE,
    WRITTEN,
    DamagedRingError,
    RingHeader,
    format_id,
    parse_header,
)
from asdic.firmware_bridge.survey import survey

FRAMES = FrameFormat(height=6, width=8)
SLOTS = 4
MS = 1_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ring"


@pytest.fixture
def writer(path: Path) -> Iterator[FrameWriter]:
    with FrameWriter(path, FRAMES, slots=SLOTS) as made:
        yield made


@pytest.fixture
def reader(writer: FrameWriter, path: Path) -> Iterator[RingReader]:
    with RingReader.open(path) as made:
        yield made


@pytest.fixture
def in_order(writer: FrameWriter, path: Path) -> Iterator[RingReader]:
    with RingReader.open(path, in_order=True) as made:
        yield made


def picture(value: int, frames: FrameFormat = FRAMES) -> np.ndarray:
    return np.full((frames.height, frames.width), value, frames.dtype)


def write(writer: FrameWriter, *values: int) -> None:
    for value in values:
        writer.write(picture(value))


def spoiled(path: Path, word: int, value: int) -> None:
    """Store a word as a faulty writer would."""
    open_ring(path, writable=True).words.store(word, value)


# What a reader gets


def test_a_frame_is_what_was_written(writer, reader):
    number = writer.write(picture(7))
    frame = reader.read()
    assert (frame.number, frame.lost, frame.writer_lost) == (number, 0, 0)
    assert frame.pixels.tolist() == picture(7).tolist()
    assert 0 <= time.monotonic() - frame.captured_s < 60


def test_a_frame_is_given_once(writer, reader):
    write(writer, 1)
    assert reader.read() is not None
    assert reader.read() is None


def test_an_empty_ring_gives_nothing(reader):
    assert reader.read() is None


def test_pixels_lie_in_the_ring_and_cannot_be_written(writer, reader):
    write(writer, 1, 2)
    frame = reader.read()
    assert np.shares_memory(frame.pixels, frame.ring.pixels[frame.number % SLOTS])
    assert not frame.pixels.flags.writeable


def test_colors_have_a_third_axis(path):
    frames = FrameFormat(height=5, width=4, dtype="float32", channels="rgb", scale=0.5)
    with FrameWriter(path, frames) as writer, RingReader.open(path) as reader:
        writer.write(np.ones((5, 4, 3), np.float32))
        assert reader.frames == frames
        assert reader.read().pixels.shape == (5, 4, 3)


def test_the_newest_frame_is_given_and_the_others_are_counted(writer, reader):
    write(writer, 1, 2, 3)
    frame = reader.read()
    assert (frame.number, frame.lost, reader.lost) == (2, 2, 2)


def test_in_order_every_frame_that_is_still_there_is_given(writer, in_order):
    write(writer, 1, 2, 3)
    assert [in_order.read().number for _ in range(3)] == [0, 1, 2]
    assert in_order.lost == 0


def test_a_slow_reader_in_order_knows_how_many_it_lost(writer, in_order):
    write(writer, *range(10))
    first = in_order.read()
    # Of four slots, one may be being written.
    assert (first.number, first.lost) == (7, 7)
    assert [in_order.read().lost for _ in range(2)] == [0, 0]
    assert in_order.lost == 7


def test_two_readers_count_for_themselves(writer, reader, in_order):
    write(writer, 1, 2, 3)
    assert in_order.read().number == 0
    assert (reader.read().number, reader.lost, in_order.lost) == (2, 2, 0)


def test_a_late_reader_begins_with_the_newest_frame_and_has_lost_none(writer, path):
    write(writer, *range(10))
    with RingReader.open(path) as reader:
        assert (reader.read().number, reader.lost) == (9, 0)


def test_what_the_writer_lost_is_told_with_the_next_frame(writer, reader):
    writer.count_lost(3)
    write(writer, 1)
    assert (reader.read().writer_lost, reader.writer_lost) == (3, 3)


# A view is watched, or copied


def test_a_view_is_intact_until_the_writer_comes_round(writer, reader):
    write(writer, 1)
    frame = reader.read()
    write(writer, *range(SLOTS - 1))
    assert frame.is_intact()
    writer.begin()
    assert not frame.is_intact()


def test_a_copy_stays(writer, reader):
    write(writer, 1)
    copied = reader.read().copy()
    write(writer, *range(2, 2 + SLOTS))
    assert copied.tolist() == picture(1).tolist()


def test_a_copy_of_an_overwritten_frame_is_refused(writer, reader):
    write(writer, 1)
    frame = reader.read()
    write(writer, *range(SLOTS))
    with pytest.raises(FrameOverwrittenError, match="frame 0 was overwritten"):
        frame.copy()


def test_a_frame_outlives_its_reader(writer, path):
    write(writer, 9)
    with RingReader.open(path) as reader:
        frame = reader.read()
    assert frame.is_intact()
    assert frame.pixels.max() == 9
    with pytest.raises(ConfigError, match="closed"):
        reader.read()


# Stale is no signal


def test_a_stale_frame_is_never_given(writer, reader):
    writer.write(picture(1), captured_s=time.monotonic() - 3.0)
    assert reader.read() is None
    assert reader.lost == 1
    write(writer, 2)
    assert (reader.read().lost, reader.lost) == (1, 1)


def test_a_reader_that_comes_late_gets_no_frame_of_a_writer_that_is_gone(path):
    with FrameWriter(path, FRAMES) as writer:
        writer.write(picture(1), captured_s=time.monotonic() - 60.0)
    with RingReader.open(path) as reader:
        assert reader.wait(0.0) is None
        assert reader.lost == 0


def test_stale_frames_in_order_are_passed_over_to_the_first_fresh_one(writer, in_order):
    for age_s in (9.0, 8.0, 0.0):
        writer.write(picture(1), captured_s=time.monotonic() - age_s)
    frame = in_order.read()
    assert (frame.number, frame.lost, in_order.lost) == (2, 2, 2)


def test_silence_is_told(writer, reader):
    before = time.monotonic()
    write(writer, 1)
    reader.read()
    assert reader.silent_s <= time.monotonic() - before


def test_a_wait_ends_with_its_time(reader):
    assert reader.wait(0.01) is None


def test_a_wait_is_ended_by_a_frame(writer, reader):
    timer = threading.Timer(0.02, write, (writer, 5))
    timer.start()
    assert reader.wait(20.0).pixels.max() == 5
    timer.join()


def test_a_time_that_is_not_the_monotonic_clocks_is_named(writer, reader):
    writer.write(picture(1), captured_s=time.time() + time.monotonic())
    with pytest.raises(DamagedRingError, match="CLOCK_MONOTONIC"):
        reader.read()


# A writer that was killed


def test_a_frame_that_is_being_written_is_not_given(writer, reader):
    write(writer, 1)
    writer.begin()[...] = 99
    assert reader.read().number == 0
    assert reader.read() is None


def test_the_next_writer_goes_on_in_the_same_ring(path, writer, reader):
    write(writer, 1, 2)
    writer.begin()[...] = 99
    writer.close()
    with FrameWriter(path, FRAMES, slots=SLOTS) as second:
        assert second.number == 2
        write(second, 3)
    frame = reader.read()
    assert (frame.number, frame.pixels.max(), frame.writer_lost) == (2, 3, 1)


def test_a_whole_frame_that_was_not_announced_is_announced_by_the_next_writer(path, writer):
    write(writer, 1, 2)
    writer.close()
    spoiled(path, WRITTEN, 1)  # killed between the slot's last store and the ring's
    with FrameWriter(path, FRAMES, slots=SLOTS) as second, RingReader.open(path) as reader:
        assert (second.number, reader.read().pixels.max()) == (2, 2)


def test_a_frame_that_was_begun_and_left_counts_as_lost(writer, reader):
    writer.begin()
    writer.begin()
    writer.commit()
    assert reader.read().writer_lost == 1


def test_a_frame_has_to_be_begun(writer):
    with pytest.raises(DataError, match="begun"):
        writer.commit()


def test_a_frame_of_another_shape_is_refused(writer):
    with pytest.raises(DataError, match=r"carries 6 x 8 uint8 grey, the frame is \(8, 6\) uint8"):
        writer.write(np.zeros((8, 6), np.uint8))


def test_a_ring_has_one_writer(path, writer):
    with pytest.raises(LinkError, match="another process writes"), ring_lock(path, patience_s=0.0):
        pass


# A format that changes


def test_a_ring_of_another_format_takes_the_place_and_readers_are_told(path, writer, reader):
    write(writer, 1)
    writer.close()
    changed = FrameFormat(height=3, width=3, dtype="uint16")
    with FrameWriter(path, changed, slots=SLOTS) as second:
        assert reader.read().number == 0  # what was written before is still given
        with pytest.raises(FormatChangedError, match="6 x 8 uint8 grey"):
            reader.read()
        with RingReader.open(path) as again:
            second.write(picture(5, changed))
            assert (again.generation, again.frames) == (2, changed)
            assert again.read().pixels.max() == 5


def test_a_replacement_that_was_not_announced_is_noticed_in_silence(tmp_path, path, reader):
    with FrameWriter(tmp_path / "other", FRAMES):
        (tmp_path / "other").replace(path)  # the writer was killed before it could say so
    deadline_s = time.monotonic() + 20.0
    with pytest.raises(FormatChangedError, match="another frame ring"):
        wait_until(reader, deadline_s)


def wait_until(reader: RingReader, deadline_s: float) -> None:
    while time.monotonic() < deadline_s:
        assert reader.wait(0.05) is None


# Damaged and hostile rings


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


# When to look


def rhythm(*times_ns: int) -> Rhythm:
    made = Rhythm()
    for number, time_ns in enumerate(times_ns):
        made.heard(number, time_ns)
    return made


def test_a_reader_sleeps_until_shortly_before_a_frame_is_due():
    steady = rhythm(*(n * 10 * MS for n in range(50)))
    rest_ns = steady.rest_ns(491 * MS)
    assert 8.5 * MS < rest_ns < 9 * MS


def test_around_its_time_a_reader_only_naps():
    steady = rhythm(*(n * 10 * MS for n in range(50)))
    assert {steady.rest_ns(at) for at in (499_900_000, 500_000_000, 500_100_000)} == {NAP_NS}


def test_naps_grow_with_the_delay_and_have_an_end():
    steady = rhythm(*(n * 10 * MS for n in range(50)))
    assert 0.1 * MS < steady.rest_ns(501 * MS + 500_000) < 0.25 * MS
    assert steady.rest_ns(9_999 * MS) == LONGEST_NAP_NS


def test_jitter_widens_the_time_of_naps():
    jittery = rhythm(*(n * 10 * MS + (n % 2) * MS // 2 for n in range(50)))
    steady = rhythm(*(n * 10 * MS for n in range(50)))
    # Both 0.8 ms before the next one is due.
    assert jittery.rest_ns(499_700_000) == NAP_NS
    assert steady.rest_ns(499_200_000) > MS // 4


def test_a_frame_that_was_not_seen_does_not_change_the_rhythm():
    made = rhythm(*(n * 10 * MS for n in range(50)))
    made.heard(53, 530 * MS)
    assert 8.5 * MS < made.rest_ns(531 * MS) < 9 * MS


def test_a_pause_is_not_taken_for_the_rhythm():
    made = rhythm(*(n * 10 * MS for n in range(50)))
    made.heard(50, 60_000 * MS)
    assert made.rest_ns(60_001 * MS) < MS
    made.heard(51, 60_010 * MS)
    assert 0 < made.rest_ns(60_011 * MS) < 10 * MS


def test_a_faster_rhythm_is_learned_at_once():
    made = rhythm(*(n * 1_000 * MS for n in range(5)))
    made.heard(5, 4_010 * MS)
    assert made.rest_ns(4_011 * MS) < 10 * MS


# Playing a folder


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


# Looking at a ring


def test_a_survey_says_what_a_ring_carries(writer, reader, path):
    clock = iter(range(0, 10**12, 10**7))
    found = survey(path, seconds=0.05, now=lambda: next(clock))
    assert "6 x 8 uint8 grey, 4 slots" in found.text()
    assert "no signal for 0.05 s" in found.text()
