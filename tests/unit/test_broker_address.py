"""Where the broker is, and who vouches for it: what is taken from a file, and what is refused."""

from __future__ import annotations

import datetime
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from asdic.contract.broker import BrokerAddress, parse_broker
from asdic.contract.errors import ConfigError, LinkError
from asdic.contract.mqtt import (
    CA_LIMIT_BYTES,
    check_broker,
    overlook_time,
    read_ca,
    tls_context,
)
from tests.support.tls_broker import PAHO_LEAVES_SOCKETS, Authority

YEAR_S = 365 * 86_400.0


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority("hospital")


def file_with(folder: Path, text: str) -> Path:
    path = folder / "ca.pem"
    path.write_text(text)
    return path


def test_an_address_is_written_and_read(authority: Authority) -> None:
    address = parse_broker("[2001:db8::7]:8883", ca=authority.pem)
    assert (address.host, address.port) == ("2001:db8::7", 8883)
    assert str(parse_broker("broker.example:8883", ca="x")) == "broker.example:8883 (TLS)"
    assert str(parse_broker("broker.example:1883")) == "broker.example:1883"
    assert msgspec.json.decode(msgspec.json.encode(address), type=BrokerAddress) == address


@pytest.mark.parametrize("text", ["", "broker", "broker:", ":1883", "broker:0", "broker:65536"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a broker's address"):
        parse_broker(text)


def test_only_certificates_are_taken_from_a_file(authority: Authority, tmp_path: Path) -> None:
    other = Authority("other")
    text = f"Subject: hospital\n{authority.key_pem}{authority.pem}# and\r\n{other.pem}"
    ca = read_ca(file_with(tmp_path, text))
    assert ca == authority.pem + other.pem
    assert len(tls_context(ca).get_ca_certs()) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no certificate in PEM"),
        (Authority("x").key_pem, "holds no certificate in PEM"),
        (
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "holds no certificate in PEM",
        ),
        (Authority("x", is_authority=False).pem, "no certificate of an authority"),
        (CA_LIMIT_BYTES * "x" + "x", "is larger than"),
    ],
    ids=["empty", "a key", "damaged", "no authority", "too large"],
)
def test_a_file_without_an_authority_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = file_with(tmp_path, text)
    with pytest.raises(ConfigError, match=f"{path}.*{words}"):
        read_ca(path)


@pytest.mark.parametrize(
    ("age_s", "signed_s", "is_overlooked"),
    [
        (10.0, 0.0, False),
        (-10.0, 0.0, True),
        (10.0, 5.0, False),
        (10.0, 20.0, True),
    ],
    ids=["a good clock", "before the authority", "after the signed time", "before the signed time"],
)
def test_time_is_overlooked_only_where_the_clock_must_be_wrong(
    *, age_s: float, signed_s: float, is_overlooked: bool
) -> None:
    born = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    context = tls_context(Authority("x", born=born).pem)
    flags = context.verify_flags
    for _ in range(2):
        overlook_time(
            context,
            now_s=born.timestamp() + age_s,
            signed_s=signed_s and born.timestamp() + signed_s,
        )
        assert (context.verify_flags != flags) is is_overlooked
    overlook_time(context, now_s=born.timestamp() + YEAR_S)
    assert context.verify_flags == flags
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


@contextmanager
def stranger(answer: bytes) -> Iterator[BrokerAddress]:
    """Answer whoever comes with the same bytes, and close."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield BrokerAddress(host="127.0.0.1", port=server.getsockname()[1])
        thread.join()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "does not answer as an MQTT broker; if it wants TLS"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not answer as an MQTT broker"),
        (b"\x20\x02\x00", "does not answer as an MQTT broker"),
        (b"\x20\x02\x00\x05", "refuses clients: Not authorized"),
    ],
)
def test_who_is_no_broker_or_lets_nobody_in_is_told(answer: bytes, words: str) -> None:
    with stranger(answer) as address, pytest.raises(LinkError, match=words):
        check_broker(address, timeout_s=5.0)


def test_nobody_is_told() -> None:
    with pytest.raises(LinkError, match=r"no broker at 127\.0\.0\.1:9: Connection refused"):
        check_broker(BrokerAddress(host="127.0.0.1", port=9), timeout_s=5.0)


@PAHO_LEAVES_SOCKETS
def test_a_plain_port_is_told_from_tls(authority: Authority) -> None:
    with stranger(b"\x20\x02\x00\x00") as plain:
        address = msgspec.structs.replace(plain, ca=authority.pem)
        with pytest.raises(LinkError, match="does it speak TLS on this port"):
            check_broker(address, timeout_s=5.0)
