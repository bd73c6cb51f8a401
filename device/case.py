"""The box that the doctor examines, and what a check may say of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import TypeAlias

from asdic.contract.messages import Report
from asdic.device.config import AgentConfig, StateFolder, read_config
from asdic.device.reports import read_last_report
from asdic.device.update.journal import Journal, JournalFile
from asdic.device.update.storage import Storage
from asdic.device.update.store import Store


class Level(str, Enum):
    """How bad a finding is. ``error``: this box does not do its work, or soon will not."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Case:
    """The box that is examined, and the time by its own clock."""

    state: StateFolder
    now_s: float

    @property
    def config(self) -> AgentConfig:
        """The content of ``agent.toml``."""
        return read_config(self.state)

    @property
    def journal(self) -> Journal:
        """Where the update in hand stands."""
        return JournalFile(self.state.journal, Storage()).read()

    @property
    def store(self) -> Store:
        """Blobs, releases and pointers."""
        return Store(self.state.path, Storage())

    @cached_property
    def report(self) -> Report | None:
        """The last report."""
        return read_last_report(self.state)


Found: TypeAlias = tuple[Level, str, str]
"""How bad it is, what was found, and what to do about it."""


def as_ok(found: str) -> Found:
    """Return what is as it should be."""
    return Level.OK, found, ""


def as_warning(found: str, advice: str) -> Found:
    """Return what a person should know."""
    return Level.WARNING, found, advice


def as_error(found: str, advice: str) -> Found:
    """Return what keeps this box from its work."""
    return Level.ERROR, found, advice
