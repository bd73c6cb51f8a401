"""``asdic serve`` as a process: what it leaves behind when it is killed, and how it goes on."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asdic.contract.messages import UpdateState
from asdic.fleet.client import FleetClient
from asdic.fleet.view import Overview, RolloutView
from tests.support.fleet import LITERT, add_signed_release
from tests.support.paper_box import PaperBox, enrol_over_http, enrolment, wait_for

SERVE = (sys.executable, "-c", "from asdic.cli.main import main; main()", "serve")


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    words = ("--state", "fleet", "--releases", "releases", "--port", "0", *options)
    with (folder / "serve.log").open("ab") as log:
        process = subprocess.Popen([*SERVE, *words], cwd=folder, stdout=log, stderr=log)
    try:
        wait_for(lambda: _is_ready(folder, process), "the server is ready", timeout_s=30)
        yield process
    finally:
        process.kill()
        process.wait()


def _is_ready(folder: Path, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, (folder / "serve.log").read_text()
    path = folder / "fleet" / "serve.json"
    return path.is_file() and json.loads(path.read_bytes())["pid"] == process.pid


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    add_signed_release(tmp_path / "releases", "1.0.0")
    return tmp_path


def test_a_killed_server_goes_on_where_it_stood(folder: Path) -> None:
    boxes = [PaperBox(f"box-{n}", LITERT, fetches=False) for n in range(2)]
    with serving(folder) as process:
        client = FleetClient(folder / "fleet")
        for box in boxes:
            token = client.post("tokens", {}, dict[str, str])["token"]
            request = enrolment(token, box.device, box.key, LITERT)
            grant = enrol_over_http(client.url, request, token)
        wish = {"version": "1.0.0", "stages": "1,100%"}
        rollout = client.post("rollouts", wish, RolloutView)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with serving(folder):
        client = FleetClient(folder / "fleet")
        for box in boxes:
            box.fetches = True
            box.connect(grant.broker_host, grant.broker_port)
        rollout = client.follow(
            client.get(f"rollouts/{rollout.id}", RolloutView), lambda _view: None
        )
        for box in boxes:
            box.close()
    assert (rollout.state, rollout.committed) == ("finished", 2)


def test_a_restarted_server_takes_nobody_for_online(folder: Path) -> None:
    box = PaperBox("box", LITERT)
    with serving(folder):
        client = FleetClient(folder / "fleet")
        token = client.post("tokens", {}, dict[str, str])["token"]
        request = enrolment(token, box.device, box.key, LITERT)
        grant = enrol_over_http(client.url, request, token)
        box.connect(grant.broker_host, grant.broker_port)
        wait_for(lambda: client.get("overview", Overview).devices[0].online, "the box is online")
        box.close()
    with serving(folder):
        assert not FleetClient(folder / "fleet").get("overview", Overview).devices[0].online


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_says_so_and_removes_its_address(
    folder: Path, number: signal.Signals
) -> None:
    with serving(folder) as process:
        process.send_signal(number)
        assert process.wait(15) == 0
    assert not (folder / "fleet" / "serve.json").exists()
    assert (folder / "serve.log").read_text().splitlines()[-1] == "stopped"


def test_a_server_that_cannot_write_any_more_ends_with_one_line(folder: Path) -> None:
    with serving(folder) as process:
        client = FleetClient(folder / "fleet")
        box = PaperBox("box", LITERT)
        token = client.post("tokens", {}, dict[str, str])["token"]
        grant = enrol_over_http(client.url, enrolment(token, "box", box.key, LITERT), token)
        with sqlite3.connect(folder / "fleet" / "fleet.db") as database:
            database.execute("ALTER TABLE reports RENAME TO elsewhere")
        database.close()
        box.connect(grant.broker_host, grant.broker_port)
        box.report(UpdateState.IDLE)
        assert process.wait(15) == 1
        box.close()
    words = (folder / "serve.log").read_text().splitlines()
    assert words[-1] == "asdic: fleet/fleet.db: cannot write: no such table: reports"
    assert not any(word.startswith("Traceback") for word in words)


def test_a_server_whose_disk_is_full_ends_with_one_line(folder: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    (folder / "fleet").mkdir()
    (folder / "fleet" / "fleet.db").symlink_to("/dev/full")
    result = subprocess.run(
        [*SERVE, "--state", "fleet", "--releases", "releases", "--port", "0"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == "asdic: fleet/fleet.db: cannot write: database or disk is full\n"
