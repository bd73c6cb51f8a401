"""Whole agents with real runners, over a real broker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asdic.contract.broker import BrokerAddress
from asdic.contract.messages import CHUNK_BYTES, UpdateState, offer_topic
from asdic.device.application import Application
from asdic.fleet.broker import open_broker
from asdic.fleet.director import encode_offer
from tests.support.boxes import AGENT, PATIENCE_S, Box, runs
from tests.support.shore import Shore, shore_for
from tests.support.yard import Yard

HEAVY = {
    *("torch", "onnx", "onnxruntime", "openvino", "ai_edge_litert", "tflite_runtime"),
    *("cv2", "numpy", "tuf", "securesystemslib", "sqlalchemy", "starlette", "nncf", "scipy"),
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerAddress]:
    with open_broker(tmp_path_factory.mktemp("broker"), None) as address:
        yield address


@pytest.fixture
def box(
    yard: Yard, broker: BrokerAddress, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Box]:
    """A box of its own for each test, so that nothing retained is another's."""
    device = f"box-{abs(hash(request.node.name)) % 10**8}"
    with Box.make(tmp_path / device, roots=yard.roots, device=device, broker=broker) as made:
        yield made


@pytest.fixture
def shore(yard: Yard, broker: BrokerAddress, box: Box) -> Iterator[Shore]:
    with shore_for(broker, yard, box) as made:
        yield made


def test_releases_go_up_a_bad_one_is_refused_and_the_fleet_goes_back(
    yard: Yard, box: Box, shore: Shore
) -> None:
    box.start()
    for version, state in (
        ("1.0.0", UpdateState.COMMITTED),
        ("1.1.0", UpdateState.COMMITTED),
        ("1.2.0", UpdateState.FAILED),
    ):
        shore.offer(version)
        report = shore.until_report(
            lambda report, version=version: (  # type: ignore[misc]
                report.version == version
                and report.state in {UpdateState.COMMITTED, UpdateState.FAILED}
            )
        )
        assert report.state is state
        assert report.rollout == f"rollout-{version}"
    assert report.refusal is not None
    assert report.refusal.code == "golden"
    assert report.loaded is not None
    assert report.loaded.version == "1.1.0"
    shore.offer("1.0.0", rollout="back")
    report = shore.until_report(
        lambda report: report.rollout == "back" and report.state is UpdateState.COMMITTED
    )
    assert report.loaded is not None
    assert report.loaded.manifest == yard.manifest("1.0.0")
    assert report.runtime is not None
    assert report.runtime.simulated
    numbers = [one.number for one in shore.reports]
    assert numbers == sorted(set(numbers))
    assert box.stop() == 0


def test_a_download_goes_on_from_its_bitmap_after_a_kill(
    yard: Yard, box: Box, shore: Shore
) -> None:
    yard_with_a_large_release(yard)
    box.start()
    shore.offer("3.0.0")
    shore.until(lambda: any(one.chunks >= 8 for one in shore.progress), serve=False)
    large = next(one for one in shore.progress if one.chunks >= 8)
    shore.give(large.blob, 0, 1, 2, 5)
    shore.until(lambda: shore.progress[-1].have == 4, serve=False)
    box.kill()
    shore.progress.clear()
    box.start()
    shore.until(lambda: any(one.blob == large.blob for one in shore.progress), serve=False)
    again = next(one for one in shore.progress if one.blob == large.blob)
    assert (again.have, again.first_missing) == (4, 3)
    report = shore.until_report(lambda report: report.state is UpdateState.COMMITTED)
    assert report.version == "3.0.0"
    assert box.stop() == 0


def test_lost_chunks_are_asked_for_and_come_on_the_boxs_own_topic(
    yard: Yard, box: Box, shore: Shore
) -> None:
    yard_with_a_large_release(yard)
    box.start()
    shore.offer("3.0.0")
    shore.until(lambda: any(one.chunks >= 8 for one in shore.progress), serve=False)
    shore.until(lambda: len(shore.missing) >= 1, serve=False)
    while shore.missing:
        wanted = shore.missing.pop()
        for first, last in wanted.ranges:
            shore.give(wanted.blob, *range(first, last + 1), broadcast=False)
    shore.progress.clear()
    report = shore.until_report(lambda report: report.state is UpdateState.COMMITTED)
    assert report.version == "3.0.0"
    assert box.stop() == 0


def test_an_offer_for_another_device_is_reported_as_refused(
    yard: Yard, box: Box, shore: Shore
) -> None:
    box.start()
    foreign = encode_offer(yard.offer("1.0.0", device="somebody-else"))
    shore.publish(offer_topic(box.config.device), foreign, retain=True)
    report = shore.until_report(lambda report: report.state is UpdateState.REJECTED)
    assert report.refusal is not None
    assert report.refusal.code == "wrong-device"
    assert box.stop() == 0


def test_a_box_says_when_it_comes_and_when_it_goes(box: Box, shore: Shore) -> None:
    box.start()
    shore.until(lambda: b'{"online":true}' in shore.presence)
    assert box.stop() == 0
    shore.until(lambda: shore.presence[-1] == b'{"online":false}')


def test_the_broker_says_that_a_killed_box_is_gone(box: Box, shore: Shore) -> None:
    box.start()
    shore.until(lambda: b'{"online":true}' in shore.presence)
    box.kill()
    shore.until(lambda: shore.presence[-1] == b'{"online":false}')


def test_a_broker_that_cannot_be_reached_is_one_line_and_no_end(yard: Yard, tmp_path: Path) -> None:
    box = Box.make(tmp_path / "box1", roots=yard.roots)
    with box:
        box.start()
        box.wait_for(lambda _: "cannot be reached" in box.words)
        box.wait_for(lambda status: status.report is not None)
        assert box.is_running
        assert box.stop() == 0
    assert (
        box.words.count("cannot be reached (Connection refused); trying again until it answers")
        == 1
    )
    assert "Traceback" not in box.words


def test_a_box_without_a_broker_still_runs_its_model(yard: Yard, tmp_path: Path) -> None:
    box = Box.make(tmp_path / "box1", roots=yard.roots)
    assert box.install(yard.stick("1.0.0")).returncode == 0
    with box:
        box.start()
        box.wait_for(lambda status: runs(status) == "1.0.0" and "cannot be reached" in box.words)
        assert box.stop() == 0


def test_an_exam_defers_an_update_until_it_is_over(box: Box, shore: Shore) -> None:
    box.start("--no-runner")
    box.wait_for(lambda _: (box.state.application / "agent.sock").exists())
    with Application.connect(box.state.path) as program:
        program.busy(600.0)
        shore.offer("1.0.0")
        shore.until_report(lambda report: report.state is UpdateState.DEFERRED)
        program.busy(0.0)
        shore.until_report(lambda report: report.state is UpdateState.PROBATION)
        release = program.current()
        program.loaded(release, inferences=2)
        report = shore.until_report(lambda report: report.state is UpdateState.COMMITTED)
    assert report.loaded is not None
    assert report.loaded.version == "1.0.0"
    assert box.stop() == 0


def test_a_crashing_runner_is_started_again_and_the_report_says_that_nothing_ran(
    box: Box, shore: Shore
) -> None:
    box.start()
    shore.offer("1.0.0")
    report = shore.until_report(lambda report: report.state is UpdateState.COMMITTED)
    assert report.loaded is not None
    os.kill(report.loaded.pid, signal.SIGKILL)
    shore.until_report(lambda report: report.loaded is None)
    again = shore.until_report(lambda report: report.loaded is not None)
    assert again.loaded is not None
    assert again.loaded.pid != report.loaded.pid
    assert box.stop() == 0


def test_an_agent_at_rest_has_imported_nothing_heavy(box: Box, shore: Shore) -> None:
    box.start("--no-runner", command=(sys.executable, "-X", "importtime", *AGENT[1:], "run"))
    shore.until(lambda: len(shore.reports) > 0)
    assert box.stop() == 0
    lines = (line for line in box.words.splitlines() if line.startswith("import time:"))
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "paho" in imported
    assert not imported & HEAVY


def test_two_agents_on_one_folder_are_one_too_many(box: Box) -> None:
    box.start()
    box.wait_for(lambda status: status.report is not None)
    done = box.call("run")
    assert done.returncode == 1
    assert "an agent already works on" in done.stderr
    assert done.stderr.count("\n") == 1
    assert box.stop() == 0


def test_a_folder_that_is_no_box_is_one_clear_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [*AGENT, "run", "--state", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "is not an enrolled device; enrol it with" in done.stderr
    assert done.stderr.count("\n") == 1


def yard_with_a_large_release(yard: Yard) -> None:
    """Add 3.0.0, whose model carries two megabytes that no one needs."""
    if "3.0.0" in yard.layout.versions():
        return
    yard.add("3.0.0", offset=0.15, ballast_bytes=9 * CHUNK_BYTES)


def test_a_box_comes_back_after_the_broker_was_away(yard: Yard, tmp_path: Path) -> None:
    with open_broker(tmp_path / "broker", None) as address:
        pass
    with Box.make(tmp_path / "box1", roots=yard.roots, broker=address) as box:
        box.start()
        box.wait_for(lambda _: "cannot be reached" in box.words)
        with open_broker(tmp_path / "broker", None), shore_for(address, yard, box) as shore:
            shore.offer("1.0.0")
            report = shore.until_report(lambda report: report.state is UpdateState.COMMITTED)
            assert report.version == "1.0.0"
        box.wait_for(lambda _: "is gone" in box.words)
        assert box.is_running
        assert box.stop() == 0
