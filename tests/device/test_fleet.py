"""A real manager and real agents: broker, director, transfer, gate, probation and reports."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest

from asdic.contract.messages import UpdateState
from asdic.device.config import Probation, write_config
from asdic.fleet.client import FleetClient
from asdic.fleet.manager import FleetConfig
from asdic.fleet.releases import Exported, export_release
from asdic.fleet.server import running
from asdic.fleet.transfer import TransferLimits
from asdic.fleet.view import Overview, RolloutView
from tests.support.boxes import QUICK, Box
from tests.support.yard import JETSON, Yard

COUNT = 2


@pytest.fixture
def config(yard: Yard, tmp_path: Path) -> FleetConfig:
    return FleetConfig(
        state=tmp_path / "fleet",
        releases=yard.releases,
        accept_simulated=True,
        tick_s=0.05,
        transfer=TransferLimits(gather_s=0.2),
    )


@pytest.fixture
def client(config: FleetConfig) -> Iterator[FleetClient]:
    with running(config):
        yield FleetClient(config.state)


def enrolled(client: FleetClient, folder: Path) -> Box:
    """Return a box that joined by ``asdic-agent enrol`` and is in a hurry."""
    box = Box(folder)
    token = client.post("tokens", {}, dict[str, str])["token"]
    words = ("--server", client.url, "--token", token, "--device", folder.name)
    result = box.call("enrol", *words, "--target", JETSON, "--simulate")
    assert result.returncode == 0, result.stderr
    hurried = msgspec.structs.replace(box.config, timing=QUICK, probation=Probation(inferences=2))
    write_config(box.state, hurried)
    return box


@pytest.fixture
def boxes(client: FleetClient, tmp_path: Path) -> Iterator[list[Box]]:
    with ExitStack() as stack:
        boxes = [stack.enter_context(enrolled(client, tmp_path / f"box-{n}")) for n in range(COUNT)]
        for box in boxes:
            box.start()
        yield boxes


def push(client: FleetClient, version: str, stages: str = "100%") -> RolloutView:
    rollout = client.post("rollouts", {"version": version, "stages": stages}, RolloutView)
    return client.follow(rollout, lambda _view: None)


def releases_of(client: FleetClient) -> set[str | None]:
    return {device.release for device in client.get("overview", Overview).devices}


def test_a_fleet_of_real_agents_takes_refuses_and_rolls_back(
    client: FleetClient, boxes: list[Box]
) -> None:
    first = push(client, "1.0.0")
    assert (first.state, first.committed) == ("finished", COUNT), [box.words for box in boxes]
    better = push(client, "1.1.0", "1,100%")
    assert (better.state, better.committed) == ("finished", COUNT)
    assert releases_of(client) == {"1.1.0"}
    broken = push(client, "1.2.0", "1,100%")
    assert (broken.state, broken.failed, broken.never_offered) == ("halted", 1, COUNT - 1)
    assert releases_of(client) == {"1.1.0"}
    back = client.follow(client.post("rollback", {}, RolloutView), lambda _view: None)
    assert (back.release, back.state, back.committed) == ("1.0.0", "finished", COUNT)
    assert releases_of(client) == {"1.0.0"}
    assert all(device.simulated for device in client.get("overview", Overview).devices)


def test_what_was_exported_installs_without_a_network(
    client: FleetClient, yard: Yard, tmp_path: Path
) -> None:
    with enrolled(client, tmp_path / "box-0") as box:
        wish = {"version": "1.0.0", "selection": "box-0"}
        exported = client.post("exports", wish, Exported)
        stick = tmp_path / "stick" / "releases"
        export_release(yard.layout, "1.0.0", exported.offers, stick)
        result = box.install(stick)
        assert result.returncode == 0, result.stderr
        assert box.status.journal.state is UpdateState.COMMITTED
