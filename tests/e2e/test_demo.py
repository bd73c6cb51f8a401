"""The demo does the main job, and what it leaves behind says so."""

from __future__ import annotations

import json
import re
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import pytest

TARGETS = {"x86-litert-int8", "arm64-litert-int8", "x86-openvino-int8", "jetson-orin-int8"}
TARGET_FIELDS = {
    "fp32",
    "int8",
    "drop",
    "ci95",
    "sqnr_db",
    "bytes_fp32",
    "bytes_int8",
    "latency_ratio",
    "judged_by",
}
DEMO_TIMEOUT_S = 1200


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a demo that ended well."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    command = Path(sysconfig.get_path("scripts")) / "asdic"
    result = subprocess.run(
        [command, "demo", "--out", out],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEMO_TIMEOUT_S,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-6000:]
    return out


@pytest.fixture(scope="module")
def summary(demo: Path) -> dict[str, Any]:
    return dict(json.loads((demo / "summary.json").read_text()))


pytestmark = [pytest.mark.slow, pytest.mark.timeout(DEMO_TIMEOUT_S + 60)]


def test_every_target_was_judged(summary: dict[str, Any]) -> None:
    assert set(summary["targets"]) == TARGETS
    for target in summary["targets"].values():
        assert set(target) >= TARGET_FIELDS


def test_int8_is_as_good_as_fp32_within_a_point(summary: dict[str, Any]) -> None:
    assert {name: t["drop"] for name, t in summary["targets"].items() if t["drop"] > 1.0} == {}


def test_the_network_beats_the_threshold(summary: dict[str, Any]) -> None:
    trained = summary["training"]["1.0.0"]
    assert trained["dice"] > trained["baseline"] + 10


def test_the_jetson_graph_is_said_to_be_simulated(summary: dict[str, Any]) -> None:
    jetson = summary["targets"]["jetson-orin-int8"]
    assert jetson["simulated"]
    assert "simulates tensorrt" in jetson["judged_by"]


def test_two_rollouts_finished_and_the_broken_one_halted(summary: dict[str, Any]) -> None:
    states = [(rollout["release"], rollout["state"]) for rollout in summary["rollouts"]]
    assert states == [
        ("1.0.0", "finished"),
        ("1.1.0", "finished"),
        ("1.2.0", "halted"),
        ("1.0.0", "finished"),
    ]


def test_five_boxes_never_saw_the_broken_release(summary: dict[str, Any]) -> None:
    broken = summary["rollouts"][2]
    assert (broken["committed"], broken["failed"], broken["never_offered"]) == (0, 1, 5)


def test_all_boxes_ran_the_good_release_and_then_the_first_again(summary: dict[str, Any]) -> None:
    assert [device["release"] for device in summary["devices_before_rollback"]] == ["1.1.0"] * 6
    assert [device["release"] for device in summary["devices"]] == ["1.0.0"] * 6
    assert {device["state"] for device in summary["devices"]} == {"committed"}


def test_nothing_forbidden_happened(summary: dict[str, Any]) -> None:
    assert summary["forbidden"] == dict.fromkeys(
        ("brick", "mixed", "unverified_ran", "downgraded", "stuck", "lied"), 0
    )


def test_the_report_needs_no_network(demo: Path) -> None:
    page = (demo / "report.html").read_text()
    assert re.findall(r"""(?:src|href)=["'](?!data:|#)""", page) == []
    assert page.count("data:image/png;base64,") >= len(TARGETS)
