"""The frame ring between processes: a C writer at full speed, killed at any instant; its readers.

Every 64-bit word of a frame follows from the frame's number (``firmware_bridge/c/example.c``), so a
reader can tell a whole frame from a torn one.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

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
from asdic.firmware_bridge.frames import FormatChangedError, RingFrame, RingReader
from asdic.firmware_bridge.ring import SHARED_MEMORY, NoRingError, open_ring
from asdic.firmware_bridge.ring_layout import LOST, SEQUENCE, WRITTEN
from tests.conftest import missing
from tests.support.desk import Desk, until
from tests.support.models import labelled_discs, make_tiny_variant

SOURCES = Path(str(files("asdic.firmware_bridge") / "c"))
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-Wconversion", "-Wshadow", "-O2")
STRICT = {
    "c99": ("gcc", "-std=c99"),
    "c11": ("gcc", "-std=c11"),
    "gnu17": ("gcc", "-std=gnu17"),
    "c++11": ("g++", "-x", "c++", "-std=c++11"),
    "c++20": ("g++", "-x", "c++", "-std=c++20"),
}
WATCHED = ("gcc", "-std=c99", "-g", "-O1", "-fsanitize=address,undefined")
STEP = 0x9E3779B97F4A7C15
FRAMES = FrameFormat(height=512, width=512)
FULL_SPEED_S = 1.5
KILLS = 100
LONGEST_LIFE_S = 0.02
DEADLINE_S = 30.0
MAIN = "from asdic.cli.main import main; main()"


def compiled(folder: Path, *command: str, source: Path = SOURCES / "example.c") -> Path:
    """Return the example, compiled; not a word of the compiler is taken."""
    if shutil.which(command[0]) is None:
        missing(f"no {command[0]}; install the package {command[0]}")
    program = folder / "asdic-pattern"
    command = (*command, "-o", str(program), str(source))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return program


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("strict"), *STRICT["c99"], *WARNINGS)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example that ends at its first access outside of its memory."""
    folder = tmp_path_factory.mktemp("watched")
    return compiled(folder, *WATCHED, "-fno-sanitize-recover=all")


@pytest.fixture
def path() -> Iterator[Path]:
    """A ring's file in shared memory, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="asdic-test-", dir=SHARED_MEMORY) as folder:
        yield Path(folder) / "ring"


@contextmanager
def writing(
    program: Path, ring: Path, *, side: int = 512, rate: float = 0
) -> Iterator[subprocess.Popen[bytes]]:
    """Let the example write until the end of the block, which comes as SIGKILL."""
    process = subprocess.Popen([program, ring, str(side), str(side), str(rate)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def ran(program: Path, ring: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [str(program), str(ring), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def opened(ring: Path, *, in_order: bool = False) -> RingReader:
    """Return a reader, once there is a ring."""
    found: list[RingReader] = []

    def is_there() -> bool:
        try:
            found.append(RingReader.open(ring, in_order=in_order))
        except NoRingError:
            return False
        return True

    until(is_there)
    return found[0]


def is_pattern(pixels: np.ndarray, number: int) -> bool:
    """Whether every word of the pixels is that of this one frame."""
    words = pixels.reshape(-1).view(np.uint64)
    expected = np.arange(words.size, dtype=np.uint64) + np.uint64(number * STEP % 2**64)
    return np.array_equal(words, expected)


def next_frame(reader: RingReader) -> RingFrame:
    frame = reader.wait(DEADLINE_S)
    assert frame is not None
    return frame


# The C header


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
