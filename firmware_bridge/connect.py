"""Opening a link to a microcontroller by its address.

udp://192.0.2.7               SMP in datagrams, port 1337
udp://[2001:db8::7]:1338
serial:///dev/ttyACM0         SMP over a console, 115200 baud
serial:///dev/ttyUSB0?baud=921600
socket://127.0.0.1:4000       the same over a TCP connection: a terminal server, an emulator
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

import msgspec

from asdic.contract.errors import ConfigError, MissingPackageError
from asdic.firmware_bridge.link import FirmwareLink

SMP_PORT: Final = 1337
BAUD: Final = 115_200
ANSWER_TIMEOUT_S: Final = 2.5
FORMS: Final = "udp://HOST[:PORT], serial:///dev/NAME[?baud=N] or socket://HOST:PORT"
_PACKAGES: Final = {"serial": "pyserial"}
_DEVICE: Final = re.compile(r"/dev/[A-Za-z0-9._/+:-]{1,200}")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a microcontroller is; ``kind`` is ``udp``, ``serial`` or ``socket``."""

    kind: str
    host: str = ""
    port: int = 0
    device: str = ""
    baud: int = BAUD

    def __str__(self) -> str:
        """The address as one writes it."""
        if self.kind == "serial":
            return f"serial://{self.device}" + (f"?baud={self.baud}" if self.baud != BAUD else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.kind}://{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address of a microcontroller.

    Raises:
        ConfigError: It is none; the message says how one is written.
    """
    try:
        parts = urlsplit(text if text.isprintable() else "")
        return _serial(parts) if parts.scheme == "serial" else _network(parts)
    except ValueError as error:
        raise ConfigError(
            f"{text!r} is not the address of a microcontroller; write it like {FORMS}"
        ) from error


@contextmanager
def open_link(address: str, *, timeout_s: float = ANSWER_TIMEOUT_S) -> Iterator[FirmwareLink]:
    """Yield a link to the microcontroller at ``address``, which is closed afterwards.

    Args:
        address: As ``parse_address`` takes it.
        timeout_s: How long to wait for one answer.

    Raises:
        ConfigError: The address is none.
        MissingPackageError: ``asdic[firmware]`` is not installed.
        LinkError: There is no such port, or it is in use.
    """
    parsed = parse_address(address)
    try:
        from asdic.firmware_bridge.smp_link import SmpLink
    except ModuleNotFoundError as error:
        missing = (error.name or "smpclient").partition(".")[0]
        raise MissingPackageError(_PACKAGES.get(missing, missing), "firmware") from error
    with SmpLink(parsed, timeout_s=timeout_s) as link:
        yield link


def _network(parts: SplitResult) -> Address:
    port = parts.port or (SMP_PORT if parts.scheme == "udp" else 0)
    if parts.scheme not in {"udp", "socket"} or not parts.hostname or not port:
        raise ValueError(parts.scheme)
    if parts.path.strip("/") or parts.query or parts.username is not None:
        raise ValueError(parts.path)
    return Address(kind=parts.scheme, host=parts.hostname, port=port)


def _serial(parts: SplitResult) -> Address:
    options = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
    baud = int(options.pop("baud", BAUD))
    if parts.netloc or options or not _DEVICE.fullmatch(parts.path) or ".." in parts.path:
        raise ValueError(parts.path)
    if not 300 <= baud <= 12_000_000:
        raise ValueError(baud)
    return Address(kind="serial", device=parts.path, baud=baud)
