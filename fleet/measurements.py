"""Benchmarks that this fleet ordered, and the signed results that devices sent."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import msgspec
from sqlalchemy import delete, select

from asdic.contract.bench import (
    BENCH_ENVELOPE_LIMIT_BYTES,
    BENCH_ORDER_TYPE,
    BENCH_REFUSAL_TYPE,
    BENCH_TYPE,
    BenchOrder,
    BenchRefusal,
    BenchReport,
    ThrottlingVerdict,
)
from asdic.contract.errors import ConfigError
from asdic.contract.files import canonical_json
from asdic.contract.messages import Refusal, bench_topic
from asdic.contract.release import digest_of
from asdic.contract.trust import claimed_type, sign_envelope
from asdic.fleet.database import Database, bench_orders, bench_results, upsert
from asdic.fleet.inventory import Device, Inventory
from asdic.fleet.keys import KeyFolder
from asdic.fleet.offers import Publisher


class BenchWish(msgspec.Struct, frozen=True, kw_only=True):
    """A wish that devices measure what they run; as the options of ``asdic-agent bench``."""

    selection: str = "all"
    seconds: float = 10.0
    minutes: float = 0.0
    fps: float | None = None


class BenchView(msgspec.Struct, frozen=True, kw_only=True):
    """A stored result in figures, of its run with the most threads; ``digest`` fetches it whole.

    With a ``refusal`` there are no figures: the device could not run the order. ``version`` and
    ``manifest`` are then of the release that it last reported.
    """

    digest: str
    received_s: float
    version: str
    manifest: str | None
    target: str
    device: str
    public_key: str
    threads: int | None
    p50_ms: float | None
    p99_ms: float | None
    throughput_per_s: float | None
    points: float | None
    passed: bool | None
    throttling: str
    quiet: bool
    emulated: bool
    simulated: bool
    interrupted: bool
    refusal: Refusal | None = None


class Measurements:
    """Orders that stand and results that came, in the database."""

    def __init__(
        self, database: Database, inventory: Inventory, keys: KeyFolder, publisher: Publisher
    ) -> None:
        self._database = database
        self._inventory = inventory
        self._keys = keys
        self._publisher = publisher

    def order(self, wish: BenchWish, now: float) -> tuple[BenchOrder, ...]:
        """Ask the selected devices to measure; an order that still stands is replaced.

        Raises:
            ConfigError: A device is unknown, or the times make no sense.
        """
        if not (0 < wish.seconds <= 600 and 0 <= wish.minutes <= 60):
            raise ConfigError("a device measures for up to 600 seconds and 60 minutes")
        if wish.fps is not None and not wish.fps > 0:
            raise ConfigError(f"a frame rate is positive, not {wish.fps}")
        chosen = self._inventory.select(wish.selection)
        return tuple(self._issue(device, wish, now) for device in chosen)

    def publish_standing(self, devices: Iterable[str]) -> None:
        """Bring the retained orders of a broker that may have forgotten them up to date."""
        with self._database.reading() as connection:
            standing = {
                row.device: row.envelope for row in connection.execute(select(bench_orders))
            }
        for device in devices:
            payload = standing.get(device, "").encode()
            self._publisher.publish(bench_topic(device), payload, retain=True)

    def accept(self, device: str, envelope: bytes, now: float) -> BenchReport | BenchRefusal | None:
        """Store an answer that a device signed, and withdraw its order; a bad one is left out."""
        answer = self._opened(device, envelope)
        if answer is None or answer.device != device:
            return None
        sender = self._inventory.select(device)[0]
        view = (
            _refused_view(answer, envelope, now, sender)
            if isinstance(answer, BenchRefusal)
            else _view(answer, envelope, now, public_key=sender.public_key)
        )
        with self._database.writing() as connection:
            upsert(
                connection,
                bench_results,
                {"digest": digest_of(envelope)},
                {
                    "device": device,
                    "version": view.version,
                    "target": view.target,
                    "received_s": now,
                    "envelope": envelope.decode(),
                    "figures": msgspec.to_builtins(view),
                },
            )
            standing = connection.execute(
                select(bench_orders.c.id).where(bench_orders.c.device == device)
            ).scalar()
            if standing == answer.order:
                connection.execute(delete(bench_orders).where(bench_orders.c.device == device))
        if standing is None or standing == answer.order:
            self._publisher.publish(bench_topic(device), b"", retain=True)
        return answer

    def results(self) -> tuple[BenchView, ...]:
        """Return all results by release, target and device, the newest first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                select(bench_results.c.figures).order_by(bench_results.c.received_s.desc())
            ).all()
        views = [msgspec.convert(row.figures, BenchView) for row in rows]
        return tuple(sorted(views, key=lambda one: (one.version, one.target, one.device)))

    def envelope(self, digest: str) -> str:
        """Return a result as the device signed it.

        Raises:
            ConfigError: There is none with this digest.
        """
        with self._database.reading() as connection:
            found = connection.execute(
                select(bench_results.c.envelope).where(bench_results.c.digest == digest)
            ).scalar()
        if found is None:
            raise ConfigError(f"there is no benchmark result {digest}")
        return str(found)

    def _opened(self, device: str, envelope: bytes) -> BenchReport | BenchRefusal | None:
        limit_bytes = BENCH_ENVELOPE_LIMIT_BYTES
        if claimed_type(envelope, limit_bytes=limit_bytes) == BENCH_REFUSAL_TYPE:
            return self._inventory.open_message(device, envelope, BENCH_REFUSAL_TYPE, BenchRefusal)
        return self._inventory.open_message(
            device, envelope, BENCH_TYPE, BenchReport, limit_bytes=limit_bytes
        )

    def _issue(self, device: Device, wish: BenchWish, now: float) -> BenchOrder:
        order = BenchOrder(
            id=secrets.token_hex(8),
            device=device.id,
            issued_s=now,
            seconds=wish.seconds,
            minutes=wish.minutes,
            fps=wish.fps,
        )
        key = self._keys.private_key("targets")
        envelope = sign_envelope(canonical_json(order), BENCH_ORDER_TYPE, key)
        with self._database.writing() as connection:
            upsert(
                connection,
                bench_orders,
                {"device": device.id},
                {"id": order.id, "issued_s": now, "envelope": envelope.decode()},
            )
        self._publisher.publish(bench_topic(device.id), envelope, retain=True)
        return order


def _view(report: BenchReport, envelope: bytes, received_s: float, *, public_key: str) -> BenchView:
    run = max(report.runs, key=lambda one: one.threads, default=None)
    burst = run.burst if run else None
    accuracy = run.accuracy if run else None
    return BenchView(
        digest=digest_of(envelope),
        received_s=received_s,
        version=report.measured.version or "no release",
        manifest=report.measured.manifest,
        target=report.measured.target,
        device=report.device or "",
        public_key=public_key,
        threads=run.threads if run else None,
        p50_ms=burst.latency.at(0.5).value_ms if burst else None,
        p99_ms=burst.latency.at(0.99).value_ms if burst else None,
        throughput_per_s=burst.throughput_per_s if burst else None,
        points=accuracy.measured if accuracy else None,
        passed=accuracy.passed if accuracy else None,
        throttling=report.throttling.verdict.value,
        quiet=report.quiet,
        emulated=report.emulated,
        simulated=report.simulated,
        interrupted=report.interrupted is not None,
    )


def _refused_view(
    answer: BenchRefusal, envelope: bytes, received_s: float, device: Device
) -> BenchView:
    loaded = device.report.loaded if device.report else None
    return BenchView(
        digest=digest_of(envelope),
        received_s=received_s,
        version=loaded.version if loaded else "no release",
        manifest=loaded.manifest if loaded else None,
        target=device.target,
        device=device.id,
        public_key=device.public_key,
        threads=None,
        p50_ms=None,
        p99_ms=None,
        throughput_per_s=None,
        points=None,
        passed=None,
        throttling=ThrottlingVerdict.UNKNOWN.value,
        quiet=False,
        emulated=False,
        simulated=device.simulated,
        interrupted=False,
        refusal=answer.refusal,
    )
