"""The benchmark, with real runtimes and through the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from asdic.cli.bench import bench
from asdic.contract.errors import ConfigError, ReleaseError
from asdic.contract.variant import VARIANT_FILE, encode_variant, read_variant
from asdic.device.bench.bench import bench_folder, compare, measure, peak_memory_bytes
from asdic.device.runner.runner import Runner
from tests.support.models import labelled_discs, make_tiny_variant

IMAGE = labelled_discs(1)[0][0]


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    make_tiny_variant(folder / "good")
    make_tiny_variant(folder / "faulty", offset=0.01, golden_offset=0.0)
    make_tiny_variant(folder / "jetson", target="jetson-orin-int8")
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


def test_the_command_prints_json_for_machines(variants):
    done = CliRunner().invoke(
        bench, [str(variants / "good"), "--seconds", "0.05", "--threads", "1", "--json"]
    )
    assert done.exit_code == 0
    printed = json.loads(done.stdout)
    assert printed["golden"]["passed"] is True
    assert printed["runtime"]["simulated"] is False


def test_the_command_tells_people_what_is_simulated(variants):
    done = CliRunner().invoke(bench, [str(variants / "jetson"), "--seconds", "0.05", "--simulate"])
    assert done.exit_code == 0
    assert "p50" in done.stdout
    assert "simulated by another runtime" in done.stdout


def test_a_failed_golden_check_fails_the_command_after_its_figures(variants):
    done = CliRunner().invoke(bench, [str(variants / "faulty"), "--seconds", "0.05"])
    assert isinstance(done.exception, ReleaseError)
    assert "the golden check failed" in str(done.exception)
    assert "FAILED" in done.stdout
