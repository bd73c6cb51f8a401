"""Enrolment over real HTTP, with a manager of ten lines that may also be a stranger."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from asdic.contract.errors import ConfigError, LinkError
from asdic.contract.firmware import TestBootPolicy
from asdic.contract.messages import EnrolBody, EnrolGrant, EnrolReply, EnrolRequest
from asdic.contract.trust import proof_of, public_hex
from asdic.device.config import (
    AgentConfig,
    FirmwareConfig,
    FramesConfig,
    Probation,
    StateFolder,
    Timing,
    read_config,
    write_config,
)
from asdic.device.enrolment import enrol
from asdic.device.identity import read_key
from asdic.device.update.storage import Storage
from asdic.device.update.trust import TrustFolder

CLAIM = "what the token hides"
GRANT = EnrolGrant(
    device="box1",
    image_root="{}",
    director_root="{}",
    broker_host="127.0.0.1",
    broker_port=1883,
)


def good(body: EnrolBody) -> tuple[int, bytes]:
    """Answer as a manager that knows the secret."""
    grant = msgspec.json.encode(msgspec.structs.replace(GRANT, device=body.device)).decode()
    reply = EnrolReply(body=grant, proof=proof_of(CLAIM.encode(), grant.encode()))
    return 200, msgspec.json.encode(reply)


@contextmanager
def manager(answer: Callable[[EnrolBody], tuple[int, bytes]] = good) -> Iterator[str]:
    """Yield the address of a manager that checks the proof and answers with ``answer``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            request = msgspec.json.decode(data, type=EnrolRequest)
            assert self.path == "/api/v1/enrol"
            assert request.proof == proof_of(CLAIM.encode(), request.body.encode())
            status, content = answer(msgspec.json.decode(request.body, type=EnrolBody))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def join(
    folder: Path,
    server: str,
    *,
    token: str = f"id.{CLAIM}",
    device: str = "box1",
    firmware: str | None = None,
    without_test_boot: TestBootPolicy | None = None,
) -> AgentConfig:
    return enrol(
        StateFolder(folder),
        server=server,
        token=token,
        device=device,
        target="jetson-orin-int8",
        simulated=True,
        tags={"site": 'north "1"'},
        storage=Storage(),
        firmware=firmware,
        without_test_boot=without_test_boot,
    )


def test_an_enrolled_box_knows_whom_to_trust_and_where_the_broker_is(tmp_path: Path) -> None:
    with manager() as server:
        config = join(tmp_path / "box1", server)
    assert read_config(StateFolder(tmp_path / "box1")) == config
    assert (config.broker.port, config.tags) == (1883, {"site": 'north "1"'})
    trust = TrustFolder(tmp_path / "box1" / "trust", Storage()).read()
    assert (trust.image.bootstrap, trust.director.bootstrap) == ("{}", "{}")


def test_the_key_is_for_the_box_alone(tmp_path: Path) -> None:
    with manager() as server:
        join(tmp_path / "box1", server)
    assert StateFolder(tmp_path / "box1").key.stat().st_mode & 0o777 == 0o600


def test_enrolling_again_keeps_the_key(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "box1")
    with manager() as server:
        join(state.path, server)
        before = public_hex(read_key(state))
        join(state.path, server)
    assert public_hex(read_key(state)) == before


def test_enrolling_again_keeps_what_a_person_has_set(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "box1")
    with manager() as server:
        set_by_hand = msgspec.structs.replace(
            join(state.path, server),
            timing=Timing(heartbeat_s=7.0, deadlines_s={"probation": 90.0}),
            probation=Probation(inferences=50),
            firmware=FirmwareConfig(link="udp://192.0.2.7", patience_s=30.0),
            frames=FramesConfig(ring="probe"),
        )
        write_config(state, set_by_hand)
        join(state.path, server)
    assert read_config(state) == msgspec.structs.replace(set_by_hand, server=server)


def test_what_nobody_has_set_is_not_written_so_that_a_newer_agent_decides(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "box1")
    with manager() as server:
        join(state.path, server)
    text = state.config.read_text()
    assert not {"timing", "probation", "firmware", "frames"} & set(re.findall(r"[a-z]+", text))


def test_a_microcontroller_is_named_and_changed_in_part(tmp_path: Path) -> None:
    state = StateFolder(tmp_path / "box1")
    link = "serial:///dev/ttyACM0"
    with manager() as server:
        join(state.path, server, firmware="udp://192.0.2.7", without_test_boot="re-upload")
        join(state.path, server, firmware=link)
        assert read_config(state).firmware == FirmwareConfig(
            link=link, without_test_boot="re-upload"
        )
        join(state.path, server, without_test_boot="refuse")
    assert read_config(state).firmware == FirmwareConfig(link=link)


def test_a_wrong_microcontroller_is_said_before_the_manager_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'ttyACM0' is not the address of a microcontroller"):
        join(tmp_path / "box1", "http://127.0.0.1:9", firmware="ttyACM0")
    assert not (tmp_path / "box1").exists()


def test_a_box_does_not_become_another(tmp_path: Path) -> None:
    with manager() as server:
        join(tmp_path / "box1", server)
        with pytest.raises(ConfigError, match="is device 'box1'; enrol 'box2' in a folder"):
            join(tmp_path / "box1", server, device="box2")


def test_an_answer_that_the_token_does_not_prove_is_not_believed(tmp_path: Path) -> None:
    def stranger(_body: EnrolBody) -> tuple[int, bytes]:
        grant = msgspec.json.encode(GRANT).decode()
        return 200, msgspec.json.encode(
            EnrolReply(body=grant, proof=proof_of(b"x", grant.encode()))
        )

    with manager(stranger) as server, pytest.raises(LinkError, match="not proven by the token"):
        join(tmp_path / "box1", server)
    assert not (tmp_path / "box1" / "agent.toml").exists()
    assert not (tmp_path / "box1" / "trust").exists()


def test_a_refusal_is_told_in_the_managers_words(tmp_path: Path) -> None:
    content = json.dumps({"error": "the enrolment token is unknown"}).encode()
    with (
        manager(lambda _body: (403, content)) as server,
        pytest.raises(ConfigError, match="refuses this device: the enrolment token is unknown"),
    ):
        join(tmp_path / "box1", server)


@pytest.mark.parametrize("content", [b"", b"<html>", b'{"body": "{}"}'])
def test_something_else_than_a_manager_is_named(tmp_path: Path, content: bytes) -> None:
    with (
        manager(lambda _body: (200, content)) as server,
        pytest.raises(LinkError, match="is no fleet manager"),
    ):
        join(tmp_path / "box1", server)


def test_an_endless_answer_is_cut(tmp_path: Path) -> None:
    with (
        manager(lambda _body: (200, b" " * (5 << 20))) as server,
        pytest.raises(LinkError, match="is larger than"),
    ):
        join(tmp_path / "box1", server)


def test_a_manager_that_is_away_can_be_tried_again(tmp_path: Path) -> None:
    with pytest.raises(LinkError, match="cannot be reached"):
        join(tmp_path / "box1", "http://127.0.0.1:9")


@pytest.mark.parametrize("server", ["file:///etc/passwd", "box", "ftp://x"])
def test_an_address_that_is_not_http_is_refused(tmp_path: Path, server: str) -> None:
    with pytest.raises(ConfigError, match="is not the address of a manager"):
        join(tmp_path / "box1", server)


@pytest.mark.parametrize("token", ["", "x", ".x", "x."])
def test_a_text_that_is_no_token_is_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(ConfigError, match="not a token; it looks like"):
        join(tmp_path / "box1", "http://127.0.0.1:9", token=token)


def test_a_target_without_a_simulator_cannot_be_simulated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no simulator; leave --simulate out"):
        enrol(
            StateFolder(tmp_path / "box1"),
            server="http://127.0.0.1:9",
            token="a.b",
            device="box1",
            target="x86-litert-int8",
            simulated=True,
            tags={},
            storage=Storage(),
        )
