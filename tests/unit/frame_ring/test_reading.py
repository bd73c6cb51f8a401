"""What a reader of a frame ring is given, what is counted, and what it is told."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from asdic.contract.errors import ConfigError, DataError, LinkError
from asdic.contract.variant import FrameFormat
from asdic.firmware_bridge.frame_writer import FrameWriter
from asdic.firmware_bridge.frames import FormatChangedError, FrameOverwrittenError, RingReader
from asdic.firmware_bridge.ring import ring_lock
from asdic.firmware_bridge.ring_layout import WRITTEN, DamagedRingError
from asdic.firmware_bridge.survey import survey
from tests.support.small_rings import FRAMES, SLOTS, picture, spoiled, write

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


# Looking at a ring


def test_a_survey_says_what_a_ring_carries(writer, reader, path):
    clock = iter(range(0, 10**12, 10**7))
    found = survey(path, seconds=0.05, now=lambda: next(clock))
    assert "6 x 8 uint8 grey, 4 slots" in found.text()
    assert "no signal for 0.05 s" in found.text()
