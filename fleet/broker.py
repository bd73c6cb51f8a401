"""The MQTT broker: embedded by default, somebody else's on request.

The embedded one listens on loopback and forgets everything when it ends; its port is remembered,
because enrolled devices know it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import LinkError, MissingPackageError
from asdic.contract.files import canonical_json, parse_json, read_bounded, write_file
from asdic.contract.mqtt import check_broker

BROKER_FILE: Final = "broker.json"
MAX_PAYLOAD_BYTES: Final = 1 << 20
_LOOPBACK: Final = "127.0.0.1"
_CONNECT_S: Final = 5.0


@contextmanager
def open_broker(
    state: Path, external: BrokerAddress | None, *, patience_s: float = 5.0
) -> Iterator[BrokerAddress]:
    """Yield the address of a broker that answers: an embedded one, or ``external``.

    The broker of a manager that has just died is given ``patience_s`` to let go of its port.

    Raises:
        LinkError: The external broker does not answer, or the remembered port is taken.
    """
    if external is None:
        with _embedded(state, patience_s) as address:
            yield address
    else:
        check_broker(external, timeout_s=_CONNECT_S)
        yield external


@contextmanager
def _embedded(state: Path, patience_s: float) -> Iterator[BrokerAddress]:
    try:
        from iotcore import Broker
    except ImportError as error:
        raise MissingPackageError("iotcore", "fleet") from error
    address = _remembered(state)
    _wait_until_free(address, patience_s)
    broker = Broker(port=address.port, listen=address.host, max_payload_size=MAX_PAYLOAD_BYTES)
    try:
        broker.start()
    except (OSError, RuntimeError) as error:
        raise LinkError(f"the embedded broker does not start on {address}: {error}") from error
    try:
        yield address
    finally:
        broker.stop()


def _remembered(state: Path) -> BrokerAddress:
    path = state / BROKER_FILE
    if path.exists():
        return parse_json(read_bounded(path, 4096), BrokerAddress, what=str(path))
    with socket.create_server((_LOOPBACK, 0)) as server:
        address = BrokerAddress(host=_LOOPBACK, port=server.getsockname()[1])
    write_file(path, canonical_json(address))
    return address


def _wait_until_free(address: BrokerAddress, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while not _is_free(address):
        if time.monotonic() > deadline:
            raise LinkError(
                f"{address}, the broker's address that the devices know, is taken; "
                "is another `asdic serve` running on this state folder?"
            )
        time.sleep(0.1)


def _is_free(address: BrokerAddress) -> bool:
    try:
        socket.create_server((address.host, address.port)).close()
    except OSError:
        return False
    return True
