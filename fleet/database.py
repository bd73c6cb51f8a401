"""What the manager remembers: the tables, and the one way to them.

SQLite in WAL mode for one machine; nothing here is SQLite's own beside the two pragmas, so that
PostgreSQL can take its place. Every write can be repeated without harm.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
    update,
)
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from asdic.contract.errors import ConfigError

SCHEMA_VERSION: Final = 1
METADATA: Final = MetaData()

schema = Table("schema", METADATA, Column("version", Integer, primary_key=True))

tokens = Table(
    "tokens",
    METADATA,
    Column("id", String(32), primary_key=True),
    Column("secret", String(64), nullable=False),
    Column("created_s", Float, nullable=False),
    Column("used_by", String(63)),
)

devices = Table(
    "devices",
    METADATA,
    Column("id", String(63), primary_key=True),
    Column("public_key", String(64), nullable=False),
    Column("target", String(64), nullable=False),
    Column("simulated", Boolean, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("enrolled_s", Float, nullable=False),
    Column("report_number", Integer, nullable=False, default=0),
    Column("report", Text),
    Column("loaded_version", String(64)),
    Column("loaded_manifest", String(71)),
    Column("online", Boolean, nullable=False, default=False),
    Column("seen_s", Float),
    Column("refused_messages", Integer, nullable=False, default=0),
)

reports = Table(
    "reports",
    METADATA,
    Column("device", ForeignKey("devices.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("received_s", Float, nullable=False),
    Column("envelope", Text, nullable=False),
)

report_conflicts = Table(
    "report_conflicts",
    METADATA,
    Column("device", ForeignKey("devices.id"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("received_s", Float, nullable=False),
    Column("envelope", Text, nullable=False),
    Column("settled_s", Float),
)

rollouts = Table(
    "rollouts",
    METADATA,
    Column("position", Integer, primary_key=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("version", String(64), nullable=False),
    Column("state", String(32), nullable=False, index=True),
    Column("reason", Text, nullable=False),
    Column("salt", String(32), nullable=False),
    Column("selection", Text, nullable=False),
    Column("created_s", Float, nullable=False),
    Column("policy", JSON, nullable=False),
    Column("stages", JSON, nullable=False),
    Column("unsupported", JSON, nullable=False),
)

rollout_devices = Table(
    "rollout_devices",
    METADATA,
    Column("rollout", ForeignKey("rollouts.id"), primary_key=True),
    Column("device", ForeignKey("devices.id"), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("stage", Integer, nullable=False),
    Column("target", String(64), nullable=False),
    Column("manifest", String(71), nullable=False),
    Column("state", String(32), nullable=False),
    Column("refusal", JSON),
    Column("offered_s", Float),
)

events = Table(
    "events",
    METADATA,
    Column("position", Integer, primary_key=True),
    Column("rollout", ForeignKey("rollouts.id"), nullable=False, index=True),
    Column("time_s", Float, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("detail", JSON, nullable=False),
)


bench_orders = Table(
    "bench_orders",
    METADATA,
    Column("device", ForeignKey("devices.id"), primary_key=True),
    Column("id", String(32), nullable=False),
    Column("issued_s", Float, nullable=False),
    Column("envelope", Text, nullable=False),
)

bench_results = Table(
    "bench_results",
    METADATA,
    Column("digest", String(71), primary_key=True),
    Column("device", ForeignKey("devices.id"), nullable=False),
    Column("version", String(64), index=True),
    Column("target", String(64), nullable=False),
    Column("received_s", Float, nullable=False),
    Column("envelope", Text, nullable=False),
    Column("figures", JSON, nullable=False),
)


class Database:
    """The open database. Reading never waits for writing; one transaction writes at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file at ``path``, made if there is none.

        Raises:
            ConfigError: The file is no database of ours, or one of another schema version.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._engine = create_engine(f"sqlite:///{path}")
        event.listen(self._engine, "connect", _configure_sqlite)
        event.listen(self._engine, "begin", _begin)
        try:
            with self.writing() as connection:
                METADATA.create_all(connection)
                _check_schema(connection, path)
        except SQLAlchemyError as error:
            self.close()
            raise ConfigError(f"{path} is not a usable database: {error}") from error
        except ConfigError:
            self.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Yield a connection that sees one state of the database."""
        with self._engine.connect() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """Yield a connection whose changes are stored together, or not at all.

        Raises:
            OSError: The disk does not take them.
        """
        try:
            with self._engine.execution_options(asdic_writes=True).begin() as connection:
                yield connection
        except OperationalError as error:
            raise OSError(errno.EIO, f"cannot write: {error.orig}", str(self._path)) from error

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def upsert(
    connection: Connection, table: Table, keys: dict[str, Any], values: dict[str, Any]
) -> None:
    """Make the row of ``table`` that ``keys`` names hold ``values``."""
    condition = [table.c[name] == value for name, value in keys.items()]
    changed = connection.execute(update(table).where(*condition).values(**values))
    if changed.rowcount == 0:
        connection.execute(insert(table).values(**keys, **values))


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # _begin says how transactions begin, not the driver
    for pragma in ("busy_timeout=10000", "journal_mode=WAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    """Take the write lock at once: SQLite does not wait for it in the middle of a transaction."""
    writes = connection.get_execution_options().get("asdic_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _check_schema(connection: Connection, path: Path) -> None:
    version = connection.execute(select(schema.c.version)).scalar()
    if version is None:
        connection.execute(insert(schema).values(version=SCHEMA_VERSION))
    elif version != SCHEMA_VERSION:
        raise ConfigError(
            f"{path} has schema version {version}, this asdic reads {SCHEMA_VERSION}; "
            "use the asdic that made it, or another state folder"
        )
