"""One report number used twice: what the manager makes of it, and what the device is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import ReleaseError
from asdic.contract.messages import UpdateState
from asdic.device.application import Program
from asdic.device.config import AgentConfig, StateFolder
from asdic.device.numbering import told_number
from asdic.device.reports import Reporter, read_last_report
from asdic.device.update.journal import Journal
from asdic.device.update.storage import Storage
from asdic.device.update.trust import RepositoryTrust
from asdic.fleet.conflicts import KEPT, Conflict, signed_number
from asdic.fleet.database import Database
from asdic.fleet.director import Director
from asdic.fleet.inventory import Device, Inventory
from asdic.fleet.view import device_view
from tests.support.fleet import LITERT
from tests.support.paper_box import PaperBox, enrolment


@pytest.fixture
def told() -> list[Conflict]:
    return []


@pytest.fixture
def inventory(tmp_path: Path, told: list[Conflict]) -> Iterator[Inventory]:
    database = Database(tmp_path / "fleet.db")
    yield Inventory(database, on_conflict=told.append)
    database.close()


@pytest.fixture
def box(inventory: Inventory) -> PaperBox:
    """A box whose reports 1 to 5 were accepted, all but number 3, which nobody has seen yet."""
    box = PaperBox("box", LITERT)
    join(inventory, box)
    for number in (1, 2, 4, 5):
        assert inventory.accept_report("box", box.send_report(number, UpdateState.IDLE), 1.0)
    return box


def join(inventory: Inventory, box: PaperBox) -> None:
    inventory.enrol(enrolment(inventory.new_token(0.0), box.device, box.key, box.target), 0.0)


def only(inventory: Inventory) -> Device:
    (device,) = inventory.all()
    return device


def test_another_report_with_a_used_number_marks_the_device(
    inventory: Inventory, box: PaperBox, told: list[Conflict]
) -> None:
    assert inventory.accept_report("box", box.send_report(2, UpdateState.FAILED), 9.0) is None
    device = only(inventory)
    assert (device.conflicts, device.conflict_s, device.report_number) == (1, 9.0, 5)
    assert told == [Conflict(device="box", last=5)]
    assert device_view(device).warning.startswith("restored or copied")


@pytest.mark.parametrize("number", [2, 5])
def test_a_report_that_comes_again_marks_nobody(
    inventory: Inventory, told: list[Conflict], number: int
) -> None:
    box = PaperBox("box", LITERT)
    join(inventory, box)
    sent = {n: box.send_report(n, UpdateState.IDLE) for n in range(1, 6)}
    for envelope in sent.values():
        inventory.accept_report("box", envelope, 1.0)
    assert inventory.accept_report("box", sent[number], 9.0) is None
    assert (only(inventory).conflicts, told) == (0, [])


def test_a_report_that_comes_late_marks_nobody_and_is_not_believed(
    inventory: Inventory, box: PaperBox, told: list[Conflict]
) -> None:
    assert inventory.accept_report("box", box.send_report(3, UpdateState.FAILED), 9.0) is None
    device = only(inventory)
    assert (device.conflicts, told) == (0, [])
    assert device.report is not None
    assert device.report.state is UpdateState.IDLE


def test_a_stranger_marks_nobody(inventory: Inventory, box: PaperBox, told: list[Conflict]) -> None:
    box.key = Ed25519PrivateKey.generate()
    inventory.accept_report("box", box.send_report(2, UpdateState.FAILED), 9.0)
    assert (only(inventory).conflicts, told) == (0, [])


def test_a_person_who_enrols_the_box_again_settles_it(inventory: Inventory, box: PaperBox) -> None:
    inventory.accept_report("box", box.send_report(2, UpdateState.FAILED), 9.0)
    join(inventory, box)
    assert only(inventory).conflicts == 0
    assert device_view(only(inventory)).warning == ""
    inventory.accept_report("box", box.send_report(4, UpdateState.FAILED), 10.0)
    assert only(inventory).conflicts == 1


def test_the_same_claim_again_settles_nothing(inventory: Inventory) -> None:
    box = PaperBox("box", LITERT)
    request = enrolment(inventory.new_token(0.0), box.device, box.key, box.target)
    inventory.enrol(request, 0.0)
    inventory.accept_report("box", box.report(UpdateState.IDLE), 1.0)
    inventory.accept_report("box", box.send_report(1, UpdateState.FAILED), 2.0)
    inventory.enrol(request, 3.0)
    assert only(inventory).conflicts == 1


def test_conflicts_are_kept_up_to_a_limit(inventory: Inventory) -> None:
    box = PaperBox("box", LITERT)
    join(inventory, box)
    for number in range(1, KEPT + 20):
        inventory.accept_report("box", box.send_report(number, UpdateState.IDLE), 1.0)
    for number in range(1, KEPT + 20):
        inventory.accept_report("box", box.send_report(number, UpdateState.FAILED), 1.0 + number)
    device = only(inventory)
    assert (device.conflicts, device.conflict_s) == (KEPT, KEPT + 20.0)


@pytest.fixture
def director(tmp_path: Path) -> Director:
    return Director(tmp_path / "director")


def trust_of(director: Director) -> RepositoryTrust:
    return RepositoryTrust(bootstrap=director.first_root())


def test_a_device_believes_its_director(director: Director) -> None:
    key = director.keys.private_key("targets")
    order = signed_number(Conflict(device="box", last=41), key)
    assert told_number(order, device="box", trust=trust_of(director)) == 41


def test_a_device_does_not_believe_what_is_for_another_one(director: Director) -> None:
    order = signed_number(Conflict(device="other", last=41), director.keys.private_key("targets"))
    with pytest.raises(ReleaseError, match="it is for other"):
        told_number(order, device="box", trust=trust_of(director))


def test_a_device_does_not_believe_a_stranger(director: Director) -> None:
    order = signed_number(Conflict(device="box", last=41), Ed25519PrivateKey.generate())
    with pytest.raises(ReleaseError, match="not signed by this fleet's director"):
        told_number(order, device="box", trust=trust_of(director))


def test_a_reports_number_is_only_ever_raised(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    config = AgentConfig(
        device="box", target=LITERT, broker=BrokerAddress(host="127.0.0.1", port=9)
    )
    reporter = Reporter(
        state, config, Ed25519PrivateKey.generate(), Storage(), lambda _envelope: None
    )
    assert reporter.continue_after(41)
    assert not reporter.continue_after(41)
    assert not reporter.continue_after(7)
    reporter.report(Journal(), Program())
    report = read_last_report(state)
    assert report is not None
    assert report.number == 42
