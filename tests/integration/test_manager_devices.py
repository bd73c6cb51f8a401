"""What the fleet manager takes from its devices, and what it hands out beside rollouts."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asdic.contract.errors import ReleaseError
from asdic.contract.messages import RuntimeFacts, UpdateState
from asdic.contract.release import Layout
from asdic.contract.trust import Offer
from asdic.fleet.manager import FleetConfig, Push
from asdic.fleet.metadata import utc_now
from asdic.fleet.signing import ImageRepository
from tests.support.fleet import LITERT, add_release
from tests.support.paper_box import PaperBox, enrolment, wait_for
from tests.support.serving import online, quick_config, serving


@pytest.fixture
def config(tmp_path: Path) -> FleetConfig:
    return quick_config(tmp_path)


def test_a_replayed_report_is_ignored_and_counted(config: FleetConfig) -> None:
    box = PaperBox("box", LITERT)
    with serving(config) as fleet, online(fleet, box):
        old = box.report(UpdateState.FAILED)
        box.report(UpdateState.IDLE)
        wait_for(lambda: fleet.inventory.all()[0].report_number == 2, "both reports arrive")
        box.publish("reported", old)
        wait_for(lambda: fleet.inventory.all()[0].refused_messages == 1, "the replay is counted")
        report = fleet.inventory.all()[0].report
        assert report is not None
        assert report.state is UpdateState.IDLE


def test_a_forged_report_is_ignored_and_counted(config: FleetConfig) -> None:
    box = PaperBox("box", LITERT)
    with serving(config) as fleet, online(fleet, box):
        box.key = Ed25519PrivateKey.generate()
        box.report(UpdateState.COMMITTED)
        box.publish("reported", b"no envelope at all")
        wait_for(lambda: fleet.inventory.all()[0].refused_messages == 2, "both are counted")
        assert fleet.inventory.all()[0].report is None


def test_a_report_of_a_simulation_is_ignored_unless_allowed(config: FleetConfig) -> None:
    box = PaperBox("box", LITERT)
    runtime = RuntimeFacts(runtime="onnxruntime", version="1", simulated=True)
    with serving(config) as fleet, online(fleet, box):
        box.report(UpdateState.IDLE, runtime=runtime)
        wait_for(lambda: fleet.inventory.all()[0].refused_messages == 1, "it is counted")
        assert fleet.inventory.all()[0].report is None


def test_presence_follows_the_devices_connection(config: FleetConfig) -> None:
    box = PaperBox("box", LITERT)
    with serving(config) as fleet, online(fleet, box):
        wait_for(lambda: fleet.inventory.all()[0].online, "the box comes online")
        assert box._client is not None
        sock = box._client.socket()
        assert sock is not None
        box._client.loop_stop()
        sock.close()
        wait_for(lambda: not fleet.inventory.all()[0].online, "its will is delivered")


def test_exported_offers_are_for_the_selected_devices(config: FleetConfig) -> None:
    box = PaperBox("box", LITERT)
    other = PaperBox("other", "arm64-litert-int8")
    with serving(config) as fleet, online(fleet, box, other):
        offers = fleet.export("1.0.0", "all")
        assert set(offers) == {"box"}
        assert fleet.director.standing("box") is None


def test_an_export_leaves_the_waiting_offer_the_newest(config: FleetConfig) -> None:
    box = PaperBox("box", LITERT, fetches=False)
    with serving(config) as fleet, online(fleet, box):
        rollout = fleet.push(Push(version="1.0.0"))
        fleet.export("1.0.0", "box")
        standing = fleet.director.standing("box")
        assert isinstance(standing, Offer)
        assert standing.rollout == rollout.id
        assert "3.targets.json" in standing.director


def test_a_device_cannot_join_before_a_release_is_signed(tmp_path: Path) -> None:
    config = FleetConfig(state=tmp_path / "state", releases=tmp_path / "releases", tick_s=0.02)
    Layout.create(config.releases)
    with serving(config) as fleet:
        token = fleet.inventory.new_token(0.0)
        request = enrolment(token, "box", Ed25519PrivateKey.generate(), LITERT)
        with pytest.raises(ReleaseError, match="no release was signed yet"):
            fleet.enrol(request)
        layout = add_release(config.releases)
        ImageRepository(config.releases, tmp_path / "keys", clock=utc_now).sign(layout, "1.0.0")
        assert fleet.enrol(request)
