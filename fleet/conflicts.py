"""Reports that cannot both be of one device: two with one number.

A device never uses a number twice, whatever happens to its power. So two different signed reports
with one number prove that its state folder was restored from an old copy, or that two boxes have
copies of it. A report that merely comes late proves nothing, for messages do overtake each other,
and neither does one that comes again.
"""

from __future__ import annotations

from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, delete, func, select, update

from asdic.contract.errors import ReleaseError
from asdic.contract.files import canonical_json
from asdic.contract.messages import NUMBER_TYPE, LastNumber
from asdic.contract.trust import sign_envelope
from asdic.fleet.database import Database, report_conflicts, reports, upsert

KEPT: Final = 100
"""Conflicts of one device; two boxes with one folder would make one a minute for ever."""


class ReusedNumberError(ReleaseError):
    """A device signed another report with this number before."""

    def __init__(self, number: int) -> None:
        super().__init__(
            f"report {number} differs from the one that it sent with this number before: its state "
            "folder was restored from an old copy, or another box has a copy of it"
        )
        self.number = number


class Conflict(msgspec.Struct, frozen=True, kw_only=True):
    """A device used a number again; ``last`` is that of the last report accepted from it."""

    device: str
    last: int


class Conflicts:
    """All conflicts there were, in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def is_reused(self, device: str, number: int, envelope: str) -> bool:
        """Return whether another report with this number was accepted before."""
        with self._database.reading() as connection:
            known = connection.execute(
                select(reports.c.envelope).where(
                    reports.c.device == device, reports.c.number == number
                )
            ).scalar()
        return known is not None and known != envelope

    def note(self, device: str, number: int, envelope: str, now: float) -> None:
        """Keep the report that came second."""
        with self._database.writing() as connection:
            upsert(
                connection,
                report_conflicts,
                {"device": device, "number": number},
                {"received_s": now, "envelope": envelope, "settled_s": None},
            )
            of_device = report_conflicts.c.device == device
            newest = (
                select(report_conflicts.c.number)
                .where(of_device)
                .order_by(report_conflicts.c.received_s.desc())
                .limit(KEPT)
            )
            connection.execute(
                delete(report_conflicts).where(of_device, report_conflicts.c.number.not_in(newest))
            )

    def settle(self, connection: Connection, device: str, now: float) -> None:
        """Note that a person has seen to the device; what happened is kept."""
        connection.execute(
            update(report_conflicts)
            .where(report_conflicts.c.device == device, report_conflicts.c.settled_s.is_(None))
            .values(settled_s=now)
        )

    def standing(self, connection: Connection) -> dict[str, tuple[int, float | None]]:
        """Return how many conflicts nobody has seen to, and when the last came, by device."""
        rows = connection.execute(
            select(
                report_conflicts.c.device,
                func.count().label("count"),
                func.max(report_conflicts.c.received_s).label("last_s"),
            )
            .where(report_conflicts.c.settled_s.is_(None))
            .group_by(report_conflicts.c.device)
        ).all()
        return {row.device: (row[1], row.last_s) for row in rows}


def signed_number(conflict: Conflict, key: Ed25519PrivateKey) -> bytes:
    """Return what tells the device to go on after its last accepted report."""
    told = LastNumber(device=conflict.device, number=conflict.last)
    return sign_envelope(canonical_json(told), NUMBER_TYPE, key)
