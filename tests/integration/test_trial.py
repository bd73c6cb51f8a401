"""What a trial gives up so that the live model beside it keeps its pace."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

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
