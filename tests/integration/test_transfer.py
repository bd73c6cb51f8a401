"""The broadcast over a real broker: each chunk once, repairs to who asks, nobody waits for long."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asdic.contract.messages import CHUNK_BYTES, UpdateState
from asdic.contract.release import Layout, digest_of
from asdic.fleet.manager import Fleet, FleetConfig, Push
from asdic.fleet.transfer import TransferLimits
from tests.support.fleet import LITERT, add_signed_release
from tests.support.paper_box import PaperBox, wait_for
from tests.support.serving import online, serving

MODEL = os.urandom(11 * CHUNK_BYTES + 17)
CHUNKS = 12


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    add_signed_release(tmp_path / "releases", model=MODEL)
    config = FleetConfig(
        state=tmp_path / "state",
        releases=tmp_path / "releases",
        tick_s=0.02,
        transfer=TransferLimits(gather_s=0.5, laggard_s=0.5),
    )
    with serving(config) as fleet:
        yield fleet


def push_and_wait(fleet: Fleet, state: str = "finished") -> None:
    rollout = fleet.push(Push(version="1.0.0"))
    wait_for(lambda: fleet.records.get(rollout.id).state.value == state, f"it is {state}")


def test_three_devices_share_one_broadcast(fleet: Fleet) -> None:
    boxes = [PaperBox(f"box-{n}", LITERT) for n in range(3)]
    with online(fleet, *boxes):
        push_and_wait(fleet)
    once = Counter((digest_of(MODEL), number) for number in range(CHUNKS))
    assert all(Counter(box.broadcast) == once for box in boxes)
    assert fleet.transfer.sent_chunks == CHUNKS
    assert fleet.transfer.repaired_chunks == 0


def test_a_lost_chunk_is_repaired_for_the_device_that_lost_it(fleet: Fleet) -> None:
    lossy, good = PaperBox("lossy", LITERT, drops=(3, 11)), PaperBox("good", LITERT)
    with online(fleet, lossy, good):
        push_and_wait(fleet)
    digest = digest_of(MODEL)
    assert sorted(lossy.repaired) == [(digest, 3), (digest, 11)]
    assert good.repaired == []


def test_a_device_that_stops_reading_holds_nobody_up(fleet: Fleet) -> None:
    class Stuck(PaperBox):
        def _on_chunk(self, *_args: object, **_fields: object) -> None:
            pass

    stuck, good = Stuck("stuck", LITERT), PaperBox("good", LITERT)
    with online(fleet, stuck, good):
        fleet.push(Push(version="1.0.0"))
        wait_for(lambda: good.loaded is not None, "the good one commits")


def test_a_forged_progress_starts_no_broadcast(fleet: Fleet) -> None:
    box = PaperBox("box", LITERT, fetches=False)
    with online(fleet, box):
        fleet.push(Push(version="1.0.0"))
        wait_for(lambda: any(box.offers), "the offer arrives")
        box.key = Ed25519PrivateKey.generate()
        assert box._manifest is not None
        box._fetch(box._manifest)
        wait_for(lambda: fleet.inventory.all()[0].refused_messages >= 2, "both are refused")
        assert fleet.transfer.sent_chunks == 0


def test_a_device_that_asks_for_what_no_release_holds_gets_nothing(fleet: Fleet) -> None:
    box = PaperBox("box", LITERT)
    with online(fleet, box):
        box.ask_for(digest_of(b"something else"))
        box.report(UpdateState.IDLE)
        wait_for(lambda: fleet.inventory.all()[0].report_number == 1, "the manager goes on")
        assert fleet.transfer.sent_chunks == 0


def test_the_blob_on_disk_is_what_was_signed(fleet: Fleet) -> None:
    layout = Layout.open(fleet.config.releases)
    blob = layout.variant(layout.release("1.0.0"), LITERT).files[0].digest
    box = PaperBox("box", LITERT, fetches=False)
    with online(fleet, box):
        fleet.push(Push(version="1.0.0"))
        wait_for(lambda: any(box.offers), "the offer arrives")
        layout.blob_path(blob).write_bytes(MODEL[:-1] + b"X")
        assert box._manifest is not None
        box._fetch(box._manifest)
        wait_for(lambda: fleet.inventory.all()[0].report_number == 2, "the device fetches")
        assert fleet.transfer.sent_chunks == 0
