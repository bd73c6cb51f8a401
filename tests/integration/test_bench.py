"""The benchmark, with real runtimes and through the command."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import jsonschema
import msgspec
import openvino
import pytest
from click.testing import CliRunner

from asdic.cli.bench import bench
from asdic.contract.bench import Build, ComparisonVerdict, bench_schema, parse_bench
from asdic.contract.errors import ConfigError, ReleaseError
from asdic.contract.files import canonical_json
from asdic.contract.variant import VARIANT_FILE, encode_variant, read_variant
from asdic.device.bench.bench import bench_folder, compare, measure, peak_memory_bytes
from asdic.device.bench.benchmark import run_benchmark
from asdic.device.runner.openvino import build_of
from asdic.device.runner.runner import Runner
from tests.support.bench_variants import IMAGE, SHORT, make_bench_variants
from tests.support.models import make_keyword_variant

pytestmark = pytest.mark.alone
QUICK = ("--seconds", "0.05", "--threads", "1", "--cold-starts", "0")


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bench_variants(tmp_path_factory.mktemp("bench"))


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
