"""The fleet manager and its broker: addresses, restarts, and a broker that is not there."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from asdic.contract.broker import BrokerAddress, parse_broker
from asdic.contract.errors import ConfigError, LinkError
from asdic.fleet.broker import open_broker
from asdic.fleet.manager import Fleet, FleetConfig, Push
from tests.support.fleet import LITERT
from tests.support.paper_box import PaperBox, enrolment
from tests.support.serving import quick_config, serving, wait_for_state


@pytest.fixture
def config(tmp_path: Path) -> FleetConfig:
    return quick_config(tmp_path)


def test_the_broker_keeps_its_address_over_a_restart(config: FleetConfig) -> None:
    with serving(config) as fleet:
        before = fleet.broker
    with serving(config) as fleet:
        assert fleet.broker == before


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
