"""Rollouts and their events in the database, so that a restarted manager goes on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, delete, insert, select

from asdic.contract.errors import ConfigError
from asdic.fleet.database import Database, events, rollout_devices, rollouts, upsert
from asdic.fleet.decision import Decision
from asdic.fleet.rollout import Rollout
from asdic.fleet.stage import Member


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One decision and its inputs."""

    time_s: float
    kind: str
    detail: dict[str, Any]


class RolloutRecords:
    """All rollouts there have been."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def save(self, rollout: Rollout, decisions: Iterable[Decision], now: float) -> None:
        """Store where the rollout stands and what was decided, in one transaction."""
        with self._database.writing() as connection:
            values = msgspec.to_builtins(rollout)
            members = values.pop("members")
            upsert(connection, rollouts, {"id": values.pop("id")}, values)
            connection.execute(
                delete(rollout_devices).where(rollout_devices.c.rollout == rollout.id)
            )
            rows = [
                {"rollout": rollout.id, "position": position, **member}
                for position, member in enumerate(members)
            ]
            if rows:
                connection.execute(insert(rollout_devices), rows)
            _add_events(connection, rollout.id, decisions, now)

    def get(self, rollout_id: str) -> Rollout:
        """Return one rollout.

        Raises:
            ConfigError: There is no such rollout.
        """
        for rollout in self._read(rollouts.c.id == rollout_id):
            return rollout
        raise ConfigError(f"there is no rollout {rollout_id!r}; `asdic rollout list` shows them")

    def all(self) -> tuple[Rollout, ...]:
        """Return all rollouts, the newest first."""
        return self._read()

    def events(self, rollout_id: str) -> tuple[Event, ...]:
        """Return what happened in a rollout, in order."""
        with self._database.reading() as connection:
            rows = connection.execute(
                select(events).where(events.c.rollout == rollout_id).order_by(events.c.position)
            ).all()
        return tuple(Event(time_s=row.time_s, kind=row.kind, detail=row.detail) for row in rows)

    def _read(self, *conditions: Any) -> tuple[Rollout, ...]:
        with self._database.reading() as connection:
            rows = connection.execute(
                select(rollouts).where(*conditions).order_by(rollouts.c.position.desc())
            ).all()
            return tuple(_rollout(row, _members(connection, row.id)) for row in rows)


def _add_events(
    connection: Connection, rollout_id: str, decisions: Iterable[Decision], now: float
) -> None:
    for decision in decisions:
        detail = msgspec.to_builtins(decision)
        kind = detail.pop("type")
        connection.execute(
            insert(events).values(rollout=rollout_id, time_s=now, kind=kind, detail=detail)
        )


def _members(connection: Connection, rollout_id: str) -> tuple[Member, ...]:
    rows = connection.execute(
        select(rollout_devices)
        .where(rollout_devices.c.rollout == rollout_id)
        .order_by(rollout_devices.c.position)
    ).all()
    return tuple(msgspec.convert(_plain(row), Member) for row in rows)


def _rollout(row: Row[Any], members: tuple[Member, ...]) -> Rollout:
    return msgspec.convert({**_plain(row), "members": members}, Rollout)


def _plain(row: Row[Any]) -> dict[str, Any]:
    """Return a row with names of the exact type that msgspec wants."""
    return {str(name): value for name, value in row._mapping.items()}
