"""The fleet manager with its real broker, database and metadata; devices that run nothing."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asdic.contract.broker import BrokerAddress, parse_broker
from asdic.contract.errors import ConfigError, DigestError, LinkError, ReleaseError
from asdic.contract.messages import Loaded, RuntimeFacts, UpdateState
from asdic.contract.release import Layout
from asdic.contract.trust import Offer
from asdic.fleet.broker import open_broker
from asdic.fleet.decision import RolloutEvent
from asdic.fleet.manager import Fleet, FleetConfig, Push
from asdic.fleet.metadata import utc_now
from asdic.fleet.rollout import Rollout
from asdic.fleet.signing import ImageRepository
from asdic.fleet.stage import Policy
from asdic.fleet.transfer import TransferLimits
from tests.support.fleet import LITERT, OPENVINO, add_release, add_signed_release
from tests.support.paper_box import PaperBox, enrolment, wait_for

QUICK = TransferLimits(gather_s=0.3, laggard_s=2.0)


@pytest.fixture
def config(tmp_path: Path) -> FleetConfig:
    add_signed_release(tmp_path / "releases", "1.0.0")
    return FleetConfig(
        state=tmp_path / "state",
        releases=tmp_path / "releases",
        tick_s=0.02,
        transfer=QUICK,
    )


@contextmanager
def serving(config: FleetConfig) -> Iterator[Fleet]:
    with open_broker(config.state, None) as broker:
        fleet = Fleet(config, broker)
        fleet.start()
        try:
            yield fleet
            assert fleet.failure is None
        finally:
            fleet.stop()


@contextmanager
def online(fleet: Fleet, *boxes: PaperBox) -> Iterator[None]:
    with ExitStack() as stack:
        for box in boxes:
            token = fleet.inventory.new_token(0.0)
            fleet.enrol(enrolment(token, box.device, box.key, box.target))
            box.connect(fleet.broker.host, fleet.broker.port)
            stack.callback(box.close)
        yield


def wait_for_state(fleet: Fleet, rollout: Rollout, state: str) -> Rollout:
    def reached() -> bool:
        return fleet.records.get(rollout.id).state.value == state

    wait_for(reached, f"rollout is {state}, not {fleet.records.get(rollout.id)}")
    return fleet.records.get(rollout.id)


def states(rollout: Rollout) -> dict[str, str]:
    return {member.device: member.state.value for member in rollout.members}


def test_a_release_reaches_all_devices_and_the_rollout_finishes(config: FleetConfig) -> None:
    boxes = [PaperBox(f"box-{n}", LITERT) for n in range(3)]
    with serving(config) as fleet, online(fleet, *boxes):
        rollout = wait_for_state(fleet, fleet.push(Push(version="1.0.0")), "finished")
    assert states(rollout) == dict.fromkeys(("box-0", "box-1", "box-2"), "committed")
    assert {box.loaded.version for box in boxes if box.loaded} == {"1.0.0"}


def test_a_failed_canary_halts_and_the_others_are_never_offered(config: FleetConfig) -> None:
    boxes = [PaperBox(f"box-{n}", LITERT, outcome=UpdateState.FAILED) for n in range(4)]
    with serving(config) as fleet, online(fleet, *boxes):
        rollout = fleet.push(Push(version="1.0.0", stages="1,100%"))
        rollout = wait_for_state(fleet, rollout, "halted")
        assert sorted(states(rollout).values()) == ["failed", "waiting", "waiting", "waiting"]
        assert "golden-mismatch" in rollout.reason
        assert sum(any(box.offers) for box in boxes) == 1


def test_a_halted_rollout_withdraws_offers_that_nobody_has_begun(config: FleetConfig) -> None:
    slow = PaperBox("slow", LITERT, fetches=False)
    bad = PaperBox("bad", LITERT, outcome=UpdateState.REJECTED)
    with serving(config) as fleet, online(fleet, slow, bad):
        rollout = wait_for_state(fleet, fleet.push(Push(version="1.0.0")), "halted")
        wait_for(lambda: slow.offers[-1:] == [None], "the offer of slow is withdrawn")
        assert states(rollout) == {"slow": "withdrawn", "bad": "failed"}


def test_a_device_that_reports_another_manifest_has_not_committed(config: FleetConfig) -> None:
    box = PaperBox("box", LITERT, fetches=False)
    with serving(config) as fleet, online(fleet, box):
        rollout = fleet.push(Push(version="1.0.0"))
        wait_for(lambda: any(box.offers), "the offer arrives")
        other = Loaded(manifest="sha256:" + "0" * 64, version="0.9", pid=1, inferences=1)
        box.report(UpdateState.COMMITTED, loaded=other)
        assert states(wait_for_state(fleet, rollout, "halted")) == {"box": "failed"}


def test_a_newer_push_supersedes_an_open_rollout(config: FleetConfig) -> None:
    add_signed_release(config.releases, "1.1.0")
    box = PaperBox("box", LITERT, fetches=False)
    with serving(config) as fleet, online(fleet, box):
        old = fleet.push(Push(version="1.0.0"))
        wait_for(lambda: any(box.offers), "the first offer arrives")
        box.fetches = True
        new = wait_for_state(fleet, fleet.push(Push(version="1.1.0")), "finished")
        assert fleet.records.get(old.id).state.value == "superseded"
        assert fleet.records.get(old.id).reason == f"superseded by {new.id}"
        assert box.loaded is not None
        assert box.loaded.version == "1.1.0"


def test_a_manager_that_restarts_in_mid_rollout_goes_on(config: FleetConfig) -> None:
    boxes = [PaperBox(f"box-{n}", LITERT) for n in range(3)]
    boxes[0].fetches = boxes[1].fetches = boxes[2].fetches = False
    with serving(config) as fleet, online(fleet, *boxes):
        rollout = fleet.push(Push(version="1.0.0", stages="1,100%"))
        wait_for(lambda: any(any(box.offers) for box in boxes), "the canary gets its offer")
    for box in boxes:
        box.fetches = True
        box._offer = None
    with serving(config) as fleet, ExitStack() as stack:
        for box in boxes:
            box.connect(fleet.broker.host, fleet.broker.port)
            stack.callback(box.close)
        rollout = wait_for_state(fleet, rollout, "finished")
    assert set(states(rollout).values()) == {"committed"}


def test_the_broker_keeps_its_address_over_a_restart(config: FleetConfig) -> None:
    with serving(config) as fleet:
        before = fleet.broker
    with serving(config) as fleet:
        assert fleet.broker == before


def test_an_offer_made_while_a_device_is_away_waits_for_it(config: FleetConfig) -> None:
    box = PaperBox("box", LITERT)
    with serving(config) as fleet:
        with online(fleet, box):
            pass
        rollout = fleet.push(Push(version="1.0.0"))
        box.connect(fleet.broker.host, fleet.broker.port)
        try:
            wait_for_state(fleet, rollout, "finished")
        finally:
            box.close()


def test_devices_without_a_variant_are_named_and_not_offered(config: FleetConfig) -> None:
    boxes = [PaperBox("arm", "arm64-litert-int8"), PaperBox("pc", LITERT)]
    with serving(config) as fleet, online(fleet, *boxes):
        rollout = wait_for_state(fleet, fleet.push(Push(version="1.0.0")), "finished")
        assert rollout.unsupported == ("arm",)
        assert states(rollout) == {"pc": "committed"}
        assert not any(boxes[0].offers)


def test_two_targets_get_their_own_variants(config: FleetConfig) -> None:
    add_signed_release(config.releases, "2.0.0", targets=(LITERT, OPENVINO))
    boxes = [PaperBox("a", LITERT), PaperBox("b", OPENVINO)]
    with serving(config) as fleet, online(fleet, *boxes):
        wait_for_state(fleet, fleet.push(Push(version="2.0.0")), "finished")
    manifests = {box.loaded.manifest for box in boxes if box.loaded}
    release = Layout.open(config.releases).release("2.0.0")
    assert manifests == {one.digest for one in release.variants.values()}


def test_a_silent_device_makes_a_stage_inconclusive_and_resume_goes_on(
    config: FleetConfig,
) -> None:
    box = PaperBox("box", LITERT, fetches=False)
    with serving(config) as fleet, online(fleet, box):
        push = Push(version="1.0.0", policy=Policy(deadline_s=0.3))
        rollout = wait_for_state(fleet, fleet.push(push), "paused")
        assert rollout.reason == "stage 1: no final report in time from box"
        assert rollout.stages[0].state.value == "inconclusive"
        fleet.order(rollout.id, RolloutEvent.RESUME, "")
        wait_for_state(fleet, rollout, "paused")


def test_a_paused_rollout_offers_nothing_more(config: FleetConfig) -> None:
    boxes = [PaperBox(f"box-{n}", LITERT, fetches=False) for n in range(2)]
    with serving(config) as fleet, online(fleet, *boxes):
        rollout = fleet.push(Push(version="1.0.0", stages="1,100%"))
        fleet.order(rollout.id, RolloutEvent.PAUSE, "paused by the operator")
        wait_for(lambda: any(any(box.offers) for box in boxes), "the canary gets its offer")
        canary = next(box for box in boxes if any(box.offers))
        assert canary._manifest is not None
        canary._fetch(canary._manifest)
        wait_for(
            lambda: "committed" in states(fleet.records.get(rollout.id)).values(),
            "the canary commits",
        )
        assert fleet.records.get(rollout.id).state.value == "paused"
        for box in boxes:
            box.fetches = True
        fleet.order(rollout.id, RolloutEvent.RESUME, "")
        wait_for_state(fleet, rollout, "finished")


def test_an_aborted_rollout_withdraws_its_offers(config: FleetConfig) -> None:
    box = PaperBox("box", LITERT, fetches=False)
    with serving(config) as fleet, online(fleet, box):
        rollout = fleet.push(Push(version="1.0.0"))
        wait_for(lambda: any(box.offers), "the offer arrives")
        rollout = fleet.order(rollout.id, RolloutEvent.CANCEL, "aborted by the operator")
        wait_for(lambda: box.offers[-1] is None, "the offer is withdrawn")
        assert states(rollout) == {"box": "withdrawn"}
        with pytest.raises(ConfigError, match="cancelled cannot resume"):
            fleet.order(rollout.id, RolloutEvent.RESUME, "")


def test_a_rollback_brings_the_release_before_back(config: FleetConfig) -> None:
    add_signed_release(config.releases, "1.1.0")
    add_signed_release(config.releases, "1.2.0")
    box = PaperBox("box", LITERT)
    with serving(config) as fleet, online(fleet, box):
        for version in ("1.0.0", "1.1.0"):
            wait_for_state(fleet, fleet.push(Push(version=version)), "finished")
        box.outcome = UpdateState.FAILED
        wait_for_state(fleet, fleet.push(Push(version="1.2.0")), "halted")
        box.outcome = UpdateState.COMMITTED
        rollout = wait_for_state(fleet, fleet.roll_back(), "finished")
        assert rollout.version == "1.0.0"
        assert box.loaded is not None
        assert box.loaded.version == "1.0.0"


def test_without_an_earlier_release_there_is_no_way_back(config: FleetConfig) -> None:
    with serving(config) as fleet, pytest.raises(ConfigError, match="--to VERSION"):
        fleet.roll_back()


def test_an_unsigned_release_cannot_be_pushed(config: FleetConfig) -> None:
    add_release(config.releases, "1.1.0")
    with (
        serving(config) as fleet,
        online(fleet, PaperBox("box", LITERT)),
        pytest.raises(ReleaseError, match=r"release 1\.1\.0 is not signed; .*asdic sign"),
    ):
        fleet.push(Push(version="1.1.0"))


def test_an_unknown_version_cannot_be_pushed(config: FleetConfig) -> None:
    with (
        serving(config) as fleet,
        online(fleet, PaperBox("box", LITERT)),
        pytest.raises(ConfigError, match=r"no release '9\.9\.9'; it holds: 1\.0\.0"),
    ):
        fleet.push(Push(version="9.9.9"))


def test_a_truncated_blob_cannot_be_pushed(config: FleetConfig) -> None:
    layout = Layout.open(config.releases)
    blob = layout.variant(layout.release("1.0.0"), LITERT).files[0].digest
    layout.blob_path(blob).write_bytes(b"mo")
    with (
        serving(config) as fleet,
        online(fleet, PaperBox("box", LITERT)),
        pytest.raises(DigestError, match="has 2 bytes"),
    ):
        fleet.push(Push(version="1.0.0"))


def test_releases_of_another_author_cannot_be_pushed(config: FleetConfig, tmp_path: Path) -> None:
    add_signed_release(tmp_path / "foreign" / "releases", "1.0.0")
    with serving(config) as fleet, online(fleet, PaperBox("box", LITERT)):
        pass
    foreign = replace(config, releases=tmp_path / "foreign" / "releases")
    with serving(foreign) as fleet, pytest.raises(ReleaseError, match="signed by another author"):
        fleet.push(Push(version="1.0.0"))


def test_metadata_that_expires_between_stages_pauses_the_rollout(config: FleetConfig) -> None:
    boxes = [PaperBox(f"box-{n}", LITERT, fetches=False) for n in range(2)]
    with serving(config) as fleet, online(fleet, *boxes):
        rollout = fleet.push(Push(version="1.0.0", stages="1,100%"))
        wait_for(lambda: any(any(box.offers) for box in boxes), "the canary gets its offer")
        timestamp = config.releases / "metadata" / "timestamp.json"
        signed = timestamp.read_bytes()
        timestamp.unlink()
        for box in boxes:
            box.fetches = True
        canary = next(box for box in boxes if any(box.offers))
        assert canary._manifest is not None
        canary._fetch(canary._manifest)
        paused = wait_for_state(fleet, rollout, "paused")
        assert "is not signed" in paused.reason
        timestamp.write_bytes(signed)
        fleet.order(rollout.id, RolloutEvent.RESUME, "")
        wait_for_state(fleet, rollout, "finished")


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


def test_a_broker_that_comes_back_empty_gets_all_offers_again(
    config: FleetConfig, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "broker"
    elsewhere.mkdir()
    box = PaperBox("box", LITERT)
    with ExitStack() as stack:
        broker = stack.enter_context(open_broker(elsewhere, None))
        fleet = Fleet(config, broker)
        fleet.start()
        try:
            token = fleet.inventory.new_token(0.0)
            fleet.enrol(enrolment(token, box.device, box.key, box.target))
            rollout = fleet.push(Push(version="1.0.0"))
            stack.close()
            stack.enter_context(open_broker(elsewhere, None))
            box.connect(broker.host, broker.port)
            wait_for_state(fleet, rollout, "finished")
        finally:
            box.close()
            fleet.stop()


def test_a_remembered_port_that_is_taken_is_one_clear_error(tmp_path: Path) -> None:
    with open_broker(tmp_path, None) as address:
        pass
    with (
        socket.create_server((address.host, address.port)),
        pytest.raises(LinkError, match=f"{address}, the broker's address .* is taken"),
        open_broker(tmp_path, None, patience_s=0.1),
    ):
        pass


def test_a_broker_that_left_before_the_manager_came_is_one_clear_error(
    config: FleetConfig,
) -> None:
    fleet = Fleet(config, BrokerAddress(host="127.0.0.1", port=9))
    with pytest.raises(LinkError, match=r"no broker at 127\.0\.0\.1:9"):
        fleet.start()
    fleet.stop()


@pytest.mark.parametrize("text", ["", "host", "host:", ":1883", "host:0", "host:70000", "host:x"])
def test_what_is_no_brokers_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a broker's address"):
        parse_broker(text)


def test_a_brokers_address_may_be_ipv6() -> None:
    assert parse_broker("[::1]:1883") == BrokerAddress(host="::1", port=1883)


def test_an_unreachable_broker_is_one_clear_error(tmp_path: Path) -> None:
    nobody = BrokerAddress(host="127.0.0.1", port=9)
    with (
        pytest.raises(LinkError, match=r"no broker at 127\.0\.0\.1:9: "),
        open_broker(tmp_path, nobody),
    ):
        pass
