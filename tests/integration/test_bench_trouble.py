"""The benchmark with real runtimes: bad input, sources that fail, and Ctrl-C in every phase."""

from __future__ import annotations

import json
import platform
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pytest

from asdic.contract.bench import bench_schema, parse_bench
from asdic.contract.errors import DataError, DigestError, IncompatibleTargetError
from asdic.contract.files import canonical_json
from asdic.device.bench.benchmark import run_benchmark
from asdic.device.bench.clock import SystemClock
from asdic.device.bench.frames import LiveFrames, RepeatedFrames
from asdic.device.runner.preprocess import prepare_image
from asdic.device.runner.runner import Runner
from tests.support.bench_variants import IMAGE, NO_COLD, SHORT, make_bench_variants
from tests.support.models import make_keyword_variant

pytestmark = pytest.mark.alone
FOREIGN = "x86-litert-int8" if platform.machine() == "aarch64" else "arm64-litert-int8"


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bench_variants(tmp_path_factory.mktemp("bench"))


def test_a_variant_of_another_architecture_is_refused(tmp_path, shared_data):
    folder = make_keyword_variant(tmp_path / "kws", shared_data, target=FOREIGN)
    with pytest.raises(IncompatibleTargetError, match="--any-machine"):
        run_benchmark(folder, SHORT)


def test_it_is_measured_when_asked_for_and_marked(tmp_path, shared_data):
    folder = make_keyword_variant(tmp_path / "kws", shared_data, target=FOREIGN)
    report = run_benchmark(folder, replace(SHORT, any_machine=True, cold_starts=0))
    assert report.emulated
    assert report.runs[0].burst is not None


WRONG_FRAMES = (
    ("dtype", np.zeros((32, 32), np.float64), "uint8"),
    ("channels", np.zeros((32, 32, 2), np.uint8), "shape"),
    ("no height", np.zeros((0, 32), np.uint8), "1 to 16384 pixels a side"),
    ("no width", np.zeros((32, 0, 3), np.uint8), "1 to 16384 pixels a side"),
    # Views of one byte: they would be 256 MiB and 16 KiB.
    ("too large", np.broadcast_to(np.uint8(0), (16_385, 16_385)), "1 to 16384 pixels a side"),
    ("too long", np.broadcast_to(np.uint8(0), (1, 16_385)), "1 to 16384 pixels a side"),
    ("not a number", np.full((32, 32), np.nan, np.float32), "uint8"),
)


@pytest.mark.parametrize(("what", "frame", "words"), WRONG_FRAMES)
def test_a_wrong_frame_ends_the_benchmark_with_its_reason(variants, what, frame, words):
    with pytest.raises(DataError, match=words):
        run_benchmark(variants / "good", NO_COLD, frames=RepeatedFrames([frame]))


@pytest.mark.parametrize("size", [(64, 64), (16, 48), (1, 1)])
def test_an_image_of_another_size_is_resized_as_the_signed_rule_says(variants, size):
    """Not an error, by design: a camera's frames are seldom of the model's size."""
    frame = cv2.resize(IMAGE, size[::-1])
    with Runner.open(variants / "good", threads=1) as runner:
        (rule,) = runner.preprocessing
        assert size != (rule.height, rule.width)
        assert runner.predict(frame).mask.shape == size
        tensors = runner.predict(frame).tensors
        by_hand = runner.infer({rule.tensor: prepare_image(frame, rule)})
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, by_hand[name])
    report = run_benchmark(variants / "good", NO_COLD, frames=RepeatedFrames([frame]))
    assert report.runs[0].burst is not None


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((1, 49, 11, 1), np.float32),
        np.full((1, 49, 10, 1), np.nan, np.float32),
        np.zeros((0,), np.float32),
    ],
)
def test_a_wrong_array_ends_the_benchmark_too(tmp_path, shared_data, array):
    folder = make_keyword_variant(tmp_path / "kws", shared_data)
    with pytest.raises(DataError):
        run_benchmark(folder, NO_COLD, frames=RepeatedFrames([array]))


def test_a_missing_golden_set_is_named(variants, tmp_path):
    folder = Path(shutil.copytree(variants / "good", tmp_path / "variant"))
    (folder / "golden.npz").unlink()
    with pytest.raises(DigestError, match=r"golden\.npz is missing"):
        run_benchmark(folder, SHORT)


def test_a_frame_source_that_ends_leaves_a_partial_result(variants):
    frames = LiveFrames([IMAGE] * 20)
    report = run_benchmark(variants / "good", NO_COLD, frames=frames)
    assert "warm-up" in report.ended
    assert "the frame source ended" in report.ended
    assert report.runs[0].load_s > 0


def test_a_frame_source_that_stalls_leaves_a_partial_result(variants):
    forever = threading.Event()

    def stalling():
        yield from [IMAGE] * 20
        forever.wait()

    report = run_benchmark(variants / "good", NO_COLD, frames=LiveFrames(stalling(), stall_s=0.1))
    forever.set()
    assert "gave nothing for 0.1 s" in report.ended


def test_a_sensor_that_vanishes_and_a_clock_that_steps_are_in_the_result(variants, tmp_path):
    sensor = tmp_path / "sys/class/thermal/thermal_zone0/temp"
    sensor.parent.mkdir(parents=True)
    sensor.write_text("45000\n")
    clock = SteppedClock()

    def on_phase(phase: str) -> None:
        if phase == "burst":
            sensor.unlink()
            clock.stepped_ns = -3_600 * 10**9

    report = run_benchmark(
        variants / "good", NO_COLD, clock=clock, root=tmp_path, on_phase=on_phase
    )
    assert report.telemetry.vanished == ("temperature_c:thermal_zone0",)
    assert report.clock_steps_s == (pytest.approx(-3_600.0, abs=0.1),)
    assert report.runs[0].burst.latency.at(0.5).value_ms > 0


PHASES = ("preflight", "cold-start", "load", "warm-up", "burst", "paced", "accuracy")


@pytest.mark.parametrize("phase", [*PHASES, "sustained", "comparison"])
def test_ctrl_c_in_any_phase_leaves_a_partial_result(variants, phase):
    def on_phase(name: str) -> None:
        if name == phase:
            raise KeyboardInterrupt

    changes = {
        "sustained": {"minutes": 0.005},
        "comparison": {"against": variants / "deep"},
    }.get(phase, {"fps": 100.0})
    report = run_benchmark(variants / "good", replace(SHORT, **changes), on_phase=on_phase)
    assert report.interrupted == phase
    jsonschema.validate(json.loads(canonical_json(report)), bench_schema())
    if phase == "accuracy":
        assert report.runs[0].paced is not None
        assert report.runs[0].accuracy is None


@pytest.mark.parametrize("phase", ["warm-up", "burst", "paced"])
def test_ctrl_c_in_the_middle_of_a_phase_keeps_what_was_measured(variants, phase):
    """The frame source raises, as a signal would, once the phase has taken 25 frames."""
    frames = InterruptingFrames(phase)
    report = run_benchmark(
        variants / "good",
        replace(NO_COLD, fps=200.0),
        frames=frames,
        on_phase=frames.on_phase,
    )
    assert report.interrupted == phase
    run = report.runs[0]
    if phase == "burst":
        assert run.burst.latency.samples.count == 25
        assert not run.burst.enough
    if phase == "paced":
        assert run.burst is not None
        assert run.paced.latency.samples.count == 25


def test_a_real_ctrl_c_prints_the_partial_result_and_exits_130(variants, tmp_path):
    out = tmp_path / "out.json"
    command = [
        *(sys.executable, "-c", "from asdic.cli.main import main; main()", "bench"),
        *(str(variants / "good"), "--cold-starts", "0", "--threads", "1"),
        *("--minutes", "5", "--seconds", "0.2", "--json", str(out)),
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as it:
        for line in it.stderr:
            if line.startswith("sustained"):
                it.send_signal(signal.SIGINT)
                break
        words = it.stdout.read()
    assert it.returncode == 130
    assert parse_bench(out.read_bytes()).interrupted == "sustained"
    assert "interrupted in the phase sustained" in words


class SteppedClock(SystemClock):
    """This machine's clocks, whose time of day somebody sets."""

    stepped_ns = 0

    def wall_ns(self) -> int:
        return super().wall_ns() + self.stepped_ns


class InterruptingFrames:
    """Gives frames, and a Ctrl-C at the 26th of one phase."""

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self._now = ""
        self._left = 25

    def on_phase(self, phase: str) -> None:
        self._now = phase

    def next_frame(self):
        if self._now == self._phase:
            self._left -= 1
            if self._left < 0:
                raise KeyboardInterrupt
        return IMAGE
