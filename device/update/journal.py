"""The journal: one small file that says where the update in hand stands.

It is written before every effect, so whoever reads it after a power cut knows what may have
been done, and does it again. Its content is the device's own and no message.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.errors import ConfigError
from asdic.contract.messages import FirmwareFacts, GateFacts, Refusal, UpdateState
from asdic.device.update.firmware import FirmwareChange
from asdic.device.update.sealed import SCHEMA, NewerSchemaError, read_sealed, seal
from asdic.device.update.state import UpdateEvent
from asdic.device.update.storage import Storage
from asdic.device.update.store import Pointers

JOURNAL_LIMIT_BYTES: Final = 1 << 20
FINISHED_KEPT: Final = 8


class Finished(msgspec.Struct, frozen=True, kw_only=True):
    """An update that ended: the same offer is not taken up again.

    ``was_tried``: the release passed the gate and had its probation.
    """

    rollout: str
    offer: str
    manifest: str | None
    state: UpdateState
    was_tried: bool = False


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """Where the update in hand stands, and what its next step needs to know.

    ``offer`` is the digest of the stored offer. ``previous`` is the manifest that ``current``
    named before the switch (None: there was none). ``held`` is the event that a busy program
    holds back; ``by_person`` says that a person at the box overrides it. ``restarts`` counts
    restarts since the gate was entered, ``refetches`` the times that fetched blobs were damaged.
    ``firmware`` is set before the microcontroller may change; ``microcontroller`` is what it ran
    when it was asked last.
    """

    schema: int = SCHEMA
    state: UpdateState = UpdateState.IDLE
    rollout: str | None = None
    offer: str | None = None
    version: str | None = None
    manifest: str | None = None
    security_counter: int = 0
    previous: str | None = None
    held: UpdateEvent | None = None
    refusal: Refusal | None = None
    gate: GateFacts | None = None
    restarts: int = 0
    refetches: int = 0
    by_person: bool = False
    firmware: FirmwareChange | None = None
    microcontroller: FirmwareFacts | None = None
    finished: tuple[Finished, ...] = ()


@dataclass(frozen=True)
class Turn:
    """Something happened; ``journal`` holds what is known since then."""

    event: UpdateEvent
    journal: Journal


class JournalFile:
    """The journal on disk."""

    def __init__(self, path: Path, storage: Storage) -> None:
        self.path = path
        self._storage = storage

    def read(self) -> Journal:
        """Return the journal; a device that has none is idle.

        Raises:
            NewerSchemaError: A newer agent wrote it.
            ConfigError: The file is damaged.
        """
        if not self.path.exists():
            return Journal()
        journal = read_sealed(self.path, Journal, JOURNAL_LIMIT_BYTES)
        return msgspec.structs.replace(journal, schema=SCHEMA)

    def write(self, journal: Journal) -> None:
        """Replace the journal in one step that survives a power cut."""
        self._storage.write(self.path, seal(journal), urgent=True)

    def read_or_recover(
        self, pointers: Pointers, change_of: Callable[[str], FirmwareChange | None]
    ) -> Journal:
        """Return the journal, or where the pointers say that the update stands if it is damaged.

        ``candidate`` is removed only after a commit or a rollback. So where it equals ``current``,
        or its firmware was tried (``change_of``), it was activated and not committed, and the
        device goes back.

        Raises:
            NewerSchemaError: A newer agent wrote the journal.
        """
        try:
            return self.read()
        except NewerSchemaError:
            raise
        except ConfigError:
            change = change_of(pointers.candidate) if pointers.candidate else None
            is_switched = pointers.candidate == pointers.current
            if pointers.candidate is None or not (is_switched or change):
                return Journal()
            return Journal(
                state=UpdateState.ROLLING_BACK,
                manifest=pointers.candidate,
                previous=pointers.previous if is_switched else pointers.current,
                refusal=Refusal(code="journal", message=f"{self.path.name} was damaged"),
                firmware=change,
            )


def journal_again(before: Journal, current: str, version: str | None) -> Journal:
    """Return the journal of another gate of the current release.

    It keeps the rollout that brought the release, if that was the last update.
    """
    if before.state is not UpdateState.COMMITTED or before.manifest != current:
        return Journal(manifest=current, version=version, finished=before.finished)
    return msgspec.structs.replace(
        before, gate=None, previous=None, refusal=None, restarts=0, by_person=False
    )


def journal_back(
    before: Journal,
    current: str,
    *,
    version: str | None,
    previous: str | None,
    refusal: Refusal,
    is_wanted_again: bool,
    firmware: FirmwareChange | None,
) -> Journal:
    """Return the journal of the way back from the committed release.

    ``firmware`` is what that release did to the microcontroller, which goes back as well.
    ``is_wanted_again``: forget that it was committed, so that its offer may bring it once more.
    Otherwise its rollout counts as failed, so that no new copy of its offer brings it.
    """
    kept = tuple(
        _given_up(ended) if ended.manifest == current else ended
        for ended in before.finished
        if not is_wanted_again or ended.manifest != current
    )
    return Journal(
        manifest=current,
        version=version,
        previous=previous,
        refusal=refusal,
        firmware=firmware,
        finished=kept,
    )


def _given_up(ended: Finished) -> Finished:
    if ended.state is not UpdateState.COMMITTED:
        return ended
    return msgspec.structs.replace(ended, state=UpdateState.FAILED, was_tried=False)


def with_finished(journal: Journal) -> Journal:
    """Return ``journal`` with the update in hand noted as finished."""
    if journal.rollout is None or journal.offer is None:
        return journal
    ended = Finished(
        rollout=journal.rollout,
        offer=journal.offer,
        manifest=journal.manifest,
        state=journal.state,
        was_tried=journal.gate is not None,
    )
    others = tuple(one for one in journal.finished if one != ended)
    return msgspec.structs.replace(journal, finished=(*others, ended)[-FINISHED_KEPT:])
