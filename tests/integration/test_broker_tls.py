"""A broker with TLS: mosquitto, whose certificate the fleet's own authority signs, or another."""

from __future__ import annotations

import datetime
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import LinkError
from asdic.contract.files import parse_json
from asdic.contract.messages import Presence
from asdic.contract.mqtt import check_broker
from asdic.device.link import Connected, MqttLink
from asdic.fleet.client import FleetClient
from asdic.fleet.link import MqttLink as ManagersLink
from asdic.fleet.link import Received
from asdic.fleet.view import Overview, RolloutView
from tests.integration.test_serve import SERVE, serving
from tests.support.boxes import QUICK, Box
from tests.support.desk import until
from tests.support.tls_broker import PAHO_LEAVES_SOCKETS, Authority, TlsBroker, tls_broker
from tests.support.yard import Yard

pytestmark = PAHO_LEAVES_SOCKETS

PATIENCE_S = 20.0
YEAR = datetime.timedelta(days=365)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("hospital")


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[TlsBroker]:
    broker = tls_broker(tmp_path_factory.mktemp("broker") / "mosquitto")
    with broker.running(authority):
        yield broker


@contextmanager
def device_at(address: BrokerAddress, *, signed_s: float = 0.0) -> Iterator[MqttLink]:
    """Connect as a device does."""
    key = Ed25519PrivateKey.generate()
    link = MqttLink(address, "box1", key, QUICK, signed_s=lambda: signed_s)
    link.start()
    try:
        yield link
    finally:
        link.close()


def test_devices_and_manager_meet_over_tls(broker: TlsBroker, authority: Authority) -> None:
    manager = ManagersLink(broker.address(authority))
    manager.open()
    try:
        manager.inbox.get(timeout=PATIENCE_S)
        with device_at(broker.address(authority)) as device:
            assert device.receive(PATIENCE_S) == Connected()
            said = manager.inbox.get(timeout=PATIENCE_S)
    finally:
        manager.close()
    assert isinstance(said, Received)
    assert (said.device, said.channel) == ("box1", "presence")
    assert parse_json(said.payload, Presence, what="presence").online


def test_a_broker_that_another_authority_vouches_for_hears_nothing(
    broker: TlsBroker, caplog: pytest.LogCaptureFixture
) -> None:
    stranger = broker.address(Authority("stranger"))
    heard = broker.log.count("as asdic-box1")
    with device_at(stranger) as device:
        until(lambda: "certificate is not trusted" in caplog.text)
        assert device.receive(0.5) is None
    assert caplog.text.count("cannot be reached") == 1
    assert broker.log.count("as asdic-box1") == heard
    with pytest.raises(LinkError, match="certificate is not trusted"):
        ManagersLink(stranger).open()
    with pytest.raises(LinkError, match="certificate is not trusted"):
        check_broker(stranger, timeout_s=PATIENCE_S)


def test_a_certificate_for_another_name_is_not_trusted(
    tmp_path: Path, authority: Authority
) -> None:
    broker = tls_broker(tmp_path / "mosquitto")
    with (
        broker.running(authority, host="192.0.2.7"),
        pytest.raises(LinkError, match="IP address mismatch, certificate is not valid"),
    ):
        check_broker(broker.address(authority), timeout_s=PATIENCE_S)


def test_a_port_with_tls_wants_an_authority_and_one_without_is_told(
    broker: TlsBroker, authority: Authority
) -> None:
    with pytest.raises(LinkError, match="does not answer as an MQTT broker; if it wants TLS"):
        check_broker(BrokerAddress(host="127.0.0.1", port=broker.port), timeout_s=PATIENCE_S)
    plain = BrokerAddress(host="127.0.0.1", port=broker.plain_port, ca=authority.pem)
    with pytest.raises(LinkError, match=r"TLS failed|reset"):
        check_broker(plain, timeout_s=PATIENCE_S)


def test_an_expired_certificate_is_trusted_by_nobody_with_a_good_clock(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old = Authority("old", born=datetime.datetime.now(datetime.UTC) - YEAR)
    broker = tls_broker(tmp_path / "mosquitto")
    with broker.running(old), device_at(broker.address(old), signed_s=time.time() - 60) as device:
        until(lambda: "certificate has expired" in caplog.text)
        assert device.receive(0.5) is None


def test_a_device_with_a_dead_clock_battery_is_not_cut_off(tmp_path: Path) -> None:
    coming = Authority("coming", born=datetime.datetime.now(datetime.UTC) + YEAR)
    broker = tls_broker(tmp_path / "mosquitto")
    with broker.running(coming), device_at(broker.address(coming)) as device:
        assert device.receive(PATIENCE_S) == Connected()
        check_broker(broker.address(coming), timeout_s=PATIENCE_S)


def test_a_device_whose_clock_is_behind_what_was_signed_is_not_cut_off(tmp_path: Path) -> None:
    old = Authority("old", born=datetime.datetime.now(datetime.UTC) - YEAR)
    broker = tls_broker(tmp_path / "mosquitto")
    newest_s = time.time() + YEAR.total_seconds()
    with broker.running(old), device_at(broker.address(old), signed_s=newest_s) as device:
        assert device.receive(PATIENCE_S) == Connected()


def test_a_new_authority_is_trusted_beside_the_old_one(tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    broker = tls_broker(tmp_path / "mosquitto")
    both = BrokerAddress(host="127.0.0.1", port=broker.port, ca=old.pem + new.pem)
    with broker.running(old), device_at(both) as device:
        assert device.receive(PATIENCE_S) == Connected()
    with broker.running(new), device_at(both) as device:
        assert device.receive(PATIENCE_S) == Connected()


def test_a_fleet_over_tls_from_the_claim_to_the_signed_report(
    broker: TlsBroker, authority: Authority, tmp_path: Path
) -> None:
    yard = Yard(tmp_path / "yard")
    yard.add("1.0.0")
    (tmp_path / "ca.pem").write_text(authority.pem)
    (tmp_path / "releases").symlink_to(yard.releases)
    words = ("--broker", f"127.0.0.1:{broker.port}", "--broker-ca", "ca.pem", "--accept-simulated")
    box = Box(tmp_path / "box1")
    with serving(tmp_path, *words), box:
        client = FleetClient(tmp_path / "fleet")
        token = client.post("tokens", {}, dict[str, str])["token"]
        (tmp_path / "token").write_text(token)
        claim = ("--server", client.url, "--token-file", str(tmp_path / "token"))
        who = ("--device", "box1", "--target", "jetson-orin-int8", "--simulate")
        done = box.call("enrol", *claim, *who)
        assert done.returncode == 0, done.stderr
        assert box.config.broker == broker.address(authority)
        box.start()
        until(lambda: client.get("overview", Overview).devices[0].online)
        rollout = client.post("rollouts", {"version": "1.0.0"}, RolloutView)
        assert client.follow(rollout, lambda _view: None).committed == 1
        assert client.get("broker", BrokerAddress) == box.config.broker
        assert "(TLS) answers" in box.call("doctor").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--broker-ca", "ca.pem"), "--broker-ca is of no use without --broker"),
        (("--broker", "127.0.0.1:9", "--broker-ca", "no.pem"), "cannot read no.pem"),
        (("--broker", "127.0.0.1:9", "--broker-ca", "ca.pem"), "holds no certificate in PEM"),
    ],
)
def test_a_manager_does_not_start_without_a_good_authority(
    tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    done = subprocess.run(
        [*SERVE, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["ca.pem"]


def test_a_manager_says_once_that_its_broker_is_somebody_else_now(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    broker = tls_broker(tmp_path / "mosquitto")
    manager = ManagersLink(broker.address(authority))
    with broker.running(authority):
        manager.open()
        manager.inbox.get(timeout=PATIENCE_S)
    before = broker.attempts
    with broker.running(Authority("stranger")):
        until(lambda: broker.attempts - before >= 2)
    with broker.running(authority):
        manager.inbox.get(timeout=PATIENCE_S)
        manager.close()
    assert caplog.text.count("trying again until it answers") == 1


def test_an_agent_whose_authority_was_damaged_says_so(tmp_path: Path) -> None:
    yard = Yard(tmp_path / "yard")
    yard.add("1.0.0")
    address = BrokerAddress(host="127.0.0.1", port=9, ca="nothing")
    box = Box.make(tmp_path / "box1", roots=yard.roots, broker=address)
    done = box.call("run")
    assert done.returncode == 1
    assert done.stderr == "asdic-agent: the broker's CA holds no certificate in PEM\n"
