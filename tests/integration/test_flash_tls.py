"""``asdic flash`` where the fleet's broker speaks TLS: the box gets the broker's authority."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from asdic.contract.errors import ConfigError
from asdic.device.config import StateFolder, read_config
from tests.integration.test_serve import serving
from tests.support.flash_yard import FlashYard, light_wheels, open_door, wheels_for_here
from tests.support.fleet import add_signed_release
from tests.support.tls_broker import Authority, TlsBroker, tls_broker

pytestmark = pytest.mark.slow

AGENT_ALONE = {"release": None, "run_options": ("--no-runner",)}


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[FlashYard]:
    add_signed_release(tmp_path / "releases", "1.0.0")
    box = tmp_path / "box"
    box.mkdir()
    wheels = light_wheels(wheels_for_here(), tmp_path / "wheels")
    with open_door(tmp_path / "ssh") as door:
        yield FlashYard(folder=tmp_path, box=box, door=door, wheels=wheels)


@contextmanager
def manager(yard: FlashYard, broker: TlsBroker, *trusted: Authority) -> Iterator[None]:
    """Run a manager that trusts these authorities."""
    path = yard.folder / "ca.pem"
    path.write_text("".join(one.pem for one in trusted))
    with serving(yard.folder, "--broker", f"127.0.0.1:{broker.port}", "--broker-ca", str(path)):
        yield


def trusted_by(yard: FlashYard) -> str:
    """Return the authorities that the box trusts."""
    return read_config(StateFolder(yard.state)).broker.ca


def test_a_box_gets_the_brokers_authority_and_the_next_one(yard: FlashYard) -> None:
    old, new = Authority("old"), Authority("new")
    broker = tls_broker(yard.folder / "mosquitto")
    with broker.running(old):
        with manager(yard, broker, old):
            assert yard.flash(**AGENT_ALONE).report_number > 0
            assert trusted_by(yard) == old.pem
            before = yard.tree
            assert yard.flash(**AGENT_ALONE).done == ()
            assert yard.tree == before
        with manager(yard, broker, old, new):
            done = yard.flash(**AGENT_ALONE).done
            assert done == (f"enrol as box7, broker 127.0.0.1:{broker.port} (TLS)",)
            assert trusted_by(yard) == old.pem + new.pem
    with broker.running(new), manager(yard, broker, old, new):
        assert yard.flash(**AGENT_ALONE).done == ()


def test_a_box_that_finds_somebody_else_at_the_brokers_address_is_not_touched(
    yard: FlashYard,
) -> None:
    good = Authority("good")
    broker = tls_broker(yard.folder / "mosquitto")
    with ExitStack() as stack:
        with broker.running(good):
            stack.enter_context(manager(yard, broker, good))
        stack.enter_context(broker.running(Authority("stranger")))
        with pytest.raises(ConfigError, match=r"cannot reach the fleet's broker .*certificate"):
            yard.flash(**AGENT_ALONE)
    assert not list(yard.box.iterdir())
