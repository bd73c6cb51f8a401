"""The example in C as a frame ring's writer: compiled, run, killed, and its frames recognized.

Every 64-bit word of a frame follows from the frame's number (``firmware_bridge/c/example.c``), so a
reader can tell a whole frame from a torn one.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import numpy as np

from asdic.contract.variant import FrameFormat
from asdic.firmware_bridge.frames import RingFrame, RingReader
from asdic.firmware_bridge.ring import NoRingError
from tests.conftest import missing
from tests.support.desk import until

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
DEADLINE_S = 30.0


def compiled(folder: Path, *command: str, source: Path = SOURCES / "example.c") -> Path:
    """Return the example, compiled; not a word of the compiler is taken."""
    if shutil.which(command[0]) is None:
        missing(f"no {command[0]}; install the package {command[0]}")
    program = folder / "asdic-pattern"
    command = (*command, "-o", str(program), str(source))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return program


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
    """Return what the example said, once it has ended by itself."""
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
    """Return the next frame, which has to come."""
    frame = reader.wait(DEADLINE_S)
    assert frame is not None
    return frame
