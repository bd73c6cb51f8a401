"""The fleet page in a real browser: it shows what the manager knows, and runs nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asdic.fleet.client import FleetClient
from asdic.fleet.view import RolloutView
from tests.integration.test_serve import serving
from tests.support.browser import browse, page_text
from tests.support.fleet import LITERT, add_signed_release
from tests.support.paper_box import PaperBox, enrol_over_http, enrolment

pytestmark = pytest.mark.slow


@pytest.fixture
def client(tmp_path: Path) -> Iterator[FleetClient]:
    """The client of a running manager that has one release."""
    add_signed_release(tmp_path / "releases", "1.0.0")
    with serving(tmp_path):
        yield FleetClient(tmp_path / "fleet")


def enrol(client: FleetClient, device: str, tags: dict[str, str] | None = None) -> None:
    box = PaperBox(device, LITERT)
    token = client.post("tokens", {}, dict[str, str])["token"]
    enrol_over_http(
        client.url, enrolment(token, box.device, box.key, LITERT, tags=tags or {}), token
    )


def test_an_empty_fleet_says_how_to_begin(client: FleetClient, tmp_path: Path) -> None:
    assert "asdic-agent enrol" in page_text(client.url, tmp_path / "profile")


def test_the_page_shows_devices_and_rollouts(client: FleetClient, tmp_path: Path) -> None:
    enrol(client, "ward-7")
    rollout = client.post("rollouts", {"version": "1.0.0"}, RolloutView)
    page = page_text(client.url, tmp_path / "profile")
    assert "ward-7" in page
    assert rollout.id in page


def test_the_page_refreshes_itself_without_an_error(client: FleetClient, tmp_path: Path) -> None:
    result = browse(client.url, tmp_path / "profile", "--dump-dom", "--enable-logging=stderr")
    assert [line for line in result.stderr.splitlines() if ":CONSOLE" in line] == []
    assert 'id="stale" hidden=""' in result.stdout


def test_a_tag_with_markup_stays_text(client: FleetClient, tmp_path: Path) -> None:
    enrol(client, "ward-8", {"ward": "<img src=x onerror=alert(1)>"})
    page = page_text(client.url, tmp_path / "profile")
    assert "<img" not in page
    assert "&lt;img" in page
