"""What a state folder says about its device, for a person at the box or a program."""

from __future__ import annotations

import msgspec

from asdic.contract.messages import FirmwareFacts, Loaded, Report
from asdic.device.config import StateFolder, read_config
from asdic.device.reports import read_last_report
from asdic.device.update.journal import Journal, JournalFile
from asdic.device.update.storage import Storage
from asdic.device.update.store import Pointer, Store


class DeviceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Pointers, journal and last report. What runs is what the report's ``loaded`` says."""

    device: str
    target: str
    simulated: bool
    current: str | None
    previous: str | None
    candidate: str | None
    journal: Journal
    report: Report | None

    def lines(self) -> tuple[tuple[str, str], ...]:
        """Return it as names and values for a person."""
        loaded = self.report.loaded if self.report else None
        refusal, beside = self.journal.refusal, self.journal.microcontroller
        return (
            ("device", f"{self.device} ({self.target}{', simulated' if self.simulated else ''})"),
            ("runs", _runs(loaded) if loaded else "nothing"),
            *((("firmware", _firmware(beside)),) if beside else ()),
            ("current", self.current or "none"),
            ("previous", self.previous or "none"),
            ("update", f"{self.journal.version or '-'} is {self.journal.state.value}"),
            *((("reason", refusal.message),) if refusal else ()),
            ("report", f"number {self.report.number}" if self.report else "none sent"),
        )


def _firmware(beside: FirmwareFacts) -> str:
    return f"{beside.version} on {beside.board}, when it was asked last"


def _runs(loaded: Loaded) -> str:
    """Return what the program said, and what speaks against it."""
    said = f"{loaded.version}, {loaded.inferences} inferences"
    return f"{said}, {loaded.doubt}" if loaded.doubt else said


def read_status(state: StateFolder) -> DeviceStatus:
    """Return the status of the device in ``state``; nothing is changed.

    Raises:
        ConfigError: The folder is no enrolled device, or its journal is damaged.
    """
    config = read_config(state)
    storage = Storage()
    store = Store(state.path, storage)
    return DeviceStatus(
        device=config.device,
        target=config.target,
        simulated=config.simulated,
        current=store.pointer(Pointer.CURRENT),
        previous=store.pointer(Pointer.PREVIOUS),
        candidate=store.pointer(Pointer.CANDIDATE),
        journal=JournalFile(state.journal, storage).read(),
        report=read_last_report(state),
    )
