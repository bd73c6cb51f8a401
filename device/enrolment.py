"""Joining a fleet: a one-time token becomes trust in both directions.

The token ``<id>.<secret>`` travels to the device by hand. Its secret proves the request to the
manager and the answer to the device, so the connection itself need not be trusted: roots that a
stranger slipped in would lack the proof. Enrolling again keeps the key, the floor,
and what a person has set in ``agent.toml``.
"""

from __future__ import annotations

import hmac
import http.client
import platform
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final
from urllib.parse import urlsplit

import msgspec

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import ConfigError, LinkError
from asdic.contract.files import canonical_json, parse_json
from asdic.contract.firmware import TestBootPolicy
from asdic.contract.messages import (
    EnrolBody,
    EnrolGrant,
    EnrolReply,
    EnrolRequest,
    check_device_id,
)
from asdic.contract.mqtt import tls_context
from asdic.contract.target import target_named
from asdic.contract.trust import METADATA_LIMIT_BYTES, proof_of, public_hex
from asdic.device.config import (
    AgentConfig,
    FirmwareConfig,
    StateFolder,
    read_config,
    write_config,
)
from asdic.device.identity import make_key
from asdic.device.update.storage import Storage
from asdic.device.update.trust import TrustFolder
from asdic.firmware_bridge.connect import parse_address

ENROL_PATH: Final = "/api/v1/enrol"
ANSWER_LIMIT_BYTES: Final = 4 * METADATA_LIMIT_BYTES
TIMEOUT_S: Final = 30.0

TARGET_OF_MACHINE: Final = MappingProxyType(
    {"x86_64": "x86-litert-int8", "aarch64": "arm64-litert-int8"}
)
"""What a machine is taken for when nobody says; a Jetson is told by its device tree."""

JETSON_RELEASE: Final = Path("/etc/nv_tegra_release")


def guess_target() -> str:
    """Return the target that this machine most likely is.

    Raises:
        ConfigError: It is none that we know; name one.
    """
    if JETSON_RELEASE.exists():
        return "jetson-orin-int8"
    machine = platform.machine()
    if machine not in TARGET_OF_MACHINE:
        raise ConfigError(f"cannot tell the target of a {machine} machine; name it with --target")
    return TARGET_OF_MACHINE[machine]


def guess_device_id() -> str:
    """Return the machine's name as a device id."""
    name = "".join(c if c.isalnum() and c.isascii() else "-" for c in platform.node().lower())
    return check_device_id(name.strip("-")[:63])


def enrol(
    state: StateFolder,
    *,
    server: str,
    token: str,
    device: str,
    target: str,
    simulated: bool,
    tags: Mapping[str, str],
    storage: Storage,
    firmware: str | None = None,
    without_test_boot: TestBootPolicy | None = None,
) -> AgentConfig:
    """Enrol this device and write its configuration.

    What enrolment says nothing of stays as a person has set it.

    Args:
        state: The device's state folder.
        server: The manager's address.
        token: The claim.
        device: The device's name.
        target: What it is.
        simulated: It stands in for its target.
        tags: Its tags in the fleet.
        storage: Writes to the state folder.
        firmware: Address of the microcontroller; None leaves the one that it has.
        without_test_boot: What to do with firmware where it cannot boot on trial; None leaves it.

    Raises:
        ConfigError: Token, server or target is wrong, or the manager refuses.
        LinkError: The manager cannot be reached, or its answer is not proven.
    """
    check_device_id(device)
    if simulated and target_named(target).simulator is None:
        raise ConfigError(f"target {target} has no simulator; leave --simulate out")
    if firmware is not None:
        parse_address(firmware)
    token_id, secret = _split(token)
    storage.make_folder(state.path)
    known = _known_config(state, device)
    body = EnrolBody(
        device=device,
        public_key=public_hex(make_key(state, storage)),
        target=target_named(target).name,
        simulated=simulated,
        tags=dict(tags),
    )
    grant = _ask(server, token_id, secret, canonical_json(body).decode())
    if grant.device != device:
        raise LinkError(f"the manager enrolled {grant.device!r}, this is {device!r}")
    broker = _broker_of(grant)
    trust = TrustFolder(state.trust, storage)
    trust.bootstrap(image_root=grant.image_root, director_root=grant.director_root)
    before = known or AgentConfig(device=device, target=target, broker=broker)
    config = msgspec.structs.replace(
        before,
        target=target,
        simulated=simulated,
        server=server,
        broker=broker,
        tags=dict(tags),
        firmware=_firmware(before.firmware, firmware, without_test_boot),
    )
    write_config(state, config)
    return config


def _firmware(
    before: FirmwareConfig, link: str | None, without_test_boot: TestBootPolicy | None
) -> FirmwareConfig:
    """Return ``before`` with what is said anew."""
    return msgspec.structs.replace(
        before,
        link=before.link if link is None else link,
        without_test_boot=without_test_boot or before.without_test_boot,
    )


def _broker_of(grant: EnrolGrant) -> BrokerAddress:
    """Return where the broker is.

    Raises:
        ConfigError: No authority is among those that should vouch for it.
    """
    if grant.broker_ca:
        try:
            tls_context(grant.broker_ca)
        except ConfigError as error:
            raise ConfigError(f"the manager's grant names no authority: {error}") from error
    return BrokerAddress(host=grant.broker_host, port=grant.broker_port, ca=grant.broker_ca)


def _split(token: str) -> tuple[str, str]:
    token_id, dot, secret = token.partition(".")
    if not (token_id and dot and secret):
        raise ConfigError("that is not a token; it looks like ID.SECRET, see `asdic token`")
    return token_id, secret


def _known_config(state: StateFolder, device: str) -> AgentConfig | None:
    """Return how the device is configured, or None where it is new.

    Raises:
        ConfigError: The folder, whose metadata is of one device, is another's.
    """
    if not state.config.exists():
        return None
    known = read_config(state)
    if known.device != device:
        raise ConfigError(
            f"{state.path} is device {known.device!r}; enrol {device!r} in a folder of its own"
        )
    return known


def _ask(server: str, token_id: str, secret: str, body: str) -> EnrolGrant:
    request = EnrolRequest(
        token_id=token_id, body=body, proof=proof_of(secret.encode(), body.encode())
    )
    content = _post(server, canonical_json(request))
    try:
        reply = parse_json(content, EnrolReply, what="the manager's answer")
    except ConfigError as error:
        raise LinkError(f"{server} is no fleet manager: {error}") from error
    if not hmac.compare_digest(proof_of(secret.encode(), reply.body.encode()), reply.proof):
        raise LinkError(f"the answer of {server} is not proven by the token; nothing was stored")
    return parse_json(reply.body.encode(), EnrolGrant, what="the manager's grant")


def _post(server: str, data: bytes) -> bytes:
    if urlsplit(server).scheme not in {"http", "https"}:
        raise ConfigError(f"{server!r} is not the address of a manager; it starts with http")
    request = urllib.request.Request(  # noqa: S310 - the scheme was just checked
        server.rstrip("/") + ENROL_PATH,
        data=data,
        headers={"Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            content: bytes = answer.read(ANSWER_LIMIT_BYTES + 1)
    except urllib.error.HTTPError as error:
        with error:
            raise ConfigError(f"{server} refuses this device: {_reason(error)}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise LinkError(f"the manager at {server} cannot be reached: {reason}") from error
    if len(content) > ANSWER_LIMIT_BYTES:
        raise LinkError(f"the answer of {server} is larger than {ANSWER_LIMIT_BYTES} bytes")
    return content


class _Problem(msgspec.Struct, frozen=True):
    error: str = ""


def _reason(error: urllib.error.HTTPError) -> str:
    """Return the manager's own sentence, or the status if it gave none."""
    try:
        problem = msgspec.json.decode(error.read(4096), type=_Problem)
    except (msgspec.DecodeError, OSError):
        problem = _Problem()
    return problem.error or f"{error.code} {error.reason}"
