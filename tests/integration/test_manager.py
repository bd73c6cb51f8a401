"""The fleet manager with its real broker, database and metadata; devices that run nothing."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from asdic.contract.errors import ConfigError, DigestError, ReleaseError
from asdic.contract.messages import Loaded, UpdateState
from asdic.contract.release import Layout
from asdic.fleet.decision import RolloutEvent
from asdic.fleet.manager import FleetConfig, Push
from asdic.fleet.stage import Policy
from tests.support.fleet import LITERT, OPENVINO, add_release, add_signed_release
from tests.support.paper_box import PaperBox, wait_for
from tests.support.serving import online, quick_config, serving, states, wait_for_state


@pytest.fixture
def config(tmp_path: Path) -> FleetConfig:
    return quick_config(tmp_path)


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
