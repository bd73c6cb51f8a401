"""Benchmarks that the manager orders: checked, run by a child when the box has time, answered.

An order waits while an exam or an update is in progress, and a running benchmark gives way to
either and is begun anew later. The answer, a result or a refusal, is kept until the manager
withdraws the order. Like the agent, this module imports nothing heavy; the child is
``asdic-agent bench``.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from asdic.contract.bench import (
    BENCH_ENVELOPE_LIMIT_BYTES,
    BENCH_ORDER_TYPE,
    BENCH_REFUSAL_TYPE,
    BenchOrder,
    BenchRefusal,
)
from asdic.contract.errors import AsdicError, ReleaseError
from asdic.contract.files import canonical_json, parse_json, read_bounded
from asdic.contract.messages import Refusal
from asdic.contract.trust import ENVELOPE_LIMIT_BYTES, open_envelope, sign_envelope
from asdic.device.config import StateFolder
from asdic.device.identity import read_key
from asdic.device.update.storage import Storage
from asdic.device.update.trust import ROOT_HISTORY, RepositoryTrust, TrustFolder

SECONDS_LIMIT: Final = 600.0
MINUTES_LIMIT: Final = 60.0

log = logging.getLogger("asdic.bench")


class _Floor(msgspec.Struct, frozen=True, kw_only=True):
    """The content of ``floor.json``."""

    issued_s: float = 0.0


class BenchOrders:
    """The order in hand, if any, and the child that works on it.

    Args:
        state: The device's state folder.
        device: Its id; another one's order is refused.
        storage: The door to the disk.
        send: Sends a signed answer to the manager; it may get lost.

    Attributes:
        child: The process that measures now, if any.
    """

    def __init__(
        self,
        state: StateFolder,
        device: str,
        *,
        storage: Storage,
        send: Callable[[bytes], None],
    ) -> None:
        self._state = state
        self._device = device
        self._storage = storage
        self._send = send
        self._trust = TrustFolder(state.trust, storage)
        self.child: subprocess.Popen[bytes] | None = None
        self._order = ""
        self._is_sent = False

    def take(self, data: bytes) -> None:
        """Take an order that arrived, or its withdrawal; a wrong or an old one is left out."""
        if not data:
            self._drop()
            return
        try:
            order = check_order(data, device=self._device, trust=self._trust.read().director)
        except AsdicError as error:
            log.warning("a benchmark order was refused: %s", error)
            return
        if order.issued_s <= self._floor():
            self.send_again()
            return
        self._drop()
        self._storage.make_folder(self._state.bench_order.parent)
        self._storage.write(
            self._state.bench_floor, canonical_json(_Floor(issued_s=order.issued_s))
        )
        self._storage.write(self._state.bench_order, canonical_json(order))
        log.info("benchmark %s was ordered", order.id)

    def tick(self, *, may_run: bool) -> None:
        """Start, stop or finish what is due; ``may_run`` says that the box has time."""
        if self.child is not None:
            self._watch(may_run=may_run)
        elif self._state.bench_result.exists():
            if not self._is_sent:
                self.send_again()
        elif may_run and self._state.bench_order.exists():
            self._start()

    def send_again(self) -> None:
        """Send the answer, if there is one: after a new connection, or when asked once more."""
        if self._state.bench_result.exists():
            self._send(read_bounded(self._state.bench_result, BENCH_ENVELOPE_LIMIT_BYTES))
            self._is_sent = True

    def stop(self) -> None:
        """End the child; what it measured is lost and will be measured again."""
        child, self.child = self.child, None
        if child is not None:
            child.kill()
            child.wait()

    def _start(self) -> None:
        order = parse_json(
            read_bounded(self._state.bench_order, ENVELOPE_LIMIT_BYTES),
            BenchOrder,
            what=str(self._state.bench_order),
        )
        if not (0 < order.seconds <= SECONDS_LIMIT and 0 <= order.minutes <= MINUTES_LIMIT):
            self._refuse(
                order.id,
                Refusal(
                    code="too-long", message="the order asks for more time than a device gives"
                ),
            )
            return
        self._order = order.id
        self.child = subprocess.Popen(
            [
                *(sys.executable, "-m", "asdic.cli.agent", "bench"),
                *("--state", str(self._state.path), "--order", order.id),
                *("--parent", str(os.getpid()), "--json", str(self._state.bench_result)),
                *("--seconds", str(order.seconds), "--minutes", str(order.minutes)),
                *(("--fps", str(order.fps)) if order.fps is not None else ()),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def _watch(self, *, may_run: bool) -> None:
        child = self.child
        if child is None:
            return
        status = child.poll()
        if status is None and not may_run:
            log.info("the benchmark gives way and will be begun anew")
            self.stop()
        elif status is not None:
            self.child = None
            if not self._state.bench_result.exists():
                message = f"the benchmark ended with code {status} and said nothing"
                self._refuse(self._order, Refusal(code="crash", message=message))

    def _refuse(self, order: str, refusal: Refusal) -> None:
        log.warning("benchmark %s is refused: %s", order, refusal.message)
        self._storage.write(
            self._state.bench_result, sign_refusal(self._state, self._device, order, refusal)
        )

    def _drop(self) -> None:
        self.stop()
        self._is_sent = False
        self._storage.remove(self._state.bench_order)
        self._storage.remove(self._state.bench_result)

    def _floor(self) -> float:
        path = self._state.bench_floor
        if not path.exists():
            return 0.0
        return parse_json(read_bounded(path, 4096), _Floor, what=str(path)).issued_s


def sign_refusal(state: StateFolder, device: str, order: str, refusal: Refusal) -> bytes:
    """Return the answer to an order that cannot be run, signed by the device's key.

    Raises:
        ConfigError: The key cannot be read.
    """
    answer = BenchRefusal(device=device, order=order, refused_s=time.time(), refusal=refusal)
    return sign_envelope(canonical_json(answer), BENCH_REFUSAL_TYPE, read_key(state))


def check_order(data: bytes, *, device: str, trust: RepositoryTrust) -> BenchOrder:
    """Return the order in ``data``, once the director's targets key vouches for it.

    Raises:
        ReleaseError: It is signed by no such key, or for another device.
    """
    payload = opened_by_director(data, BENCH_ORDER_TYPE, trust)
    order = parse_json(payload, BenchOrder, what="the benchmark order")
    if order.device != device:
        raise ReleaseError(f"the order is for {order.device}")
    return order


def opened_by_director(data: bytes, payload_type: str, trust: RepositoryTrust) -> bytes:
    """Return what the director's targets key signed.

    Raises:
        ReleaseError: No such key did.
    """
    for key in director_keys(trust):
        with suppress(ReleaseError):
            return open_envelope(data, payload_type, key)
    raise ReleaseError("the order is not signed by this fleet's director")


def director_keys(trust: RepositoryTrust) -> tuple[str, ...]:
    """Return the public targets keys (hex) of the newest director root that was verified.

    Only roots that enrolment brought or python-tuf accepted are in ``trust``; so their content
    is read here without python-tuf, which the agent loads for offers alone.
    """
    roots = {name: text for name, text in trust.files.items() if name.startswith(ROOT_HISTORY)}
    texts = [json.loads(text)["signed"] for text in (trust.bootstrap, *roots.values())]
    newest: dict[str, Any] = max(texts, key=lambda root: int(root["version"]))
    return tuple(
        newest["keys"][name]["keyval"]["public"]
        for name in newest["roles"]["targets"]["keyids"]
        if newest["keys"][name]["keytype"] == "ed25519"
    )
