"""A device's state folder and its ``agent.toml``.

The file is written once, by ``asdic-agent enrol``; unknown keys are errors. Everything that
changes later (pointers, journal, trust) lies beside it and is never configured by hand.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import ConfigError
from asdic.contract.files import read_bounded, write_file
from asdic.contract.firmware import TestBootPolicy
from asdic.contract.messages import UpdateState, check_device_id
from asdic.contract.target import target_named
from asdic.device.update.state import DEADLINES_S

CONFIG_LIMIT_BYTES: Final = 64 << 10


class Timing(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """How patient the agent is, in seconds; ``deadlines_s`` overrides ``state.DEADLINES_S``."""

    tick_s: float = 0.2
    heartbeat_s: float = 60.0
    reconnect_min_s: float = 1.0
    reconnect_max_s: float = 60.0
    runner_restart_s: float = 1.0
    runner_restart_max_s: float = 30.0
    busy_limit_s: float = 6 * 3600.0
    bench_s: float = 1.0
    deadlines_s: dict[str, float] = {}

    def deadline_s(self, state: UpdateState) -> float | None:
        """Return how long ``state`` may last, or None where it has no deadline."""
        return self.deadlines_s.get(state.value, DEADLINES_S.get(state))


class Probation(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """What the running program has to show before a release is committed."""

    inferences: int = 5
    crashes: int = 3


class FirmwareConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The microcontroller beside this box, if it has one.

    ``link`` is its address (``udp://192.0.2.7``, ``serial:///dev/ttyACM0``). ``without_test_boot``
    says what to do with firmware where it cannot boot an image on trial: ``refuse`` it, or
    ``re-upload`` the old image to go back. ``patience_s`` comes on top of the deadlines of the
    states in which it is written to: a serial line carries some 10 kB a second.
    """

    link: str = ""
    without_test_boot: TestBootPolicy = "refuse"
    patience_s: float = 900.0


class FramesConfig(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """The ring in shared memory that brings the frames, by its name or path, if there is one."""

    ring: str = ""


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who this device is and whom it talks to."""

    device: str
    target: str
    simulated: bool = False
    server: str = ""
    broker: BrokerAddress
    tags: dict[str, str] = {}
    timing: Timing = Timing()
    probation: Probation = Probation()
    firmware: FirmwareConfig = FirmwareConfig()
    frames: FramesConfig = FramesConfig()

    def deadline_s(self, state: UpdateState, *, writes_firmware: bool) -> float | None:
        """Return how long an update may be in ``state``, or None where it has no deadline."""
        limit_s = self.timing.deadline_s(state)
        if limit_s is None or not writes_firmware:
            return limit_s
        return limit_s + self.firmware.patience_s


@dataclass(frozen=True)
class StateFolder:
    """The paths in a device's state folder."""

    path: Path

    @property
    def config(self) -> Path:
        """``agent.toml``."""
        return self.path / "agent.toml"

    @property
    def key(self) -> Path:
        """The device's private key, which never leaves the device."""
        return self.path / "identity" / "key.pem"

    @property
    def trust(self) -> Path:
        """Trusted roots, accepted metadata and the floor under their versions."""
        return self.path / "trust"

    @property
    def journal(self) -> Path:
        """Where the update in hand stands."""
        return self.path / "journal.json"

    @property
    def offer(self) -> Path:
        """The offer in hand, as it came."""
        return self.path / "offer.json"

    @property
    def report_number(self) -> Path:
        """The number of the last report."""
        return self.path / "reports" / "number"

    @property
    def last_report(self) -> Path:
        """The last report, for ``asdic-agent status``."""
        return self.path / "reports" / "last.json"

    @property
    def application(self) -> Path:
        """The folder of the socket that the inferring program connects to."""
        return self.path / "application"

    @property
    def bench_order(self) -> Path:
        """The manager's benchmark order in hand, as it came."""
        return self.path / "bench" / "order.json"

    @property
    def bench_result(self) -> Path:
        """The signed answer to it, until the manager has stored it."""
        return self.path / "bench" / "result.json"

    @property
    def bench_floor(self) -> Path:
        """When the newest order that was taken was issued; older ones are never run."""
        return self.path / "bench" / "floor.json"

    @property
    def reserve(self) -> Path:
        """Room for the journal on a disk that someone else has filled."""
        return self.path / "reserve"

    @property
    def order(self) -> Path:
        """What a person at the box asks the running agent for."""
        return self.path / "by-hand" / "order.json"

    @property
    def answer(self) -> Path:
        """What the agent answered to it."""
        return self.path / "by-hand" / "answer.json"

    @property
    def lock(self) -> Path:
        """Held by the agent that works on this folder."""
        return self.path / "agent.lock"


def read_config(state: StateFolder) -> AgentConfig:
    """Return the configuration of the device in ``state``.

    Raises:
        ConfigError: The device is not enrolled, or the file has unknown or wrong entries.
    """
    if not state.config.is_file():
        raise ConfigError(
            f"{state.path} is not an enrolled device; enrol it with "
            f"`asdic-agent enrol --server URL --token TOKEN --state {state.path}`"
        )
    data = read_bounded(state.config, CONFIG_LIMIT_BYTES)
    try:
        config = msgspec.toml.decode(data, type=AgentConfig)
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"{state.config}: {error}") from error
    check_device_id(config.device)
    target_named(config.target)
    return config


def write_config(state: StateFolder, config: AgentConfig) -> None:
    """Write ``agent.toml``."""
    write_file(state.config, encode_config(config))


def encode_config(config: AgentConfig) -> bytes:
    """Return ``config`` as TOML."""
    return "\n".join(_toml_lines(msgspec.to_builtins(config))).encode() + b"\n"


def _toml_lines(table: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    """Yield TOML: plain values first, then each table under its dotted name.

    A TOML basic string is a JSON string, and so are the numbers and truth values used here.
    """
    for key, value in table.items():
        if not isinstance(value, dict):
            yield f"{_toml_string(key)} = {_toml_value(value)}"
    for key, value in table.items():
        if isinstance(value, dict) and value:
            name = f"{prefix}{_toml_string(key)}"
            yield from ("", f"[{name}]")
            yield from _toml_lines(value, f"{name}.")


def _toml_value(value: object) -> str:
    return _toml_string(value) if isinstance(value, str) else json.dumps(value)


def _toml_string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
