"""The benchmark, with real runtimes and through the command."""

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
import msgspec
import numpy as np
import openvino
import pytest
from click.testing import CliRunner

from asdic.cli.bench import bench
from asdic.contract.bench import Build, ComparisonVerdict, bench_schema, parse_bench
from asdic.contract.errors import (
    ConfigError,
    DataError,
    DigestError,
    IncompatibleTargetError,
    ReleaseError,
)
from asdic.contract.files import canonical_json
from asdic.contract.variant import VARIANT_FILE, encode_variant, read_variant
from asdic.device.bench.bench import bench_folder, compare, measure, peak_memory_bytes
from asdic.device.bench.benchmark import run_benchmark
from asdic.device.bench.clock import SystemClock
from asdic.device.bench.frames import LiveFrames, RepeatedFrames
from asdic.device.bench.settings import Settings
from asdic.device.runner.openvino import build_of
from asdic.device.runner.preprocess import prepare_image
from asdic.device.runner.runner import Runner
from tests.support.models import labelled_discs, make_keyword_variant, make_tiny_variant

pytestmark = pytest.mark.alone

IMAGE = labelled_discs(1)[0][0]
SHORT = Settings(seconds=0.2, threads=(1,), cold_starts=1)
NO_COLD = replace(SHORT, cold_starts=0)
QUICK = ("--seconds", "0.05", "--threads", "1", "--cold-starts", "0")
FOREIGN = "x86-litert-int8" if platform.machine() == "aarch64" else "arm64-litert-int8"


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    make_tiny_variant(folder / "good")
    make_tiny_variant(folder / "faulty", offset=0.01, golden_offset=0.0)
    make_tiny_variant(folder / "jetson", target="jetson-orin-int8")
    make_tiny_variant(folder / "deep", depth=300)
    return folder


def test_a_benchmark_says_what_it_measured_and_on_what(variants):
    result = bench_folder(variants / "good", seconds=0.2, threads=1)
    assert result.target == "x86-openvino-int8"
    assert result.runtime.runtime == "openvino"
    assert result.threads == 1
    assert result.load_s > 0
    assert result.first_ms > 0
    assert result.warm_up > 0
    assert result.samples > 100
    low, high = result.p50_interval_ms
    assert low <= result.p50_ms <= high <= result.p90_ms
    assert 0 < result.throughput_per_s <= result.samples / 0.2
    assert result.golden.passed


def test_a_tail_of_too_few_samples_is_left_out(variants):
    with Runner.open(variants / "good", threads=1) as runner:
        result = measure(runner, IMAGE, seconds=1e-6, threads=1)
    assert result.samples == 10
    assert result.p90_ms is None
    assert result.p99_ms is None
    assert result.p50_interval_ms is not None


def test_a_stand_in_is_called_one(variants):
    result = bench_folder(variants / "jetson", seconds=0.05, threads=1, simulate=True)
    assert result.simulated
    assert result.emulated


def test_a_variant_without_a_golden_set_is_measured_on_noise(variants, tmp_path):
    folder = Path(shutil.copytree(variants / "good", tmp_path / "variant"))
    variant = msgspec.structs.replace(read_variant(folder), golden=None)
    (folder / VARIANT_FILE).write_bytes(encode_variant(variant))
    result = bench_folder(folder, seconds=0.05, threads=1)
    assert result.golden is None
    assert result.samples >= 10


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_no_time_is_no_benchmark(variants, seconds):
    with pytest.raises(ConfigError, match="positive"):
        bench_folder(variants / "good", seconds=seconds)


def test_a_model_beside_itself_is_as_fast(variants):
    def opened() -> Runner:
        return Runner.open(variants / "good", threads=1)

    result = compare(opened, opened, IMAGE, seconds=0.4)
    assert result.low <= result.ratio <= result.high
    # Equal models on a machine that others use too: a factor of two would be a fault here.
    assert 0.5 < result.ratio < 2.0
    assert result.pairs >= 10


def test_memory_is_that_of_this_process():
    assert 10 << 20 < peak_memory_bytes() < 64 << 30


def test_the_whole_result_fits_the_published_schema(variants):
    report = run_benchmark(variants / "good", replace(SHORT, fps=100.0, minutes=0.005))
    jsonschema.validate(json.loads(canonical_json(report)), bench_schema())
    (run,) = report.runs
    assert run.cold_start is not None
    assert len(run.cold_start.load_s) == 1
    (build,) = run.cold_start.builds
    assert not build.from_cache
    assert 0 < build.seconds < run.cold_start.load_s[0]
    assert run.warm_up.discarded > 0
    assert run.burst.throughput_per_s > 0
    assert run.paced.frames == 30
    assert run.sustained.fps == 100.0
    assert run.accuracy.passed
    assert run.memory_bytes > 10 << 20
    assert report.runtime.runtime == "openvino"
    assert not report.emulated
    assert report.interrupted is None


@pytest.mark.parametrize("name", ["good", "jetson"])
def test_runtimes_that_run_here_give_a_valid_result(variants, name):
    report = run_benchmark(variants / name, replace(SHORT, simulate=name == "jetson"))
    jsonschema.validate(json.loads(canonical_json(report)), bench_schema())
    assert report.simulated is (name == "jetson")
    version = report.runtime.version
    assert report.runtime.delegate.startswith(
        f"CPUExecutionProvider {version}"
        if name == "jetson"
        else f"openvino_intel_cpu_plugin {version}"
    )
    if name == "jetson":
        assert report.runs[0].cold_start.builds is None


def test_litert_gives_a_valid_result(tmp_path, shared_data):
    folder = make_keyword_variant(tmp_path / "kws", shared_data)
    report = run_benchmark(folder, SHORT)
    jsonschema.validate(json.loads(canonical_json(report)), bench_schema())
    assert report.runtime.runtime == "litert"
    assert report.runtime.delegate == f"XNNPACK (built into LiteRT {report.runtime.version})"
    assert report.runs[0].cold_start.builds is None
    assert report.runs[0].accuracy.passed


def test_a_model_that_openvino_had_compiled_before_came_from_its_cache(variants, tmp_path):
    core = openvino.Core()
    model = core.read_model(str(next((variants / "good").glob("*.xml"))))
    settings = {"CACHE_DIR": str(tmp_path)}
    built, cached = (build_of(core.compile_model(model, "CPU", settings), 0.5) for _ in "12")
    assert built == Build(from_cache=False, seconds=0.5)
    assert cached == Build(from_cache=True, seconds=None)


def test_each_number_of_threads_is_a_run_of_its_own(variants):
    report = run_benchmark(variants / "good", replace(SHORT, threads=(1, 2), cold_starts=0))
    assert [run.threads for run in report.runs] == [1, 2]
    assert all(run.burst is not None and run.cold_start is None for run in report.runs)


def test_a_slower_model_is_found_slower_and_the_other_way_round(variants):
    settings = replace(SHORT, seconds=1.0, against=variants / "good")
    report = run_benchmark(variants / "deep", settings)
    assert report.against.verdict is ComparisonVerdict.SLOWER
    assert report.against.ratio > 1.2
    assert [one.first for one in report.against.restarts] == list("ababa")
    assert report.runs == ()
    jsonschema.validate(json.loads(canonical_json(report)), bench_schema())


# Bad input


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


# The command


def test_the_command_prints_json_for_machines(variants):
    done = CliRunner().invoke(bench, [str(variants / "good"), *QUICK, "--json"])
    assert done.exit_code == 0, done.output
    printed = json.loads(done.stdout)
    assert printed["format"] == "asdic-bench/1"
    assert printed["runs"][0]["accuracy"]["passed"] is True


def test_the_command_writes_result_and_page(variants, tmp_path):
    files = ["--json", str(tmp_path / "out.json"), "--html", str(tmp_path / "out.html")]
    done = CliRunner().invoke(bench, ["run", str(variants / "good"), *QUICK, *files])
    assert done.exit_code == 0, done.output
    assert parse_bench((tmp_path / "out.json").read_bytes()).runs[0].burst is not None
    assert "<svg" in (tmp_path / "out.html").read_text()
    assert "p50" in done.stdout


def test_the_command_tells_people_what_is_simulated(variants):
    done = CliRunner().invoke(bench, [str(variants / "jetson"), *QUICK, "--simulate"])
    assert done.exit_code == 0
    assert "p50" in done.stdout
    assert "simulated by another runtime" in done.stdout


def test_frames_of_a_folder_are_measured(variants, tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), IMAGE)
    done = CliRunner().invoke(bench, [str(variants / "good"), *QUICK, "--frames", str(tmp_path)])
    assert done.exit_code == 0, done.output


def test_a_failed_golden_check_fails_the_command_after_its_figures(variants):
    done = CliRunner().invoke(bench, [str(variants / "faulty"), *QUICK])
    assert isinstance(done.exception, ReleaseError)
    assert "the golden check failed" in str(done.exception)
    assert "FAILED" in done.stdout


@pytest.mark.parametrize("words", [["--threads", "0"], ["--threads", "one"], ["--restarts", "4"]])
def test_impossible_options_are_a_usage_error(variants, words):
    assert CliRunner().invoke(bench, [str(variants / "good"), *words]).exit_code == 2


@pytest.mark.parametrize(
    "words", [["--seconds", "0"], ["--seconds", "nan"], ["--fps", "-1"], ["--minutes", "-1"]]
)
def test_impossible_times_are_refused(variants, words):
    done = CliRunner().invoke(bench, [str(variants / "good"), *words])
    assert isinstance(done.exception, ConfigError)


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
