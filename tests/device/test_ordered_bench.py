"""A benchmark that the fleet orders: signed on both ways, run by a real agent, kept and shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from click.testing import CliRunner

from asdic.cli.bench_fleet import results
from asdic.contract.bench import BENCH_ORDER_TYPE, BENCH_REFUSAL_TYPE, BenchOrder, BenchRefusal
from asdic.contract.errors import ReleaseError
from asdic.contract.files import canonical_json
from asdic.contract.trust import open_envelope, public_hex, sign_envelope
from asdic.device.config import Probation, write_config
from asdic.device.identity import make_key, read_key
from asdic.device.orders import BenchOrders, check_order
from asdic.device.update.storage import Storage
from asdic.device.update.trust import TrustFolder
from asdic.fleet.client import FleetClient
from asdic.fleet.director import Director
from asdic.fleet.manager import FleetConfig
from asdic.fleet.measurements import BenchView
from asdic.fleet.server import running
from asdic.fleet.view import RolloutView
from tests.support.boxes import QUICK, Box, wait_until
from tests.support.yard import JETSON, Yard

pytestmark = pytest.mark.alone


@pytest.fixture
def client(yard: Yard, tmp_path: Path) -> Iterator[FleetClient]:
    config = FleetConfig(
        state=tmp_path / "fleet", releases=yard.releases, accept_simulated=True, tick_s=0.05
    )
    with running(config):
        yield FleetClient(config.state)


@pytest.fixture
def empty_box(client: FleetClient, tmp_path: Path) -> Iterator[Box]:
    """A box that runs, and has no release yet."""
    with Box(tmp_path / "box-1") as box:
        token = client.post("tokens", {}, dict[str, str])["token"]
        words = ("--server", client.url, "--token", token, "--device", "box-1")
        result = box.call("enrol", *words, "--target", JETSON, "--simulate")
        assert result.returncode == 0, result.stderr
        quick = {"timing": QUICK, "probation": Probation(inferences=2)}
        write_config(box.state, msgspec.structs.replace(box.config, **quick))
        box.start()
        yield box


@pytest.fixture
def box(client: FleetClient, empty_box: Box) -> Box:
    rollout = client.post("rollouts", {"version": "1.0.0"}, RolloutView)
    assert client.follow(rollout, lambda _view: None).state == "finished", empty_box.words
    return empty_box


def test_an_ordered_benchmark_is_run_signed_kept_and_shown(client: FleetClient, box: Box) -> None:
    orders = client.post("benchmarks", {"seconds": 0.5}, list[BenchOrder])
    assert [order.device for order in orders] == ["box-1"]

    wait_until(
        lambda: (box.status, bool(client.get("benchmarks", list[BenchView]))),
        patience_s=90.0,
        complain=lambda: box.words,
    )
    (view,) = client.get("benchmarks", list[BenchView])
    assert (view.device, view.version, view.target) == ("box-1", "1.0.0", JETSON)
    assert view.p50_ms is not None
    assert view.passed
    assert view.simulated
    page = httpx.get(f"{client.url}/fragment", trust_env=False).text
    assert "Benchmarks" in page
    assert "1.0.0" in page
    assert JETSON in page
    # The order is withdrawn once its answer is stored; then the device forgets both.
    wait_until(
        lambda: (box.status, not box.state.bench_result.exists()),
        patience_s=30.0,
        complain=lambda: box.words,
    )
    assert not box.state.bench_order.exists()


def test_an_order_that_cannot_run_is_refused_stored_closed_and_shown(
    client: FleetClient, empty_box: Box, tmp_path: Path
) -> None:
    box = empty_box
    client.post("benchmarks", {"seconds": 0.5}, list[BenchOrder])
    wait_until(
        lambda: (box.status, bool(client.get("benchmarks", list[BenchView]))),
        patience_s=60.0,
        complain=lambda: box.words,
    )
    (view,) = client.get("benchmarks", list[BenchView])
    assert (view.device, view.version, view.target) == ("box-1", "no release", JETSON)
    assert view.refusal is not None
    assert view.refusal.code == "device"
    assert "has no current release yet" in view.refusal.message
    envelope = client.get(f"benchmarks/{view.digest}", dict[str, str])["envelope"].encode()
    assert refused(box, [envelope]).refusal == view.refusal

    page = httpx.get(f"{client.url}/fragment", trust_env=False).text
    assert "has no current release yet" in page
    out = tmp_path / "results"
    words = ["--fleet", str(tmp_path / "fleet"), "--out", str(out)]
    done = CliRunner().invoke(results, words)
    assert "box-1: refused, device: " in done.stdout
    assert not out.exists()
    wait_until(
        lambda: (box.status, not box.state.bench_result.exists()),
        patience_s=30.0,
        complain=lambda: box.words,
    )
    assert not box.state.bench_order.exists()


# Orders, without a manager


@pytest.fixture
def director(tmp_path: Path) -> Director:
    return Director(tmp_path / "director")


@pytest.fixture
def paper(tmp_path: Path, director: Director) -> Box:
    return Box.make(tmp_path / "box", roots=(director.first_root(), director.first_root()))


def order(director: Director, **fields: object) -> bytes:
    made = BenchOrder(**{"id": "a", "device": "box1", "issued_s": 1.0, **fields})  # type: ignore[arg-type]
    key = director.keys.private_key("targets")
    return sign_envelope(canonical_json(made), BENCH_ORDER_TYPE, key)


def refused(box: Box, sent: list[bytes]) -> BenchRefusal:
    (envelope,) = sent
    payload = open_envelope(envelope, BENCH_REFUSAL_TYPE, public_hex(read_key(box.state)))
    return msgspec.json.decode(payload, type=BenchRefusal)


def orders_of(box: Box, sent: list[bytes]) -> BenchOrders:
    return BenchOrders(box.state, "box1", storage=Storage(), send=sent.append)


def test_an_order_of_the_director_is_taken(paper: Box, director: Director) -> None:
    orders_of(paper, []).take(order(director))
    assert paper.state.bench_order.exists()


def test_an_order_that_the_director_did_not_sign_is_refused(paper: Box, director: Director) -> None:
    data = canonical_json(BenchOrder(id="a", device="box1", issued_s=1.0))
    forged = sign_envelope(data, BENCH_ORDER_TYPE, make_key(paper.state, Storage()))
    orders_of(paper, []).take(forged)
    orders_of(paper, []).take(b"nonsense")
    assert not paper.state.bench_order.exists()


def test_an_order_for_another_device_is_refused(paper: Box, director: Director) -> None:
    trust = TrustFolder(paper.state.trust, Storage()).read().director
    with pytest.raises(ReleaseError, match="the order is for box2"):
        check_order(order(director, device="box2"), device="box1", trust=trust)


@pytest.mark.parametrize("fields", [{"seconds": 1e9}, {"minutes": 1e9}, {"seconds": -1.0}])
def test_an_order_for_too_much_is_answered_by_a_refusal(
    paper: Box, director: Director, fields: dict[str, object]
) -> None:
    sent: list[bytes] = []
    orders = orders_of(paper, sent)
    orders.take(order(director, **fields))
    orders.tick(may_run=True)
    orders.tick(may_run=True)
    assert orders.child is None
    assert refused(paper, sent).refusal.code == "too-long"


def test_a_child_that_dies_without_a_word_is_answered_by_a_refusal(
    paper: Box, director: Director
) -> None:
    sent: list[bytes] = []
    orders = orders_of(paper, sent)
    orders.take(order(director))
    orders.tick(may_run=True)
    child = orders.child
    assert child is not None
    child.kill()
    child.wait()
    orders.tick(may_run=True)
    orders.tick(may_run=True)
    answer = refused(paper, sent)
    assert (answer.device, answer.order, answer.refusal.code) == ("box1", "a", "crash")
    assert "code -9" in answer.refusal.message


def test_an_order_is_never_run_twice(paper: Box, director: Director) -> None:
    orders = orders_of(paper, [])
    orders.take(order(director))
    orders.take(b"")
    assert not paper.state.bench_order.exists()
    orders.take(order(director))
    assert not paper.state.bench_order.exists()
    orders.take(order(director, issued_s=2.0))
    assert paper.state.bench_order.exists()


def test_an_order_waits_while_the_box_has_no_time(paper: Box, director: Director) -> None:
    orders = orders_of(paper, [])
    orders.take(order(director))
    orders.tick(may_run=False)
    assert orders.child is None
    orders.tick(may_run=True)
    assert orders.child is not None
    orders.tick(may_run=False)
    assert orders.child is None
    assert paper.state.bench_order.exists()


def test_an_answer_is_sent_again_until_it_is_stored(paper: Box, director: Director) -> None:
    sent: list[bytes] = []
    orders = orders_of(paper, sent)
    orders.take(order(director))
    paper.state.bench_result.write_bytes(b"the answer")
    orders.tick(may_run=True)
    orders.tick(may_run=True)
    orders.send_again()
    orders.take(b"")
    orders.send_again()
    assert sent == [b"the answer"] * 2
