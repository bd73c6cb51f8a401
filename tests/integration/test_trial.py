"""What a trial gives up so that the live model beside it keeps its pace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from asdic.contract.variant import read_variant
from asdic.device.runner.cache import COMPILED_LIMIT_BYTES
from asdic.device.update.gate import file_limit_bytes
from asdic.device.update.trial import FILE_LIMIT_BYTES, own_folders
from tests.support.models import make_tiny_variant

PROGRAM = """
import json, os, sys
from pathlib import Path
from asdic.device.runner.engine import usable_threads
from asdic.device.update.trial import confine
before = sorted(os.sched_getaffinity(0))
given_up = confine(Path(sys.argv[1]), 1 << 30, 100)
print(json.dumps([given_up, before, sorted(os.sched_getaffinity(0)), os.nice(0), usable_threads(),
    os.sched_getscheduler(0)]))
"""


class Confined(msgspec.Struct, array_like=True):
    """What the process saw."""

    given_up: tuple[str, ...]
    before: list[int]
    after: list[int]
    niceness: int
    threads: int
    policy: int


def confined(folder: Path, cores: set[int]) -> Confined:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        capture_output=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    return msgspec.json.decode(done.stdout, type=Confined)


def test_a_trial_leaves_a_core_free_and_takes_no_more_threads_than_are_left(tmp_path):
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("one core only")
    found = confined(tmp_path, cores)
    assert "core" in found.given_up
    assert found.after == found.before[1:]
    assert found.threads <= len(found.after)


def test_a_trial_on_one_core_shares_it_with_low_priority(tmp_path):
    found = confined(tmp_path, {min(os.sched_getaffinity(0))})
    assert "core" not in found.given_up
    assert found.after == found.before
    assert found.niceness >= 10
    assert found.policy == os.SCHED_IDLE


WRITER = """
import json, sys
from pathlib import Path
from asdic.device.runner.cache import cache_folder, keep_in
from asdic.device.update.trial import confine
folder, cache, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
keep_in(cache)
given_up = confine(folder, 1 << 30, 100, file_bytes=size, cache=cache)
kept_in = cache_folder("tensorrt")
(kept_in / "a.plan").write_bytes(bytes(2 << 20))
print(json.dumps(given_up))
"""


def write_plan(folder: Path, limit_bytes: int) -> subprocess.CompletedProcess[bytes]:
    """Write 2 MiB into the release's cache as the trial does, once it is confined."""
    (folder / "cache").mkdir()
    return subprocess.run(
        [sys.executable, "-c", WRITER, str(folder), str(folder / "cache"), str(limit_bytes)],
        capture_output=True,
        check=False,
    )


def test_a_trial_can_keep_what_it_built_and_its_owner_takes_it_over(tmp_path):
    done = write_plan(tmp_path, 4 << 20)
    assert done.returncode == 0, done.stderr.decode()
    own_folders(tmp_path / "cache", os.geteuid())
    folder = tmp_path / "cache" / "tensorrt"
    assert folder.stat().st_uid == os.geteuid()
    assert (folder / "a.plan").stat().st_size == 2 << 20


def test_a_trial_that_builds_nothing_cannot_write_a_large_file(tmp_path):
    assert write_plan(tmp_path, FILE_LIMIT_BYTES).returncode != 0


@pytest.mark.parametrize(
    ("target", "simulate", "limit_bytes"),
    [
        ("jetson-orin-int8", False, COMPILED_LIMIT_BYTES),
        ("jetson-orin-int8", True, FILE_LIMIT_BYTES),
        ("x86-openvino-int8", False, FILE_LIMIT_BYTES),
    ],
)
def test_only_a_runtime_that_builds_may_write_much(tmp_path, target, simulate, limit_bytes):
    variant = read_variant(make_tiny_variant(tmp_path / "v", target=target))
    assert file_limit_bytes(variant, simulate=simulate) == limit_bytes
