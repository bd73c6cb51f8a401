"""Benchmark orders and results in a real database, with a broker that only remembers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from asdic.contract.bench import (
    BENCH_ORDER_TYPE,
    BENCH_REFUSAL_TYPE,
    BENCH_TYPE,
    BenchOrder,
    BenchRefusal,
    BenchReport,
)
from asdic.contract.errors import ConfigError
from asdic.contract.files import canonical_json
from asdic.contract.messages import Refusal, bench_topic
from asdic.contract.trust import open_envelope, public_hex, sign_envelope
from asdic.device.bench.signing import sign_result
from asdic.fleet.database import Database
from asdic.fleet.inventory import Inventory
from asdic.fleet.keys import KeyFolder
from asdic.fleet.measurements import BenchWish, Measurements
from tests.support.bench import make_result
from tests.support.fleet import OPENVINO
from tests.support.paper_box import PaperBox, enrolment

LATENCIES = np.random.default_rng(1).lognormal(1.0, 0.1, 1_000)


class RetainedTopics:
    """What a broker retains."""

    def __init__(self) -> None:
        self.topics: dict[str, bytes] = {}

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        assert retain
        self.topics[topic] = payload


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "fleet.db")
    yield database
    database.close()


@pytest.fixture
def inventory(database: Database) -> Inventory:
    return Inventory(database)


@pytest.fixture
def boxes(inventory: Inventory) -> list[PaperBox]:
    boxes = [PaperBox(name, OPENVINO) for name in ("box-1", "box-2")]
    for box in boxes:
        token = inventory.new_token(0.0)
        inventory.enrol(enrolment(token, box.device, box.key, box.target), 0.0)
    return boxes


@pytest.fixture
def keys(tmp_path: Path) -> KeyFolder:
    keys = KeyFolder(tmp_path / "keys")
    keys.create()
    return keys


@pytest.fixture
def broker() -> RetainedTopics:
    return RetainedTopics()


@pytest.fixture
def measurements(
    database: Database,
    inventory: Inventory,
    keys: KeyFolder,
    broker: RetainedTopics,
    boxes: list[PaperBox],
) -> Measurements:
    return Measurements(database, inventory, keys, broker)


def answer(order: BenchOrder, version: str = "1.0.0") -> BenchReport:
    report = make_result(LATENCIES)
    measured = msgspec.structs.replace(report.measured, version=version)
    return msgspec.structs.replace(report, device=order.device, order=order.id, measured=measured)


def test_an_order_is_signed_and_retained_for_each_selected_device(
    measurements: Measurements, keys: KeyFolder, broker: RetainedTopics
) -> None:
    measurements.order(BenchWish(selection="box-2", fps=30.0), 5.0)
    assert list(broker.topics) == [bench_topic("box-2")]
    key = public_hex(keys.private_key("targets"))
    payload = open_envelope(broker.topics[bench_topic("box-2")], BENCH_ORDER_TYPE, key)
    order = msgspec.json.decode(payload, type=BenchOrder)
    assert (order.device, order.issued_s, order.fps) == ("box-2", 5.0, 30.0)


def test_an_answer_is_stored_and_withdraws_the_order(
    measurements: Measurements, broker: RetainedTopics, boxes: list[PaperBox]
) -> None:
    order, _ = measurements.order(BenchWish(), 5.0)
    envelope = sign_result(answer(order), boxes[0].key)
    assert measurements.accept("box-1", envelope, 6.0) is not None
    assert broker.topics[bench_topic("box-1")] == b""
    assert broker.topics[bench_topic("box-2")] != b""
    (view,) = measurements.results()
    assert (view.device, view.version, view.p50_ms) == (
        "box-1",
        "1.0.0",
        pytest.approx(np.exp(1.0), rel=0.05),
    )
    assert measurements.envelope(view.digest) == envelope.decode()


def test_a_refusal_is_stored_and_withdraws_the_order(
    measurements: Measurements, broker: RetainedTopics, boxes: list[PaperBox]
) -> None:
    order, _ = measurements.order(BenchWish(), 5.0)
    refusal = Refusal(code="device", message="no runtime")
    envelope = sign_envelope(
        canonical_json(
            BenchRefusal(device="box-1", order=order.id, refused_s=6.0, refusal=refusal)
        ),
        BENCH_REFUSAL_TYPE,
        boxes[0].key,
    )
    measurements.accept("box-2", envelope, 6.0)
    assert measurements.results() == ()
    measurements.accept("box-1", envelope, 6.0)
    assert broker.topics[bench_topic("box-1")] == b""
    (view,) = measurements.results()
    assert (view.device, view.target, view.refusal) == ("box-1", OPENVINO, refusal)
    assert view.p50_ms is None


def test_the_same_answer_twice_is_one_result(
    measurements: Measurements, boxes: list[PaperBox]
) -> None:
    order, _ = measurements.order(BenchWish(), 5.0)
    envelope = sign_result(answer(order), boxes[0].key)
    measurements.accept("box-1", envelope, 6.0)
    measurements.accept("box-1", envelope, 7.0)
    assert len(measurements.results()) == 1


def test_an_answer_to_an_older_order_leaves_the_newer_one_standing(
    measurements: Measurements, broker: RetainedTopics, boxes: list[PaperBox]
) -> None:
    old, _ = measurements.order(BenchWish(), 5.0)
    measurements.order(BenchWish(), 6.0)
    measurements.accept("box-1", sign_result(answer(old), boxes[0].key), 7.0)
    assert broker.topics[bench_topic("box-1")] != b""
    assert len(measurements.results()) == 1


def test_what_another_device_signed_or_says_of_another_is_left_out(
    measurements: Measurements, inventory: Inventory, boxes: list[PaperBox]
) -> None:
    order, _ = measurements.order(BenchWish(), 5.0)
    measurements.accept("box-1", sign_result(answer(order), boxes[1].key), 6.0)
    measurements.accept("box-2", sign_result(answer(order), boxes[1].key), 6.0)
    measurements.accept("box-1", sign_envelope(b"{}", BENCH_TYPE, boxes[0].key), 6.0)
    measurements.accept("nobody", b"{}", 6.0)
    assert measurements.results() == ()
    assert [device.refused_messages for device in inventory.all()] == [2, 0]


def test_orders_that_stand_come_back_after_the_broker_forgot_them(
    measurements: Measurements, broker: RetainedTopics
) -> None:
    measurements.order(BenchWish(selection="box-1"), 5.0)
    before = dict(broker.topics)
    broker.topics.clear()
    measurements.publish_standing(["box-1", "box-2"])
    assert broker.topics == {**before, bench_topic("box-2"): b""}


def test_results_are_listed_by_release_and_target(
    measurements: Measurements, boxes: list[PaperBox]
) -> None:
    for version in ("1.1.0", "1.0.0"):
        order, _ = measurements.order(BenchWish(), 5.0)
        measurements.accept("box-1", sign_result(answer(order, version), boxes[0].key), 6.0)
    assert [view.version for view in measurements.results()] == ["1.0.0", "1.1.0"]


@pytest.mark.parametrize(
    "wish",
    [BenchWish(seconds=0.0), BenchWish(minutes=1e9), BenchWish(fps=-1.0), BenchWish(selection="x")],
)
def test_a_wish_that_makes_no_sense_is_refused(measurements: Measurements, wish: BenchWish) -> None:
    with pytest.raises(ConfigError):
        measurements.order(wish, 5.0)


def test_a_result_that_is_not_there_is_an_error(measurements: Measurements) -> None:
    with pytest.raises(ConfigError, match="no benchmark result"):
        measurements.envelope("sha256:0")
