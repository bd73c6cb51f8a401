"""How devices and manager connect to the broker: over TLS, and what they say when it is away."""

from __future__ import annotations

import logging
import re
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import ConfigError, LinkError
from asdic.contract.files import read_bounded

CA_LIMIT_BYTES: Final = 16 << 10
_LOOK_S: Final = 0.1

_CERTIFICATE: Final = re.compile(
    r"-----BEGIN CERTIFICATE-----\n[A-Za-z0-9+/=\n]+-----END CERTIFICATE-----\n?"
)
_ANY_TIME: Final = ssl.VerifyFlags(0x200000)
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, for which Python's ``ssl`` has no name."""


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


def secure(
    client: mqtt.Client, broker: BrokerAddress, *, signed_s: Callable[[], float] = lambda: 0.0
) -> None:
    """Let ``client`` speak TLS with ``broker``, if that has an authority.

    Args:
        client: Not connected yet.
        broker: Where it will connect.
        signed_s: Asked before each connection, for ``overlook_time``.

    Raises:
        ConfigError: There is no authority in ``broker.ca``.
    """
    if not broker.ca:
        return
    context = tls_context(broker.ca)

    def look_at_clock(_client: mqtt.Client, _data: object) -> None:
        overlook_time(context, now_s=time.time(), signed_s=signed_s())

    client.tls_set_context(context)
    client.on_pre_connect = look_at_clock


def check_broker(broker: BrokerAddress, *, timeout_s: float, signed_s: float = 0.0) -> None:
    """Check that an MQTT broker answers there and lets a client in.

    Args:
        broker: Where, and who vouches for it.
        timeout_s: How long it may take to be reached, and then to answer.
        signed_s: As for ``overlook_time``.

    Raises:
        ConfigError: There is no authority in ``broker.ca``.
        LinkError: No broker answers, or it lets nobody in.
    """
    answers: list[Any] = []
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_connect = lambda _client, _data, _flags, reason, _props: answers.append(reason)
    client.connect_timeout = timeout_s
    secure(client, broker, signed_s=lambda: signed_s)
    try:
        client.connect(broker.host, broker.port, keepalive=max(1, round(timeout_s)))
    except OSError as error:
        raise LinkError(f"no broker at {broker}: {link_reason(error)}") from error
    deadline_s = time.monotonic() + timeout_s
    while not answers and time.monotonic() < deadline_s:
        if client.loop(_LOOK_S) is not mqtt.MQTT_ERR_SUCCESS:
            break
    client.disconnect()
    if not answers:
        hint = "" if broker.ca else "; if it wants TLS, name its authority's certificate"
        raise LinkError(f"what listens at {broker} does not answer as an MQTT broker{hint}")
    if answers[0].is_failure:
        raise LinkError(f"the broker at {broker} refuses clients: {answers[0]}")


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
