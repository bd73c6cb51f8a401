"""Which devices there are, how they joined, and the last thing each of them signed."""

from __future__ import annotations

import hmac
import logging
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec
from sqlalchemy import Row, insert, select, update

from asdic.contract.errors import AsdicError, ConfigError, ReleaseError
from asdic.contract.files import parse_json
from asdic.contract.messages import (
    REPORT_TYPE,
    EnrolBody,
    EnrolRequest,
    Report,
    check_device_id,
)
from asdic.contract.target import target_named
from asdic.contract.trust import ENVELOPE_LIMIT_BYTES, open_envelope, proof_of
from asdic.fleet.conflicts import Conflict, Conflicts, ReusedNumberError
from asdic.fleet.database import Database, devices, reports, tokens, upsert

log: Final = logging.getLogger(__name__)
_PUBLIC_KEY: Final = re.compile(r"[0-9a-f]{64}")
_MAX_TAGS: Final = 32
_T = TypeVar("_T")


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One enrolled unit. ``report`` is the last one that it signed and we accepted.

    ``conflicts`` counts reports with a number that the device had used for another one,
    ``conflict_s`` is when the last one came: its state folder was restored, or copied.
    """

    id: str
    public_key: str
    target: str
    simulated: bool
    tags: dict[str, str]
    report_number: int
    report: Report | None
    online: bool
    seen_s: float | None
    refused_messages: int
    conflicts: int = 0
    conflict_s: float | None = None


class Inventory:
    """The enrolled devices, in the database."""

    def __init__(
        self,
        database: Database,
        *,
        accept_simulated: bool = False,
        on_conflict: Callable[[Conflict], None] = lambda _conflict: None,
    ) -> None:
        self._database = database
        self._accept_simulated = accept_simulated
        self._conflicts = Conflicts(database)
        self._on_conflict = on_conflict

    def new_token(self, now: float) -> str:
        """Return a claim ``<id>.<secret>`` that lets one device join."""
        identity, secret = secrets.token_hex(6), secrets.token_hex(24)
        with self._database.writing() as connection:
            connection.execute(insert(tokens).values(id=identity, secret=secret, created_s=now))
        return f"{identity}.{secret}"

    def enrol(self, request: EnrolRequest, now: float) -> tuple[EnrolBody, str]:
        """Take the device that asks into the fleet; return its body and the claim's secret.

        Asking again with the same claim and the same key is no change, so that a device which
        never got the answer can repeat itself. A new claim for a known device is a person's word
        that all is well with it: conflicts of its reports are settled.

        Raises:
            ReleaseError: The claim is unknown or used, the proof is wrong, or the id is taken.
            ConfigError: The body is not an enrolment, or the device is not welcome here.
        """
        with self._database.writing() as connection:
            token = connection.execute(
                select(tokens).where(tokens.c.id == request.token_id)
            ).first()
            if token is None or not _is_proven(request, token.secret):
                raise ReleaseError("the enrolment token is unknown, or the proof is wrong")
            body = parse_json(request.body.encode(), EnrolBody, what="the enrolment")
            self._check_body(body)
            known = connection.execute(select(devices).where(devices.c.id == body.device)).first()
            if known is not None and known.public_key != body.public_key:
                raise ReleaseError(f"device {body.device} is enrolled with another key")
            if token.used_by not in {None, body.device} or (token.used_by and known is None):
                raise ReleaseError(
                    "the enrolment token was used by another device; ask for a new one"
                )
            connection.execute(
                update(tokens).where(tokens.c.id == token.id).values(used_by=body.device)
            )
            if known is not None and token.used_by is None:
                self._conflicts.settle(connection, body.device, now)
            enrolled_s = now if known is None else known.enrolled_s
            upsert(
                connection,
                devices,
                {"id": body.device},
                {
                    "public_key": body.public_key,
                    "target": body.target,
                    "simulated": body.simulated,
                    "tags": body.tags,
                    "enrolled_s": enrolled_s,
                },
            )
        return body, str(token.secret)

    def accept_report(self, device_id: str, envelope: bytes, now: float) -> Report | None:
        """Store a device's report and return it; a bad one is logged, counted and left out."""
        device = self._row(device_id)
        if device is None:
            log.warning("a report from %s, which is not enrolled", device_id)
            return None
        try:
            report = self._checked_report(device, envelope)
        except ReusedNumberError as error:
            self._count_refused(device_id, error)
            self._conflicts.note(device_id, error.number, envelope.decode(), now)
            self._on_conflict(Conflict(device=device_id, last=device.report_number))
            return None
        except AsdicError as error:
            self._count_refused(device_id, error)
            return None
        if report is not None:
            self._store(report, envelope.decode(), now)
        return report

    def open_message(
        self,
        device_id: str,
        envelope: bytes,
        payload_type: str,
        kind: type[_T],
        *,
        limit_bytes: int = ENVELOPE_LIMIT_BYTES,
    ) -> _T | None:
        """Return a message that the device signed; a bad one is logged, counted and left out."""
        device = self._row(device_id)
        if device is None:
            log.warning("a message from %s, which is not enrolled", device_id)
            return None
        try:
            payload = open_envelope(
                envelope, payload_type, device.public_key, limit_bytes=limit_bytes
            )
            return parse_json(payload, kind, what=f"a message of {device_id}")
        except AsdicError as error:
            self._count_refused(device_id, error)
            return None

    def set_online(self, device_id: str, online: bool, now: float) -> None:
        """Note a device's presence, which is only a hint."""
        self._update(device_id, online=online, seen_s=now)

    def forget_presence(self) -> None:
        """Take everybody for offline: a new connection to the broker says who is not."""
        with self._database.writing() as connection:
            connection.execute(update(devices).values(online=False))

    def all(self) -> tuple[Device, ...]:
        """Return all devices by name."""
        with self._database.reading() as connection:
            rows = connection.execute(select(devices).order_by(devices.c.id)).all()
            standing = self._conflicts.standing(connection)
        return tuple(_device(row, *standing.get(row.id, (0, None))) for row in rows)

    def reports(self) -> dict[str, Report]:
        """Return the last report of each device that sent any."""
        return {device.id: device.report for device in self.all() if device.report is not None}

    def select(self, selection: str) -> tuple[Device, ...]:
        """Return the devices that ``all``, device ids or ``tag:key=value`` name, comma-separated.

        Raises:
            ConfigError: A name is unknown, or nothing is selected.
        """
        known = {device.id: device for device in self.all()}
        chosen: dict[str, Device] = {}
        for part in (part.strip() for part in selection.split(",")):
            chosen |= _matching(part, known)
        if not chosen:
            raise ConfigError(f"{selection!r} selects no device; `asdic status` lists them")
        return tuple(chosen[name] for name in sorted(chosen))

    def _check_body(self, body: EnrolBody) -> None:
        check_device_id(body.device)
        target_named(body.target)
        if not _PUBLIC_KEY.fullmatch(body.public_key):
            raise ConfigError("the public key is not 64 hex digits")
        if len(body.tags) > _MAX_TAGS:
            raise ConfigError(f"a device may have {_MAX_TAGS} tags, not {len(body.tags)}")
        if body.simulated and not self._accept_simulated:
            raise ConfigError(
                f"{body.device} simulates its target; this fleet takes such devices only when "
                "it is served with --accept-simulated"
            )

    def _checked_report(self, device: Row[Any], envelope: bytes) -> Report | None:
        payload = open_envelope(envelope, REPORT_TYPE, device.public_key)
        report = parse_json(payload, Report, what=f"a report of {device.id}")
        if report.device != device.id:
            raise ReleaseError(f"the report speaks for {report.device}")
        if report.target != device.target:
            raise ReleaseError(f"the report is of a {report.target}, enrolled as {device.target}")
        simulated = report.runtime is not None and report.runtime.simulated
        if simulated and not (device.simulated and self._accept_simulated):
            raise ReleaseError("the report is of a simulated target, which is not accepted here")
        if envelope.decode() == device.report:
            return None
        if report.number <= device.report_number:
            if self._conflicts.is_reused(device.id, report.number, envelope.decode()):
                raise ReusedNumberError(report.number)
            raise ReleaseError(f"report {report.number} is not newer than {device.report_number}")
        return report

    def _store(self, report: Report, envelope: str, now: float) -> None:
        loaded = report.loaded
        with self._database.writing() as connection:
            upsert(
                connection,
                reports,
                {"device": report.device, "number": report.number},
                {"received_s": now, "envelope": envelope},
            )
            connection.execute(
                update(devices)
                .where(devices.c.id == report.device)
                .values(
                    report_number=report.number,
                    report=envelope,
                    loaded_version=loaded.version if loaded else None,
                    loaded_manifest=loaded.manifest if loaded else None,
                    online=True,
                    seen_s=now,
                )
            )

    def _row(self, device_id: str) -> Row[Any] | None:
        with self._database.reading() as connection:
            return connection.execute(select(devices).where(devices.c.id == device_id)).first()

    def _update(self, device_id: str, **values: Any) -> None:
        with self._database.writing() as connection:
            connection.execute(update(devices).where(devices.c.id == device_id).values(**values))

    def _count_refused(self, device_id: str, error: AsdicError) -> None:
        log.warning("ignored a message of %s: %s", device_id, error)
        self._update(device_id, refused_messages=devices.c.refused_messages + 1)


def _matching(part: str, known: Mapping[str, Device]) -> dict[str, Device]:
    if part == "all":
        return dict(known)
    if part.startswith("tag:"):
        key, equals, value = part.removeprefix("tag:").partition("=")
        if not equals:
            raise ConfigError(f"cannot read {part!r}; write a tag like tag:site=north")
        return {name: one for name, one in known.items() if one.tags.get(key) == value}
    if part not in known:
        raise ConfigError(f"there is no device {part!r}; `asdic status` lists them")
    return {part: known[part]}


def _is_proven(request: EnrolRequest, secret: str) -> bool:
    expected = proof_of(secret.encode(), request.body.encode())
    return hmac.compare_digest(expected.encode(), request.proof.encode())


def _device(row: Row[Any], conflicts: int, conflict_s: float | None) -> Device:
    report = None
    if row.report is not None:
        payload = open_envelope(row.report.encode(), REPORT_TYPE, row.public_key)
        report = msgspec.json.decode(payload, type=Report)
    return Device(
        id=row.id,
        public_key=row.public_key,
        target=row.target,
        simulated=row.simulated,
        tags=row.tags,
        report_number=row.report_number,
        report=report,
        online=row.online,
        seen_s=row.seen_s,
        refused_messages=row.refused_messages,
        conflicts=conflicts,
        conflict_s=conflict_s,
    )
