"""Enrolment, selection and the acceptance of reports, in a real database."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asdic.contract.errors import ConfigError, ReleaseError
from asdic.contract.files import canonical_json
from asdic.contract.messages import (
    PROGRESS_TYPE,
    EnrolBody,
    EnrolRequest,
    Progress,
    RuntimeFacts,
    UpdateState,
)
from asdic.contract.trust import proof_of
from asdic.fleet.database import Database
from asdic.fleet.inventory import Inventory
from tests.support.fleet import LITERT, OPENVINO
from tests.support.paper_box import PaperBox, enrolment

KEY = Ed25519PrivateKey.generate()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "fleet.db")
    yield database
    database.close()


@pytest.fixture
def inventory(database: Database) -> Inventory:
    return Inventory(database)


def joined(inventory: Inventory, *boxes: PaperBox) -> None:
    for box in boxes:
        token = inventory.new_token(0.0)
        inventory.enrol(enrolment(token, box.device, box.key, box.target), 0.0)


def test_a_token_lets_one_device_in_once(inventory: Inventory) -> None:
    token = inventory.new_token(0.0)
    inventory.enrol(enrolment(token, "box-1", KEY, LITERT), 1.0)
    other = enrolment(token, "box-2", Ed25519PrivateKey.generate(), LITERT)
    with pytest.raises(ReleaseError, match="used by another device"):
        inventory.enrol(other, 2.0)
    assert [device.id for device in inventory.all()] == ["box-1"]


def test_a_device_that_got_no_answer_may_ask_again(inventory: Inventory) -> None:
    token = inventory.new_token(0.0)
    first = inventory.enrol(enrolment(token, "box-1", KEY, LITERT), 1.0)
    assert inventory.enrol(enrolment(token, "box-1", KEY, LITERT), 2.0) == first


def test_a_device_id_is_not_given_to_another_key(inventory: Inventory) -> None:
    joined(inventory, PaperBox("box-1", LITERT))
    token = inventory.new_token(0.0)
    with pytest.raises(ReleaseError, match="enrolled with another key"):
        inventory.enrol(enrolment(token, "box-1", KEY, LITERT), 1.0)


def test_a_proof_by_another_secret_is_refused(inventory: Inventory) -> None:
    identity = inventory.new_token(0.0).split(".")[0]
    with pytest.raises(ReleaseError, match="the proof is wrong"):
        inventory.enrol(enrolment(f"{identity}.guess", "box-1", KEY, LITERT), 1.0)


def test_an_unknown_token_is_refused(inventory: Inventory) -> None:
    with pytest.raises(ReleaseError, match="token is unknown"):
        inventory.enrol(enrolment("nobody.knows", "box-1", KEY, LITERT), 1.0)


def test_an_unknown_target_is_refused(inventory: Inventory) -> None:
    token = inventory.new_token(0.0)
    with pytest.raises(ConfigError, match="unknown target 'toaster'"):
        inventory.enrol(enrolment(token, "box-1", KEY, "toaster"), 1.0)
    assert inventory.enrol(enrolment(token, "box-1", KEY, LITERT), 1.0)


def test_a_simulating_device_joins_only_where_it_is_allowed(
    database: Database, inventory: Inventory
) -> None:
    token = inventory.new_token(0.0)
    request = enrolment(token, "box-1", KEY, "jetson-orin-int8", simulated=True)
    with pytest.raises(ConfigError, match="--accept-simulated"):
        inventory.enrol(request, 1.0)
    allowing = Inventory(database, accept_simulated=True)
    allowing.enrol(request, 1.0)
    assert allowing.all()[0].simulated


def test_a_report_with_a_larger_number_is_accepted(inventory: Inventory) -> None:
    box = PaperBox("box-1", LITERT)
    joined(inventory, box)
    assert inventory.accept_report("box-1", box.report(UpdateState.IDLE), 5.0)
    device = inventory.all()[0]
    assert (device.report_number, device.seen_s, device.online) == (1, 5.0, True)


def test_a_number_that_does_not_grow_is_ignored(inventory: Inventory) -> None:
    box = PaperBox("box-1", LITERT)
    joined(inventory, box)
    inventory.accept_report("box-1", box.send_report(7, UpdateState.IDLE), 1.0)
    for number in (7, 6, 0, -1):
        replay = box.send_report(number, UpdateState.FAILED)
        assert inventory.accept_report("box-1", replay, 2.0) is None
    assert inventory.all()[0].refused_messages == 4
    assert inventory.reports()["box-1"].state is UpdateState.IDLE


def test_the_retained_report_that_comes_again_is_no_offence(inventory: Inventory) -> None:
    box = PaperBox("box-1", LITERT)
    joined(inventory, box)
    envelope = box.report(UpdateState.IDLE)
    inventory.accept_report("box-1", envelope, 1.0)
    assert inventory.accept_report("box-1", envelope, 2.0) is None
    assert inventory.all()[0].refused_messages == 0


def test_a_device_cannot_report_for_another(inventory: Inventory) -> None:
    one, two = PaperBox("box-1", LITERT), PaperBox("box-2", LITERT)
    joined(inventory, one, two)
    one.device = "box-2"
    assert inventory.accept_report("box-2", one.report(UpdateState.COMMITTED), 1.0) is None
    assert inventory.accept_report("box-1", one.report(UpdateState.COMMITTED), 1.0) is None
    assert inventory.reports() == {}


def test_a_report_of_another_target_than_enrolled_is_ignored(inventory: Inventory) -> None:
    box = PaperBox("box-1", LITERT)
    joined(inventory, box)
    box.target = OPENVINO
    assert inventory.accept_report("box-1", box.report(UpdateState.IDLE), 1.0) is None


def test_a_simulated_report_of_a_device_that_enrolled_as_real_is_ignored(
    database: Database,
) -> None:
    inventory = Inventory(database, accept_simulated=True)
    box = PaperBox("box-1", LITERT)
    joined(inventory, box)
    runtime = RuntimeFacts(runtime="onnxruntime", version="1", simulated=True)
    envelope = box.report(UpdateState.IDLE, runtime=runtime)
    assert inventory.accept_report("box-1", envelope, 1.0) is None


def test_a_message_of_nobody_is_ignored(inventory: Inventory) -> None:
    envelope = PaperBox("ghost", LITERT).report(UpdateState.IDLE)
    assert inventory.accept_report("ghost", envelope, 1.0) is None


def test_a_progress_of_nobody_is_ignored(inventory: Inventory) -> None:
    assert inventory.open_message("ghost", b"{}", PROGRESS_TYPE, Progress) is None


@pytest.mark.parametrize("key", ["", "zz" * 32, "ab" * 31])
def test_what_is_no_public_key_is_refused(inventory: Inventory, key: str) -> None:
    identity, secret = inventory.new_token(0.0).split(".")
    body = canonical_json(EnrolBody(device="box-1", public_key=key, target=LITERT)).decode()
    proof = proof_of(secret.encode(), body.encode())
    request = EnrolRequest(token_id=identity, body=body, proof=proof)
    with pytest.raises(ConfigError, match="64 hex digits"):
        inventory.enrol(request, 1.0)


def test_more_tags_than_anybody_needs_are_refused(inventory: Inventory) -> None:
    tags = {str(number): "x" for number in range(33)}
    request = enrolment(inventory.new_token(0.0), "box-1", KEY, LITERT, tags=tags)
    with pytest.raises(ConfigError, match="32 tags"):
        inventory.enrol(request, 1.0)


def test_every_report_is_kept_as_it_was_signed(database: Database, inventory: Inventory) -> None:
    box = PaperBox("box-1", LITERT)
    joined(inventory, box)
    envelopes = [box.report(UpdateState.IDLE), box.report(UpdateState.COMMITTED)]
    for envelope in envelopes:
        inventory.accept_report("box-1", envelope, 1.0)
    with database.reading() as connection:
        rows = connection.exec_driver_sql("SELECT envelope FROM reports ORDER BY number").all()
    assert [row.envelope.encode() for row in rows] == envelopes


def test_devices_are_selected_by_name_and_by_tag(inventory: Inventory) -> None:
    for name, tags in (("a", {"site": "north"}), ("b", {"site": "south"}), ("c", {})):
        token = inventory.new_token(0.0)
        key = Ed25519PrivateKey.generate()
        inventory.enrol(enrolment(token, name, key, LITERT, tags=tags), 0.0)
    selections = {
        "all": "abc",
        "b": "b",
        "c,a": "ac",
        "tag:site=north": "a",
        "tag:site=south, c": "bc",
    }
    for selection, expected in selections.items():
        assert "".join(one.id for one in inventory.select(selection)) == expected


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("box-9", "there is no device 'box-9'"),
        ("tag:site=moon", "selects no device"),
        ("tag:site", "cannot read 'tag:site'"),
        ("", "there is no device ''"),
    ],
)
def test_a_selection_of_nobody_is_refused(
    inventory: Inventory, selection: str, message: str
) -> None:
    joined(inventory, PaperBox("box-1", LITERT))
    with pytest.raises(ConfigError, match=message):
        inventory.select(selection)


def test_the_database_is_for_its_owner_only(tmp_path: Path, database: Database) -> None:
    assert stat.S_IMODE((tmp_path / "fleet.db").stat().st_mode) == 0o600


def test_a_database_of_another_schema_is_refused(tmp_path: Path, database: Database) -> None:
    with database.writing() as connection:
        connection.exec_driver_sql("UPDATE schema SET version = 99")
    database.close()
    with pytest.raises(ConfigError, match="schema version 99, this asdic reads 1"):
        Database(tmp_path / "fleet.db")


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "fleet.db").write_bytes(b"not a database" * 100)
    with pytest.raises(ConfigError, match="is not a usable database"):
        Database(tmp_path / "fleet.db")


def test_a_full_disk_is_an_operating_system_error(
    tmp_path: Path, database: Database, inventory: Inventory
) -> None:
    with database.reading() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
    assert isinstance(pages, int)

    def fill() -> None:
        for _ in range(10_000):
            inventory.new_token(0.0)

    with database.writing() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(OSError, match="database or disk is full"):
        fill()
