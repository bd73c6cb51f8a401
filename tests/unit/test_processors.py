"""Affinity and the quotas of control groups, on made-up trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asdic.device.runner.processors import cpu_quota, usable_threads

ALLOWED = len(os.sched_getaffinity(0))


def tree(folder: Path, membership: str, files: dict[str, str]) -> dict[str, Path]:
    """Write a cgroup tree and a membership, and return them as the arguments that name them."""
    (folder / "membership").write_text(membership)
    for name, content in files.items():
        (folder / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name).write_text(content + "\n")
    return {"cgroups": folder / "cgroup", "membership": folder / "membership"}


def test_without_a_quota_affinity_decides(tmp_path):
    places = tree(tmp_path, "0::/box\n", {"box/cpu.max": "max 100000"})
    assert cpu_quota(**places) is None
    assert usable_threads(**places) == ALLOWED


def test_without_cgroups_affinity_decides(tmp_path):
    places = {"cgroups": tmp_path / "none", "membership": tmp_path / "none"}
    assert usable_threads(**places) == ALLOWED


@pytest.mark.parametrize(
    ("membership", "files", "quota"),
    [
        ("0::/box\n", {"box/cpu.max": "150000 100000"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "200000 100000"}, 2.0),
        ("0::/\n", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/docker/abc\n", {"cpu.max": "300000 100000"}, 3.0),
        ("0::/../../other\n", {"cpu.max": "100000 100000"}, 1.0),
        (
            "4:memory:/m\n3:cpu,cpuacct:/box\n",
            {"cpu,cpuacct/box/cpu.cfs_quota_us": "25000",
             "cpu,cpuacct/box/cpu.cfs_period_us": "50000"},
            0.5,
        ),
        (
            "1:cpu:/box\n0::/\n",
            {"cpu/box/cpu.cfs_quota_us": "200000", "cpu/box/cpu.cfs_period_us": "100000"},
            2.0,
        ),
        (
            "1:cpu:/box\n",
            {"cpu/box/cpu.cfs_quota_us": "-1", "cpu/box/cpu.cfs_period_us": "100000"},
            None,
        ),
        ("3:cpuset:/box\n", {"cpuset/box/cpu.max": "100000 100000"}, None),
        ("0::/box\n", {"box/cpu.max": "what ever"}, None),
        ("0::/box\n", {"box/cpu.max": "100000 0"}, None),
        ("no group\n", {"cpu.max": "100000 100000"}, None),
    ],
)  # fmt: skip
def test_the_smallest_quota_on_the_way_up_counts(tmp_path, membership, files, quota):
    assert cpu_quota(**tree(tmp_path, membership, files)) == quota


@pytest.mark.parametrize("quota", ["20000 100000", "150000 100000"])
def test_a_small_quota_means_one_thread(tmp_path, quota):
    assert usable_threads(**tree(tmp_path, "0::/box\n", {"box/cpu.max": quota})) == 1


def test_a_wide_quota_adds_no_processors(tmp_path):
    places = tree(tmp_path, "0::/box\n", {"box/cpu.max": "99900000 100000"})
    assert usable_threads(**places) == ALLOWED
