"""A call of the quantizer that is stopped on the way, and converters that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from asdic.contract.errors import QuantizationError
from asdic.contract.target import ModelFormat
from asdic.quantization.job import ANSWER_FILE, ConvertJob, Workers, write_calibration
from asdic.quantization.source import read_source
from tests.support.disc_finder import example, write_discs, write_run

TARGET = "x86-openvino-int8"
DEADLINE_S = 120.0
ASDIC = "from asdic.cli.main import main; main()"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupted")
    return write_run(folder / "run", write_discs(folder / "data"))


@pytest.fixture
def job(run: Path, tmp_path: Path) -> ConvertJob:
    calibration = tmp_path / "calibration.npz"
    write_calibration([{"image": example().numpy()}], calibration)
    model = read_source(run, tmp_path)
    return ConvertJob(model=model, model_format=ModelFormat.OPENVINO_IR, calibration=calibration)


@contextmanager
def _quantizing(run: Path, out: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", ASDIC, "quantize", str(run), "--target", TARGET]
    process = subprocess.Popen(
        [*command, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _wait_for_conversion(out: Path) -> Path:
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        if found := next(out.glob(f".work/*/openvino-ir/float/{ANSWER_FILE}"), None):
            return found
        time.sleep(0.02)
    raise AssertionError("no model was converted")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_call_leaves_no_variant_and_the_next_goes_on(
    run: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "variants"
    with _quantizing(run, out) as process:
        _wait_for_conversion(out)
        workers = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, number)
        process.wait(DEADLINE_S)
    psutil.wait_procs(workers, timeout=DEADLINE_S)
    assert [worker for worker in workers if worker.is_running()] == []
    assert [path.name for path in out.iterdir()] == [".work"]
    with _quantizing(run, out) as process:
        assert process.wait(DEADLINE_S) == 0
    assert [path.name for path in out.iterdir()] == [TARGET]


def test_a_job_that_was_done_is_not_done_again_unless_its_files_changed(
    job: ConvertJob, tmp_path: Path
) -> None:
    folder = tmp_path / "float"
    Workers().convert(job, folder)
    done = (folder / ANSWER_FILE).stat().st_mtime_ns
    Workers().convert(job, folder)
    assert (folder / ANSWER_FILE).stat().st_mtime_ns == done
    (folder / "float.bin").write_bytes(b"damaged")
    Workers().convert(job, folder)
    assert (folder / ANSWER_FILE).stat().st_mtime_ns > done


def test_a_second_call_at_the_same_time_is_refused(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "variants"
    with _quantizing(run, out):
        _wait_for_conversion(out)
        with _quantizing(run, out) as second:
            text = second.communicate(timeout=DEADLINE_S)[0].decode()
    assert second.returncode == 1
    assert "another asdic quantize works in" in text


def test_a_converter_that_runs_out_of_memory_says_so(job: ConvertJob, tmp_path: Path) -> None:
    with pytest.raises(QuantizationError, match=r"converter for openvino-ir ran out of memory"):
        Workers(memory_bytes=700 << 20).convert(job, tmp_path / "float")
