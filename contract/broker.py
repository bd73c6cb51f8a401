"""Where the fleet's MQTT broker listens, and which authority vouches for it.

With ``ca`` the connection is TLS and nobody else is trusted: not the machine's own store, and not
a certificate for another name. Without it the connection is plain, which is meant for loopback.
"""

from __future__ import annotations

import logging
import re
import socket
import ssl
import time
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.errors import ConfigError, LinkError
from asdic.contract.files import read_bounded

CA_LIMIT_BYTES: Final = 16 << 10

_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n?"
)
_ANY_TIME: Final = ssl.VerifyFlags(0x200000)
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which Python's ``ssl`` has no name."""

_CONNECT: Final = b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x0a\x00\x00"
"""MQTT 3.1.1, 3.1: CONNECT with a clean session, ten seconds, and no name."""

_DISCONNECT: Final = b"\xe0\x00"
_CONNACK: Final = b"\x20\x02"
_CONNACK_BYTES: Final = 4
_ACCEPTED: Final = 0


class BrokerAddress(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Host and port, and the certificates (PEM) of the authorities that may vouch for it."""

    host: str
    port: int
    ca: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}{' (TLS)' if self.ca else ''}"


def parse_broker(text: str, *, ca: str = "") -> BrokerAddress:
    """Return the broker at ``host:port``.

    Raises:
        ConfigError: It is no address.
    """
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise ConfigError(f"{text!r} is not a broker's address; write it like 192.0.2.7:1883")
    return BrokerAddress(host=host.strip("[]"), port=int(port), ca=ca)


def read_ca(path: Path) -> str:
    """Return the certificates in a PEM file, and nothing else that may stand there.

    Raises:
        ConfigError: It cannot be read, is too large, or holds no certificate of an authority.
    """
    text = read_bounded(path, CA_LIMIT_BYTES).decode("latin-1").replace("\r\n", "\n")
    ca = "".join(f"{one.strip()}\n" for one in _CERTIFICATE.findall(text))
    try:
        tls_context(ca)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return ca


def tls_context(ca: str) -> ssl.SSLContext:
    """Return what trusts these authorities alone, and checks the broker's name.

    Raises:
        ConfigError: There is no authority among them.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=ca)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError("the broker's CA holds no certificate in PEM") from error
    if not context.get_ca_certs():
        raise ConfigError("the broker's CA holds no certificate of an authority (CA:TRUE)")
    return context


def overlook_time(context: ssl.SSLContext, *, now_s: float, signed_s: float = 0.0) -> None:
    """Check no certificate's time while this machine's clock is known to be wrong.

    A dead clock battery must not cut a device off for ever. Its clock is wrong where it is earlier
    than a time that it knows to be past: the newest that its fleet has signed for it, or the birth
    of an authority. Chain and name are checked all the same.

    Args:
        context: Checks the broker from now on.
        now_s: This machine's clock.
        signed_s: The newest signed time it has seen; 0 for none.
    """
    born_s = max(ssl.cert_time_to_seconds(str(one["notBefore"])) for one in context.get_ca_certs())
    if now_s < max(born_s, signed_s):
        context.verify_flags |= _ANY_TIME
    else:
        context.verify_flags &= ~_ANY_TIME


def check_broker(broker: BrokerAddress, *, timeout_s: float, signed_s: float = 0.0) -> None:
    """Check that an MQTT broker answers there and lets a client in.

    Args:
        broker: Where, and who vouches for it.
        timeout_s: How long each of its answers may take.
        signed_s: As for ``overlook_time``.

    Raises:
        LinkError: It does not, or somebody else does.
    """
    try:
        with closing(_connected(broker, timeout_s, signed_s)) as connection:
            code = _connect_code(connection)
    except OSError as error:
        raise LinkError(f"no broker at {broker}: {link_reason(error)}") from error
    if code is None:
        hint = "" if broker.ca else "; if it wants TLS, name its authority's certificate"
        raise LinkError(f"what listens at {broker} is no MQTT broker{hint}")
    if code != _ACCEPTED:
        raise LinkError(f"the broker at {broker} refuses clients (MQTT return code {code})")


class Outage:
    """Says that the broker is away: one line an outage, not one an attempt."""

    def __init__(self, broker: BrokerAddress, log: logging.Logger) -> None:
        self._broker = broker
        self._log = log
        self._is_told = False

    def begin(self, what: str) -> None:
        """Say what is wrong with the broker, unless the outage was told already."""
        if not self._is_told:
            self._is_told = True
            self._log.warning(
                "the broker at %s %s; trying again until it answers", self._broker, what
            )

    def end(self) -> None:
        """Say that it is back, or there for the first time."""
        self._is_told = False
        self._log.info("connected to the broker at %s", self._broker)


def link_reason(error: BaseException | None) -> str:
    """Return in plain words why a connection failed."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted: {error.verify_message.rstrip('.')}"
        case ssl.SSLError():
            return f"TLS failed ({error.reason or error}); does it speak TLS on this port?"
        case OSError():
            return error.strerror or str(error)
        case _:
            return "" if error is None else str(error)


def _connect_code(connection: socket.socket) -> int | None:
    """Return what the broker answers to a client, or None where no broker answers."""
    connection.sendall(_CONNECT)
    answer = b""
    try:
        while len(answer) < _CONNACK_BYTES and (more := connection.recv(_CONNACK_BYTES)):
            answer += more
    except ConnectionResetError:
        return None
    if answer[:2] != _CONNACK or len(answer) < _CONNACK_BYTES:
        return None
    connection.sendall(_DISCONNECT)
    return answer[3]


def _connected(broker: BrokerAddress, timeout_s: float, signed_s: float) -> socket.socket:
    connection = socket.create_connection((broker.host, broker.port), timeout=timeout_s)
    if not broker.ca:
        return connection
    try:
        context = tls_context(broker.ca)
        overlook_time(context, now_s=time.time(), signed_s=signed_s)
        return context.wrap_socket(connection, server_hostname=broker.host)
    except BaseException:
        connection.close()
        raise
