"""Where the fleet's MQTT broker listens, and which authority vouches for it.

With ``ca`` the connection is TLS and nobody else is trusted: not the machine's own store, and not
a certificate for another name. Without it the connection is plain, which is meant for loopback.
"""

from __future__ import annotations

import msgspec

from asdic.contract.errors import ConfigError


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
