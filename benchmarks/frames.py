"""How late a frame is seen through the ring, a queue, a pipe and a UNIX socket, and how many fit.

::

    .venv/bin/python -m benchmarks.frames > docs/benchmarks/frames.md

One process writes frames of 512 x 512 bytes on time, this one reads them; each cell of the tables
is a new writer. When a frame was begun, handed over and ready is noted in memory that both share,
so that all four are measured alike.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.device.bench.statistics import percentile
from asdic.device.runner.processors import usable_threads
from asdic.firmware_bridge.ring import SHARED_MEMORY
from benchmarks.frame_ways import BYTES, COPIES, SPAWN, WAYS, Receiver, Sender

RATES: Final = (30, 100, 300, 1_000)
WARM_UP: Final = 15
SLEEP_S: Final = 0.01
SLEEPS: Final = 1_000
PRIORITY: Final = 10
AIM_US: Final = 50


@dataclass(frozen=True)
class Cell:
    """What one writer at one rate gave: times in us, the reader's processor time, losses."""

    whole_us: list[float]
    added_us: list[float]
    cpu: float
    lost: int


def write_on_time(
    sender: Sender,
    rate: float,
    times: Any,
    ready: Synchronized[int],
    *,
    realtime: bool,
) -> None:
    """Write as many frames as ``times`` has rows, at ``rate``; 0 is as fast as it goes."""
    _be_punctual(realtime=realtime)
    hand_over = sender.open()
    pixels = np.random.default_rng(0).integers(0, 256, (512, 512), np.uint8)
    noted = np.frombuffer(times, np.uint64).reshape(-1, 2)
    ready.value = 1
    while ready.value == 1:
        time.sleep(0.001)
    begun_s = time.monotonic() + 0.01
    for number, row in enumerate(noted):
        if rate:
            time.sleep(max(0.0, begun_s + number / rate - time.monotonic()))
        row[0] = time.monotonic_ns()
        hand_over(pixels)
        row[1] = time.monotonic_ns()
    while ready.value == 2:  # what a queue's thread still holds must not end with us
        time.sleep(0.001)


def measured(way: str, rate: float, frames: int, folder: Path, *, realtime: bool) -> Cell:
    """Read ``frames`` frames of one writer."""
    sender, receiver = WAYS[way](folder)
    writer, times, ready = _started(sender, rate, frames, realtime=realtime)
    seen = np.zeros(frames, np.uint64)
    _be_punctual(realtime=realtime)
    ready.value = 2
    cpu_s, begun_s = time.process_time(), time.monotonic()
    number = -1
    while number < frames - 1 and (received := receiver.receive()) is not None:
        number = received[0]
        seen[number] = time.monotonic_ns()
    cpu = (time.process_time() - cpu_s) / (time.monotonic() - begun_s)
    _be_ordinary()
    ready.value = 3
    writer.join()
    noted = np.frombuffer(times, np.uint64).reshape(-1, 2)
    return _cell(noted[WARM_UP:].astype(np.int64), seen[WARM_UP:].astype(np.int64), cpu)


def _started(sender: Sender, rate: float, frames: int, *, realtime: bool) -> tuple[Any, Any, Any]:
    """Return a writer that is ready, its times, and the word that lets it go on."""
    times = SPAWN.RawArray(ctypes.c_uint64, 2 * frames)
    ready = SPAWN.Value("i", 0)
    arguments = (sender, rate, times, ready)
    writer = SPAWN.Process(target=write_on_time, args=arguments, kwargs={"realtime": realtime})
    writer.start()
    sender.close_here()
    while ready.value == 0 and writer.is_alive():
        time.sleep(0.001)
    return writer, times, ready


def _cell(noted: NDArray[np.int64], seen: NDArray[np.int64], cpu: float) -> Cell:
    got = seen > 0
    late_us = (seen[got, None] - noted[got]) / 1e3
    return Cell(late_us[:, 0].tolist(), late_us[:, 1].tolist(), cpu, int((~got).sum()))


def _be_punctual(*, realtime: bool) -> None:
    """Wake on time; all ways get this, not the ring only."""
    ctypes.CDLL(None).prctl(29, ctypes.c_ulong(1), 0, 0, 0)  # PR_SET_TIMERSLACK
    if realtime:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))


def _be_ordinary() -> None:
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def main() -> None:
    """Measure, and print the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frames")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each cell")
    parser.add_argument("--fast", type=int, default=4_000, help="frames as fast as it goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="asdic-bench-", dir=SHARED_MEMORY) as folder:
        for line in _page(Path(folder), options):
            print(line, flush=True)


def _page(folder: Path, options: argparse.Namespace) -> Iterator[str]:
    yield from ("# Frames in shared memory", "", *_head(), "")
    yield from ("## How late this machine wakes anybody", "", *_WAKING_NOTE, "")
    yield from _waking()
    yield from ("", "## How late a frame is seen", "", *_LATE_NOTE, "")
    yield from _late(folder, options.seconds, realtime=False)
    yield from ("", "## The same, before other work", "", *_REALTIME_NOTE, "")
    if _may_be_realtime():
        yield from _late(folder, options.seconds, realtime=True)
    else:
        yield "Not measured: it takes the right to `SCHED_FIFO` (root, or CAP_SYS_NICE)."
    yield from ("", "## As fast as it goes", "", *_FAST_NOTE, "")
    yield from _fast(folder, options.fast)
    load = os.getloadavg()[0]
    yield from ("", f"Load at the end: {load:.1f} on {usable_threads()} processors.")


def _head() -> Iterator[str]:
    load, cores = os.getloadavg()[0], usable_threads()
    yield f"    python -m benchmarks.frames {' '.join(sys.argv[1:])}".rstrip()
    yield ""
    yield f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}, {_processor()}, {cores} cores,"
    yield f"Linux {platform.release()}, Python {platform.python_version()}; frames of 512 x 512"
    yield f"uint8, load {load:.1f} before the start."
    if load > cores / 4:
        yield f"**Others worked on the machine (load {load:.1f} on {cores} cores):** p99 and the"
        yield "longest times are theirs more than ours; ratios between the ways stand."


_WAKING_NOTE: Final = (
    f"One process that sleeps {SLEEP_S * 1e3:.0f} ms again and again, and how late it is woken.",
)
_LATE_NOTE: Final = (
    "`added`: from when the writer had handed the frame over to a numpy array that a reader may",
    "use. `whole`: from when it began to. A queue takes a frame before it sends it, and a pipe or",
    "socket ends the call when the reader has nearly all of it, so theirs is `whole` only.",
    "`CPU`: of one processor, for the reading process. `copies`: of the pixels, by anyone; the",
    "ring's is the writer's own, and none where a source writes into the ring (`begin`, `commit`).",
    f"The aim is an added p99 below {AIM_US} us and no copy by the reader.",
)
_REALTIME_NOTE: Final = (
    "Both processes with the scheduling policy `SCHED_FIFO`, for all four ways: other processes no",
    "longer come in between, which is as near to an idle machine as a busy one comes.",
)
_FAST_NOTE: Final = (
    "The writer does not wait. A ring's reader does not hold it up and misses what it is too slow",
    "for; with the others, the slower one sets the pace.",
)


def _waking() -> Iterator[str]:
    yield "| policy | p50, us | p99, us | longest, us |"
    yield "|---|---:|---:|---:|"
    for realtime in (False, True) if _may_be_realtime() else (False,):
        policy = "SCHED_FIFO" if realtime else "ordinary"
        _be_punctual(realtime=realtime)
        late_us = [_oversleep_us() for _ in range(SLEEPS)]
        _be_ordinary()
        p50, p99 = (percentile(late_us, at) for at in (0.5, 0.99))
        yield f"| {policy} | {p50:.0f} | {p99:.0f} | {max(late_us):,.0f} |"


def _oversleep_us() -> float:
    begun_ns = time.monotonic_ns()
    time.sleep(SLEEP_S)
    return (time.monotonic_ns() - begun_ns) / 1e3 - SLEEP_S * 1e6


def _late(folder: Path, seconds: float, *, realtime: bool) -> Iterator[str]:
    yield (
        "| frames/s | way | added p50, us | added p99, us | whole p50, us | whole p99, us | "
        "longest, us | CPU | lost | copies |"
    )
    yield "|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|"
    for rate in RATES:
        for way in WAYS:
            frames = WARM_UP + max(int(rate * seconds), 2 * WARM_UP)
            cell = measured(way, rate, frames, folder, realtime=realtime)
            yield _row(way, rate, cell)


def _row(way: str, rate: int, cell: Cell) -> str:
    added = [f"{percentile(cell.added_us, at):.0f}" for at in (0.5, 0.99)]
    if way != "ring":
        added = ["", ""]
    whole = [f"{percentile(cell.whole_us, at):.0f}" for at in (0.5, 0.99)]
    words = (f"{rate:,}", way, *added, *whole, f"{max(cell.whole_us):,.0f}")
    return f"| {' | '.join(words)} | {cell.cpu:.1%} | {cell.lost} | {COPIES[way]} |"


def _fast(folder: Path, frames: int) -> Iterator[str]:
    yield "| way | written, frames/s | written, GB/s | read, frames/s |"
    yield "|---|---:|---:|---:|"
    for way in WAYS:
        sender, receiver = WAYS[way](folder)
        yield _fast_row(way, sender, receiver, frames)


def _fast_row(way: str, sender: Sender, receiver: Receiver, frames: int) -> str:
    writer, times, ready = _started(sender, 0.0, frames, realtime=False)
    ready.value = 2
    read, number = 0, -1
    while number < frames - 1 and (received := receiver.receive()) is not None:
        number = received[0]
        read += 1
    ended_ns = time.monotonic_ns()
    ready.value = 3
    writer.join()
    noted = np.frombuffer(times, np.uint64)
    taken_s = (max(ended_ns, int(noted[-1])) - int(noted[0])) / 1e9
    written = frames / taken_s
    return f"| {way} | {written:,.0f} | {written * BYTES / 1e9:.2f} | {read / taken_s:,.0f} |"


def _may_be_realtime() -> bool:
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
    except PermissionError:
        return False
    _be_ordinary()
    return True


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
