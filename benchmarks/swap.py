"""What a new release costs a program at 60 frames a second: frames lost, and the longest gap.

::

    .venv/bin/python -m benchmarks.swap > docs/benchmarks/swap.md
    .venv/bin/python -m benchmarks.swap --variants VARIANTS --json

The program holds a ``LiveRunner`` and takes frames of a camera that waits for no one but keeps the
last few, as Video4Linux drivers do; a frame that they push out is lost, one that waits for the
next one to come is late. The same seconds are measured without an update and with one, by turns.
Without ``--variants`` it first makes variants of a U-Net (a minute).
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import logging
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from asdic.device.runner.live import LiveRunner
from asdic.device.runner.processors import usable_threads
from asdic.device.runner.runner import Runner
from benchmarks.unet_variants import RUNTIMES, found_variants, make_variants
from tests.support.boxes import AGENT, Box
from tests.support.desk import Desk
from tests.support.yard import JETSON, Yard

UPDATE_AT_S: Final = 1.0
CAMERA: Final = (480, 640)
BUFFERS: Final = 4  # what OpenCV asks of a camera's driver
OLD, NEW = "1.0.0", "2.0.0"
# ONNX Runtime stands in for a Jetson and takes longer than a frame lasts.
TARGETS: Final = ("x86-litert-int8", "x86-openvino-int8")
TINY: Final = "ONNX Runtime, 32 x 32, a whole update"
# The agent's end lives in a process of its own, as an agent does.
DESK: Final = """
import sys
from pathlib import Path
from tests.support.desk import Desk
with Desk(Path(sys.argv[1])) as desk:
    for version in sys.stdin:
        desk.point(version.strip())
        print("done", flush=True)
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One row: frames that came, were late and were lost, gaps between two results in ms."""

    model: str
    update: str
    rounds: int
    frames: int
    late: int
    lost: int
    inference_ms: float
    gap_ms_p50: float
    gap_ms_longest: float
    update_s: float | None


@dataclass(frozen=True)
class Take:
    """What one run of the program gave; ``update_s`` is from the word to the first new result."""

    frames: int
    late: int
    lost: int
    gaps_ms: Sequence[float]
    update_s: float | None


def main() -> None:
    """Measure, and print the page or the figures."""
    options = options_of(None)
    rows = measured(options)
    if options.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
    else:
        print("\n".join(_page(rows, options)))


def options_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command's options from ``arguments``; None reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swap")
    parser.add_argument("--variants", type=Path, help="a folder with one variant a target")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run")
    parser.add_argument("--rounds", type=int, default=5, help="of each row")
    parser.add_argument("--fps", type=float, default=60.0, help="of the camera")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser.parse_args(arguments)


def measured(options: argparse.Namespace) -> list[Measured]:
    """The rows of the table, with the options of ``options_of``; takes minutes."""
    logging.disable(logging.WARNING)  # an agent is stopped and started, which the runner notes
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="asdic-swap-") as name:
        return list(_rows(Path(name), options))


def _rows(folder: Path, options: argparse.Namespace) -> Iterator[Measured]:
    made = folder / "variants"
    made.mkdir()
    variants = found_variants(options.variants) if options.variants else make_variants(made)
    for target in TARGETS:
        if target in variants:
            yield from _swaps(folder / target, target, variants[target], options)
    yield from _whole_updates(folder / "yard", options)


# The swap by itself: the same files as two releases


def _swaps(
    state: Path, target: str, variant: Path, options: argparse.Namespace
) -> Iterator[Measured]:
    desk = Desk(state)
    for version in (OLD, NEW):
        desk.add(version, lambda place: shutil.copytree(variant, place, dirs_exist_ok=True))
    name = f"{RUNTIMES[target]}, U-Net 256 x 256"
    inference_ms = _inference_ms(variant)
    plans = (("none", True, False), ("swap", True, True), ("swap, no overlap", False, True))
    takes: dict[str, list[Take]] = {label: [] for label, *_ in plans}
    with _agents_end(state) as point:
        for _ in range(options.rounds):
            for label, overlap, has_update in plans:
                point(OLD)
                with LiveRunner.connect(state, overlap=overlap) as live:
                    live.wait()
                    update = partial(_named, live, point) if has_update else None
                    takes[label].append(_take(live, options, update))
    for label, found in takes.items():
        yield _measured(name, label, found, inference_ms)


def _named(live: LiveRunner, point: Callable[[str], None]) -> Callable[[], bool]:
    """Name the new release, and return what says whether it answers."""
    point(NEW)
    return lambda: live.release is not None and live.release.version == NEW


@contextmanager
def _agents_end(state: Path) -> Iterator[Callable[[str], None]]:
    """Yield what names another release, in another process."""
    command = [sys.executable, "-c", DESK, str(state)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:  # type: ignore[call-overload]

        def point(version: str) -> None:
            process.stdin.write(f"{version}\n")
            process.stdin.flush()
            assert process.stdout.readline() == "done\n"

        yield point
        process.stdin.close()


# A whole update: signed offer, digests, the gate with its short benchmark, probation


def _whole_updates(folder: Path, options: argparse.Namespace) -> Iterator[Measured]:
    yard = Yard(folder)
    yard.add(OLD)
    yard.add(NEW, offset=0.1)
    quiet, busy = [], []
    for number in range(options.rounds):
        box = Box.make(folder / f"box{number}", roots=yard.roots)
        assert box.install(yard.stick(OLD)).returncode == 0
        command = [*AGENT, "install", str(yard.stick(NEW)), "--state", str(box.state.path)]
        with box, LiveRunner.connect(box.state.path, simulate=True) as live:
            box.start("--no-runner")
            live.wait()
            quiet.append(_take(live, options))
            box.stop()
            busy.append(_take(live, options, partial(_started, command)))
    inference_ms = _inference_ms(folder / "variants" / OLD / JETSON, simulate=True)
    yield _measured(TINY, "none", quiet, inference_ms)
    yield _measured(TINY, "gate and swap", busy, inference_ms)


def _started(command: Sequence[str]) -> Callable[[], bool]:
    """Start the installation, and return what says whether it has ended well."""
    process = subprocess.Popen(
        [*command, "--no-runner"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    def is_over() -> bool:
        assert process.poll() in {None, 0}
        return process.poll() is not None

    return is_over


# The program


def _take(
    live: LiveRunner,
    options: argparse.Namespace,
    update: Callable[[], Callable[[], bool]] | None = None,
) -> Take:
    """Run the program for some seconds, and until the update that it begins is over."""
    frame = np.random.default_rng(0).integers(0, 255, CAMERA, np.uint8)
    started = time.perf_counter()
    last, late, lost = -1, 0, 0
    results: list[float] = []
    asked_s = answered_s = None
    is_over: Callable[[], bool] = (lambda: True) if update is None else (lambda: False)
    while time.perf_counter() - started < options.seconds or not is_over():
        if update is not None and time.perf_counter() - started >= UPDATE_AT_S:
            asked_s = time.perf_counter()
            is_over, update = update(), None
        number, newest = _next_frame(started, last, options.fps)
        lost += number - last - 1
        late += newest > number
        last = number
        is_swapped = live.refresh()
        if live.release is None:
            lost += 1
            continue
        live.predict(frame)
        results.append(time.perf_counter())
        answered_s = results[-1] if is_swapped else answered_s
    gaps_ms = [(after - before) * 1e3 for before, after in itertools.pairwise(results)]
    took = answered_s - asked_s if answered_s is not None and asked_s is not None else None
    return Take(last + 1, late, lost, gaps_ms, took)


def _next_frame(started: float, last: int, fps: float) -> tuple[int, int]:
    """Return the oldest frame that still waits, and the newest; wait where there is none."""
    newest = int((time.perf_counter() - started) * fps)
    if newest > last:
        return max(last + 1, newest - BUFFERS + 1), newest
    time.sleep(max(0.0, started + (last + 1) / fps - time.perf_counter()))
    return last + 1, last + 1


def _inference_ms(variant: Path, *, simulate: bool = False) -> float:
    frame = np.zeros(CAMERA, np.uint8)
    times = []
    with Runner.open(variant, simulate=simulate) as runner:
        for _ in range(50):
            started = time.perf_counter()
            runner.predict(frame)
            times.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times)


def _measured(name: str, update: str, takes: list[Take], inference_ms: float) -> Measured:
    gaps = [gap for take in takes for gap in take.gaps_ms]
    updates = [take.update_s for take in takes if take.update_s is not None]
    return Measured(
        model=name,
        update=update,
        rounds=len(takes),
        frames=sum(take.frames for take in takes),
        late=sum(take.late for take in takes),
        lost=sum(take.lost for take in takes),
        inference_ms=inference_ms,
        gap_ms_p50=statistics.median(gaps),
        gap_ms_longest=max(gaps),
        update_s=statistics.median(updates) if updates else None,
    )


# The page


def _page(rows: Sequence[Measured], options: argparse.Namespace) -> Iterator[str]:
    today = datetime.datetime.now(datetime.UTC).date()
    yield "# A swap between two frames"
    yield ""
    yield f"Printed by `python -m benchmarks.swap` on {today}: a program with a `LiveRunner` takes"
    yield f"{options.fps:.0f} frames a second (480 x 640) for {options.seconds:.0f} s,"
    yield f"{options.rounds} times a row, the rows of a model by turns. The camera keeps its last"
    yield f"{BUFFERS} frames: one that is pushed out is lost, one that is taken after the next has"
    yield "come is late. A gap is the time between two results. The update comes"
    yield f"after {UPDATE_AT_S:.0f} s; what it took lasts until the first result of the new model,"
    yield "half a second of which passes at most until the program asks again. The last rows are a"
    yield "whole update: signed offer, digests, gate with its short benchmark, swap, probation, all"
    yield "on the processors that the program infers on."
    yield f"Machine: {usable_threads()} processors, Linux {platform.release()}, Python"
    yield f"{platform.python_version()}, load {os.getloadavg()[0]:.1f} at the end."
    yield ""
    yield from table(rows)
    yield ""
    yield "Without overlap there is no model between the old and the new one, and the program is"
    yield "told so: those frames count as lost. It is for boxes without memory for two models."
    yield ""
    yield "The swap itself is one assignment. What may delay a frame is the runtime that opens the"
    yield "next model: LiteRT packs its weights without letting other Python threads run (20 ms for"
    yield "this one), and OpenVINO compiles on all processors."


def table(rows: Sequence[Measured]) -> Iterator[str]:
    """The rows as lines of Markdown."""
    yield "| model | update | inference, ms | frames | lost | late | gap p50 | longest | took |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for row in rows:
        took = f"{row.update_s:.2f} s" if row.update_s is not None else ""
        yield (
            f"| {row.model} | {row.update} | {row.inference_ms:.1f} | {row.frames} | {row.lost} "
            f"| {row.late} | {row.gap_ms_p50:.1f} ms | {row.gap_ms_longest:.1f} ms | {took} |"
        )


if __name__ == "__main__":
    main()
