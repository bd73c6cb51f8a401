"""The server over HTTP, as the verbs, a device and a browser meet it."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import ConfigError, LinkError
from asdic.contract.messages import Refusal, UpdateState
from asdic.fleet.client import FleetClient
from asdic.fleet.manager import Fleet, FleetConfig
from asdic.fleet.server import running
from asdic.fleet.transfer import TransferLimits
from asdic.fleet.view import Overview, RolloutView
from tests.support.fleet import LITERT, add_signed_release
from tests.support.paper_box import PaperBox, enrol_over_http, enrolment, wait_for


@pytest.fixture
def config(tmp_path: Path) -> FleetConfig:
    add_signed_release(tmp_path / "releases", "1.0.0")
    return FleetConfig(
        state=tmp_path / "state",
        releases=tmp_path / "releases",
        tick_s=0.02,
        transfer=TransferLimits(gather_s=0.1),
    )


@pytest.fixture
def fleet(config: FleetConfig) -> Iterator[Fleet]:
    with running(config) as (_serving, fleet):
        yield fleet


@pytest.fixture
def client(fleet: Fleet) -> FleetClient:
    return FleetClient(fleet.config.state)


@pytest.fixture
def box(client: FleetClient) -> Iterator[PaperBox]:
    box = PaperBox("box-1", LITERT)
    token = client.post("tokens", {}, dict[str, str])["token"]
    grant = enrol_over_http(client.url, enrolment(token, box.device, box.key, LITERT), token)
    box.connect(grant.broker_host, grant.broker_port)
    yield box
    box.close()


def ask(client: FleetClient, path: str, method: str = "GET", **options: Any) -> httpx.Response:
    return httpx.request(method, client.url + path, trust_env=False, **options)


def test_a_device_enrols_and_takes_a_release_over_the_api(
    client: FleetClient, box: PaperBox
) -> None:
    rollout = client.post("rollouts", {"version": "1.0.0"}, RolloutView)
    seen: list[str] = []
    rollout = client.follow(rollout, lambda view: seen.append(view.state))
    assert (rollout.state, rollout.committed, rollout.failed) == ("finished", 1, 0)
    assert seen[-1] == "finished"
    device = client.get("overview", Overview).devices[0]
    assert (device.id, device.release, device.state) == ("box-1", "1.0.0", "committed")
    assert [event.kind for event in rollout.events][:2] == ["rollout", "stage"]


def test_a_grant_holds_both_roots_and_the_brokers_address(fleet: Fleet) -> None:
    token = fleet.inventory.new_token(0.0)
    url = FleetClient(fleet.config.state).url
    request = enrolment(token, "box-1", Ed25519PrivateKey.generate(), LITERT)
    grant = enrol_over_http(url, request, token)
    assert grant.image_root == (fleet.config.releases / "metadata/1.root.json").read_text()
    assert grant.director_root == fleet.director.first_root()
    assert (grant.broker_host, grant.broker_port) == (fleet.broker.host, fleet.broker.port)


def test_changes_need_the_token(client: FleetClient) -> None:
    for path in ("tokens", "rollouts", "rollback", "exports", "rollouts/x/pause"):
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            answer = ask(client, f"/api/v1/{path}", "POST", content=b"{}", headers=headers)
            assert answer.status_code == 401


def test_a_wrong_claim_does_not_enrol(client: FleetClient) -> None:
    request = enrolment("no.claim", "box-1", Ed25519PrivateKey.generate(), LITERT)
    answer = ask(client, "/api/v1/enrol", "POST", content=msgspec.json.encode(request))
    assert answer.status_code == 409
    assert "token is unknown" in answer.json()["error"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example"])
def test_a_foreign_host_name_is_refused(client: FleetClient, host: str) -> None:
    assert ask(client, "/", headers={"Host": host}).status_code == 400


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1"])
def test_a_foreign_origin_is_refused(client: FleetClient, origin: str) -> None:
    for path in ("/", "/api/v1/overview", "/api/v1/enrol"):
        assert ask(client, path, headers={"Origin": origin}).status_code == 403


def test_the_pages_own_origin_is_welcome(client: FleetClient) -> None:
    assert ask(client, "/fragment", headers={"Origin": client.url}).status_code == 200


def test_the_page_loads_nothing_from_elsewhere(client: FleetClient) -> None:
    answer = ask(client, "/")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "http" not in answer.text.replace("http-equiv", "")
    for path in ("/static/style.css", "/static/refresh.js"):
        assert ask(client, path).status_code == 200


def test_what_a_device_says_is_escaped(client: FleetClient, box: PaperBox, fleet: Fleet) -> None:
    attack = "<script>alert(1)</script>"
    box.report(
        UpdateState.FAILED, refusal=Refusal(code=attack, message=attack), agent_version=attack
    )
    wait_for(lambda: fleet.inventory.all()[0].report_number == 1, "the report arrives")
    page = ask(client, "/").text
    assert attack not in page
    assert "&lt;script&gt;" in page


def test_the_page_shows_devices_rollouts_and_events(client: FleetClient, box: PaperBox) -> None:
    rollout = client.post("rollouts", {"version": "1.0.0"}, RolloutView)
    client.follow(rollout, lambda _view: None)
    page = ask(client, "/fragment").text
    for text in ("box-1", LITERT, "1.0.0", "finished", "offered to box-1 (stage 1)", "online"):
        assert text in page


def test_a_huge_request_is_refused(client: FleetClient) -> None:
    answer = ask(client, "/api/v1/enrol", "POST", content=b" " * 100_000)
    assert answer.status_code == 400
    assert "65536 bytes at most" in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"version": 1}'])
def test_a_damaged_request_is_refused_in_our_own_words(client: FleetClient, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {client._token}"}
    answer = ask(client, "/api/v1/rollouts", "POST", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("the request is damaged")


def test_an_unknown_rollout_or_action_is_named(client: FleetClient) -> None:
    with pytest.raises(ConfigError, match="there is no rollout 'nope'"):
        client.get("rollouts/nope", RolloutView)
    with pytest.raises(ConfigError, match="a rollout cannot 'dance'"):
        client.post("rollouts/nope/dance", {}, RolloutView)


def test_the_token_is_for_its_owner_only_and_stays(config: FleetConfig) -> None:
    with running(config):
        token = config.state / "token"
        assert stat.S_IMODE(token.stat().st_mode) == 0o600
        before = token.read_text()
    with running(config):
        assert token.read_text() == before


def test_two_servers_never_share_a_state_folder(fleet: Fleet) -> None:
    with pytest.raises(ConfigError, match="another `asdic serve` runs"), running(fleet.config):
        pass


def test_without_a_server_the_verbs_say_how_to_start_one(config: FleetConfig) -> None:
    with pytest.raises(LinkError, match="start one with `asdic serve"):
        FleetClient(config.state)


def test_a_server_that_died_is_one_clear_error(config: FleetConfig) -> None:
    with running(config) as (serving, _fleet):
        remembered = (config.state / "serve.json").read_bytes()
        assert serving.url
    (config.state / "serve.json").write_bytes(remembered)
    with pytest.raises(LinkError, match="does not answer"):
        FleetClient(config.state).get("overview", Overview)


def test_an_unreachable_broker_stops_the_start_and_leaves_nothing_running(
    config: FleetConfig,
) -> None:
    nobody = BrokerAddress(host="127.0.0.1", port=9)
    with (
        pytest.raises(LinkError, match=r"no broker at 127\.0\.0\.1:9"),
        running(config, external=nobody),
    ):
        pass
    assert not (config.state / "serve.json").exists()


def test_a_taken_port_is_one_clear_error(fleet: Fleet, tmp_path: Path) -> None:
    port = int(FleetClient(fleet.config.state).url.rsplit(":", 1)[1])
    other = FleetConfig(state=tmp_path / "other", releases=fleet.config.releases)
    with (
        pytest.raises(LinkError, match=f"cannot listen on 127.0.0.1:{port}"),
        running(other, port=port),
    ):
        pass


def test_a_restored_device_is_marked_on_the_page_and_in_the_overview(
    client: FleetClient, fleet: Fleet, box: PaperBox
) -> None:
    box.report(UpdateState.IDLE)
    box.send_report(1, UpdateState.FAILED)
    wait_for(lambda: fleet.inventory.all()[0].conflicts == 1, "the second report 1 is noticed")
    (device,) = client.get("overview", Overview).devices
    assert device.state == "idle"
    assert device.warning == "restored or copied: it used a report's number again, once"
    assert "restored or copied" in ask(client, "/fragment").text
