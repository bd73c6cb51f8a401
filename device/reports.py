"""Reports: the device's signed, numbered word on what really runs.

The number is durable before the report leaves, so no number is used twice whatever happens. What
``loaded`` says comes from the inferring program alone; the agent never fills in what it wishes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asdic.contract.errors import ConfigError
from asdic.contract.files import canonical_json, parse_json, read_bounded
from asdic.contract.messages import REPORT_TYPE, Report
from asdic.contract.trust import sign_envelope
from asdic.device.application import Program
from asdic.device.config import AgentConfig, StateFolder
from asdic.device.update.journal import Journal
from asdic.device.update.sealed import SCHEMA, seal, unseal_line
from asdic.device.update.storage import Storage

NUMBER_LIMIT_BYTES: Final = 256
REPORT_LIMIT_BYTES: Final = 64 << 10


class _Number(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``reports/number``: that of the last report, sent or not.

    Every schema has the number, so that an older agent can still report.
    """

    schema: int = SCHEMA
    number: int = 0


class Reporter:
    """Makes, numbers, signs and sends the device's reports."""

    def __init__(
        self,
        state: StateFolder,
        config: AgentConfig,
        key: Ed25519PrivateKey,
        storage: Storage,
        send: Callable[[bytes], None],
    ) -> None:
        self._state = state
        self._config = config
        self._key = key
        self._storage = storage
        self._send = send
        storage.make_folder(state.report_number.parent)
        self._number = _read_number(state)
        self._agent_version = version("asdic")
        self._said: tuple[object, ...] = ()
        self._said_s = 0.0

    def continue_after(self, number: int) -> bool:
        """Use larger numbers than ``number`` from now on; return whether that is a change.

        The manager has had that number from this device. Where the device does not know it, its
        folder was restored from an old copy, or another box has a copy of it.
        """
        if number <= self._number:
            return False
        self._use_number(number)
        return True

    def _use_number(self, number: int) -> None:
        self._number = number
        self._storage.write(self._state.report_number, seal(_Number(number=number)))

    def report(self, journal: Journal, program: Program) -> None:
        """Send a report."""
        self._use_number(self._number + 1)
        report = self._report(journal, program)
        data = canonical_json(report)
        self._storage.write(self._state.last_report, data)
        self._send(sign_envelope(data, REPORT_TYPE, self._key))
        self._said = _news(journal, program)
        self._said_s = time.monotonic()

    def report_news(self, journal: Journal, program: Program) -> None:
        """Send a report if there is news, or nothing was said for a while."""
        is_due = time.monotonic() - self._said_s >= self._config.timing.heartbeat_s
        if is_due or _news(journal, program) != self._said:
            self.report(journal, program)

    def _report(self, journal: Journal, program: Program) -> Report:
        return Report(
            device=self._config.device,
            number=self._number,
            time_s=time.time(),
            target=self._config.target,
            state=journal.state,
            rollout=journal.rollout,
            version=journal.version,
            manifest=journal.manifest,
            loaded=program.loaded,
            runtime=program.runtime,
            refusal=journal.refusal,
            gate=journal.gate,
            firmware=journal.microcontroller,
            agent_version=self._agent_version,
        )


def read_last_report(state: StateFolder) -> Report | None:
    """Return the last report that this device sent, or None if there is none to be read."""
    try:
        data = read_bounded(state.last_report, REPORT_LIMIT_BYTES)
        return parse_json(data, Report, what=str(state.last_report))
    except ConfigError:
        return None


def _news(journal: Journal, program: Program) -> tuple[object, ...]:
    """Return what makes a report worth sending: not how many inferences there were since."""
    loaded = program.loaded and msgspec.structs.replace(program.loaded, inferences=0)
    return journal.state, journal.rollout, loaded, program.runtime


def _read_number(state: StateFolder) -> int:
    """Return the number of the last report; no number is ever used for two.

    The number is written before its report, so where it is lost the last report's is at most one
    behind.

    Raises:
        ConfigError: Both the number and the last report are damaged.
    """
    path = state.report_number
    last = read_last_report(state)
    if not path.exists():
        return last.number + 1 if last is not None else 0
    data = read_bounded(path, NUMBER_LIMIT_BYTES)
    if data.isdigit():  # schema 1
        return int(data)
    try:
        return parse_json(unseal_line(data, what=str(path)), _Number, what=str(path)).number
    except ConfigError as error:
        if last is not None:
            return last.number + 1
        raise ConfigError(
            f"{path} is damaged; write a number into it that is larger than the "
            "last one that `asdic status` shows for this device"
        ) from error
