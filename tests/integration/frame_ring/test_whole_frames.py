"""No frame is torn: at full speed, by a writer killed at any instant, in a ring that changes."""

from __future__ import annotations

import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from asdic.contract.errors import LinkError
from asdic.firmware_bridge.frames import FormatChangedError, RingFrame, RingReader
from asdic.firmware_bridge.ring import NoRingError, open_ring
from asdic.firmware_bridge.ring_layout import LOST, SEQUENCE, WRITTEN
from tests.support.desk import until
from tests.support.ring_writers import (
    DEADLINE_S,
    SOURCES,
    STRICT,
    compiled,
    is_pattern,
    next_frame,
    opened,
    ran,
    writing,
)

FULL_SPEED_S = 1.5
KILLS = 100
LONGEST_LIFE_S = 0.02


# At full speed


def test_nothing_is_torn_at_full_speed(pattern, path):
    intact = 0
    with writing(pattern, path), opened(path) as reader:
        end_s = time.monotonic() + FULL_SPEED_S
        while time.monotonic() < end_s:
            frame = next_frame(reader)
            is_whole = is_pattern(frame.pixels, frame.number)
            if frame.is_intact():
                intact += 1
                assert is_whole
    assert intact > 100
    assert reader.lost > 0  # the writer was faster: how much is the machine's affair


def test_a_copy_is_never_torn_at_full_speed(pattern, path):
    copies = 0
    with writing(pattern, path), opened(path) as reader:
        end_s = time.monotonic() + FULL_SPEED_S / 2
        while time.monotonic() < end_s:
            frame = next_frame(reader)
            try:
                pixels = frame.copy()
            except LinkError:
                continue
            copies += 1
            assert is_pattern(pixels, frame.number)
    assert copies > 100


def test_a_reader_that_does_not_ask_sees_torn_frames(tmp_path, path):
    """The control: without ``is_intact`` the tests above would fail."""
    program = compiled(tmp_path, *STRICT["c99"], "-O2", "-DSLOTS=2")
    with writing(program, path, side=2048), opened(path) as reader:
        end_s = time.monotonic() + DEADLINE_S
        while time.monotonic() < end_s:
            frame = next_frame(reader)
            if not is_pattern(frame.pixels, frame.number):
                assert not frame.is_intact()
                return
    pytest.fail("no frame was torn, so this machine proves nothing")


def test_two_readers_do_not_hold_up_the_writer_nor_one_another(pattern, path):
    wrong: list[int] = []
    counts = [0, 0]

    def read(place: int, reader: RingReader) -> None:
        end_s = time.monotonic() + FULL_SPEED_S / 2
        while time.monotonic() < end_s:
            frame = next_frame(reader)
            is_whole = is_pattern(frame.pixels, frame.number)
            if frame.is_intact():
                counts[place] += 1
                wrong.extend([] if is_whole else [frame.number])

    with writing(pattern, path), opened(path) as first, opened(path, in_order=True) as second:
        before = first.written
        threads = [
            threading.Thread(target=read, args=(place, reader))
            for place, reader in enumerate((first, second))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert first.written - before > sum(counts)
    assert wrong == []
    assert min(counts) > 10


def test_a_slow_reader_in_order_accounts_for_every_frame(pattern, path):
    given = 0
    with writing(pattern, path, side=64), opened(path, in_order=True) as reader:
        first = last = next_frame(reader)
        lost = reader.lost
        while last.number - first.number < 20_000:
            last = next_frame(reader)
            given += 1
            threading.Event().wait(0.001)
    assert reader.lost > lost
    assert given + reader.lost - lost == last.number - first.number


# A writer that is killed


def test_a_writer_killed_at_any_instant_leaves_whole_frames(pattern, path):
    assert ran(pattern, path, 512, 512, 0, 1).returncode == 0
    chance = np.random.default_rng(0)
    half_written = checked = 0
    with RingReader.open(path) as reader:
        left = state(path)
        for _ in range(KILLS):
            with writing(pattern, path):
                end_s = time.monotonic() + chance.random() * LONGEST_LIFE_S
                while time.monotonic() < end_s:
                    checked += check(reader.read())
            checked += check(reader.read())
            assert reader.read() is None
            before, left = left, state(path)
            half_written += left.is_half_written and left != before  # some die before they begin
    assert RingReader.open(path).generation == 1
    assert left.lost == half_written - left.is_half_written
    assert half_written > KILLS // 10
    assert checked > KILLS


class State(NamedTuple):
    """What a writer left."""

    written: int
    lost: int
    is_half_written: bool


def state(path: Path) -> State:
    ring = open_ring(path)
    number = ring.words.load(WRITTEN)
    sequence = ring.words.load(ring.slot_word(number % ring.header.slots) + SEQUENCE)
    return State(number, ring.words.load(LOST), sequence == 2 * number + 1)


def check(frame: RingFrame | None) -> int:
    if frame is None:
        return 0
    is_whole = is_pattern(frame.pixels, frame.number)
    if not frame.is_intact():
        return 0
    assert is_whole, f"frame {frame.number} is torn"
    return 1


# Bad writers, as a control: what is looked for above would be found


def spoiled_writer(folder: Path, good: str, bad: str) -> Path:
    """Return the example with a header in which ``good`` was replaced."""
    header = (SOURCES / "asdic_frames.h").read_text()
    assert header.count(good) == 1
    (folder / "asdic_frames.h").write_text(header.replace(good, bad))
    shutil.copy(SOURCES / "example.c", folder)
    return compiled(folder, "gcc", "-O2", "-DSLOTS=2", source=folder / "example.c")


def test_a_writer_that_does_not_mark_what_it_overwrites_is_found_out(tmp_path, path):
    mark = "__atomic_store_n(&slot->sequence, 2 * ring->next + 1, __ATOMIC_RELAXED);"
    program = spoiled_writer(tmp_path, mark, "")
    chance = np.random.default_rng(0)

    def kill() -> bool:
        with writing(program, path, side=2048), opened(path) as reader:
            frame = next_frame(reader)
            threading.Event().wait(chance.random() * 0.002)
        return is_torn(frame)

    until(kill)


def test_a_writer_that_marks_a_frame_as_whole_too_early_is_found_out(tmp_path, path):
    mark = "&slot->sequence, 2 * ring->next + 1"
    program = spoiled_writer(tmp_path, mark, "&slot->sequence, 2 * ring->next + 2")

    def kill() -> bool:
        with writing(program, path, side=1024), opened(path) as reader:
            next_frame(reader)
        assert ran(program, path, 1024, 1024, 0, 0).returncode == 0  # it recovers, and no more
        with RingReader.open(path) as reader:
            return is_torn(reader.read())

    until(kill)


def is_torn(frame: RingFrame | None) -> bool:
    """Whether a frame that says that it is intact is not."""
    return frame is not None and not is_pattern(frame.pixels, frame.number) and frame.is_intact()


# A format that changes


def test_a_format_that_changes_in_mid_stream_is_told_and_read_on(pattern, path):
    with writing(pattern, path, side=512, rate=500):
        reader = opened(path)
        next_frame(reader)
    with writing(pattern, path, side=256, rate=500):
        with pytest.raises(FormatChangedError, match="512 x 512 uint8 grey"):
            read_until_change(reader)
        with RingReader.open(path) as again:
            assert again.generation == 2
            frame = next_frame(again)
            assert frame.pixels.shape == (256, 256)
            assert is_pattern(frame.pixels, frame.number)


def read_until_change(reader: RingReader) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while time.monotonic() < end_s:
        reader.wait(0.1)


def test_a_ring_that_is_replaced_over_and_over_is_never_seen_half_made(pattern, path):
    generations: set[int] = set()
    end_s = time.monotonic() + 1.0
    done = threading.Event()

    def replace() -> None:
        side = 8
        while time.monotonic() < end_s:
            ran(pattern, path, side, side, 0, 2)
            side = 8 + side % 64
        done.set()

    thread = threading.Thread(target=replace)
    thread.start()
    while not done.is_set():
        with suppress(NoRingError, FormatChangedError), RingReader.open(path) as reader:
            generations.add(reader.generation)
            if (frame := reader.read()) is not None:
                assert is_pattern(frame.pixels, frame.number)
    thread.join()
    assert len(generations) > 10
