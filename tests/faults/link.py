"""Row 6: the link. Real broker, real manager, real agent; between them a proxy that cuts.

What stands in for something here: the trial passes what is whole, a thread acknowledges models,
and the update's clock runs five times as fast, so that a lost chunk is missed after one second.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from asdic.contract.messages import CHUNK_BYTES, chunk_topic, offer_topic
from asdic.contract.release import hex_of
from asdic.fleet.director import encode_offer
from asdic.fleet.rollout import Rollout
from tests.faults.oracle import Evidence, forbidden_in
from tests.faults.row import Forbidden, Outcome, Row
from tests.support.afloat import Afloat, afloat
from tests.support.harbour import LIMITS, NEW, NEW_CHUNKS, OLD, Harbour, Stranger, harbour_in, holds
from tests.support.mqtt_proxy import Courier, Cut, Late, MqttProxy, OnChunk, Shuffled, Twice
from tests.support.yard import JETSON

PACKETS: Final = 104
"""A whole transfer takes some 90; ``whole`` ends otherwise where it takes more than these."""

HURRY: Final = 5.0
PATIENCE_S: Final = 60.0
DELAY_S: Final = 2.0
WINDOW_BYTES: Final = LIMITS.window * (CHUNK_BYTES + 200)
"""One window of chunks with their topics."""

MOMENTS: Final = (1, 6, 12)
"""After how many chunks the broker is stopped."""


class LinkFaults:
    """Tries one point after the other in one harbour, each with a new box."""

    def __init__(self, harbour: Harbour) -> None:
        self._harbour = harbour
        self._names = count(1)

    def try_point(self, point: str) -> Outcome:
        """Return what came of a point."""
        word, _, number = point.rpartition("-")
        if word in _COUNTED:
            return _COUNTED[word](self, point, int(number))
        return _NAMED[point](self, point)

    def transfer(self, point: str, courier: Courier, *, hurry: float = HURRY) -> Outcome:
        """Install the new release over a link on which ``courier`` carries the packets."""
        with self._at_sea(courier, hurry) as (boat, proxy):
            self._push(boat, NEW)
            outcome = self._outcome(point, boat, proxy)
            if isinstance(courier, Cut) and proxy.packets <= courier.number:
                return _changed(outcome, cases=0, detail=f"only {proxy.packets} packets")
            return outcome

    def whole(self, point: str) -> Outcome:
        """Install without a fault, and count the packets."""
        with self._at_sea(Courier(), HURRY) as (boat, proxy):
            self._push(boat, NEW)
            outcome = self._outcome(point, boat, proxy)
            end = outcome.end if proxy.packets <= PACKETS else "more packets than points"
            return _changed(outcome, end=end, detail=f"{proxy.packets} packets, {outcome.detail}")

    def stop_broker(self, point: str, chunks: int) -> Outcome:
        """Stop or kill the broker, which forgets everything, in the middle of a transfer."""
        broker = self._harbour.broker
        courier = OnChunk(chunks)
        with self._at_sea(courier, HURRY) as (boat, proxy):
            rollout = self._harbour.push(NEW, boat.box.config.device)
            holds(courier.reached.is_set, PATIENCE_S)
            broker.kill() if "kill" in point else broker.stop()
            broker.start()
            self._wait(boat, rollout)
            return self._outcome(point, boat, proxy)

    def stale_offer(self, point: str) -> Outcome:
        """Let the broker play an older valid offer when a newer one was committed."""
        with self._at_sea(Courier(), HURRY) as (boat, proxy):
            device = boat.box.config.device
            unseen = encode_offer(self._harbour.offer(OLD, device, rollout="stale"))
            self._push(boat, OLD)
            taken = boat.box.state.offer.read_bytes()
            self._push(boat, NEW)
            with Stranger(self._harbour.broker.address) as stranger:
                stale = unseen if point.endswith("unseen") else taken
                stranger.publish(offer_topic(device), stale, retain=True)
                proxy.cut()
                _let_turn(boat)
                holds(lambda: boat.is_at_rest, PATIENCE_S)
                outcome = self._outcome(point, boat, proxy)
                stranger.publish(offer_topic(device), b"", retain=True)
            if boat.program.running != self._harbour.hex(NEW):
                return _changed(outcome, forbidden=(*outcome.forbidden, Forbidden.DOWNGRADED))
            state = boat.agent.update.journal.state
            return _changed(outcome, detail=f"the update is {state.value}, {outcome.detail}")

    def stale_chunks(self, point: str) -> Outcome:
        """Let the broker retain rubbish in the place of every chunk."""
        blob = self._ballast()
        topics = [chunk_topic(hex_of(blob), n) for n in range(NEW_CHUNKS)]
        with Stranger(self._harbour.broker.address) as stranger:
            for topic in topics:
                stranger.publish(topic, bytes(CHUNK_BYTES), retain=True)
            try:
                return self.transfer(point, Courier())
            finally:
                for topic in topics:
                    stranger.publish(topic, b"", retain=True)

    def forged_chunk(self, point: str) -> Outcome:
        """Let a stranger send one chunk of rubbish before the manager sends the true one."""
        topic = chunk_topic(hex_of(self._ballast()), NEW_CHUNKS - 1)
        courier = OnChunk(1)
        with (
            self._at_sea(courier, HURRY) as (boat, proxy),
            Stranger(self._harbour.broker.address) as stranger,
        ):
            rollout = self._harbour.push(NEW, boat.box.config.device)
            holds(courier.reached.is_set, PATIENCE_S)
            stranger.publish(topic, bytes(CHUNK_BYTES))
            self._wait(boat, rollout)
            limit = NEW_CHUNKS * CHUNK_BYTES + WINDOW_BYTES  # a digest is of the whole blob
            return self._outcome(point, boat, proxy, refetch_limit=limit)

    @contextmanager
    def _at_sea(self, courier: Courier, hurry: float) -> Iterator[tuple[Afloat, MqttProxy]]:
        name = f"box-{next(self._names)}"
        with MqttProxy(self._harbour.broker.address, courier) as proxy:
            box = self._harbour.box(name, broker=proxy.address)
            clock = lambda: time.monotonic() * hurry  # noqa: E731
            with afloat(box, proxy.address, clock=clock) as boat:
                yield boat, proxy
            shutil.rmtree(box.state.path)

    def _push(self, boat: Afloat, version: str) -> None:
        self._wait(boat, self._harbour.push(version, boat.box.config.device))

    def _wait(self, boat: Afloat, rollout: Rollout) -> None:
        """Wait until the rollout is over on both sides; what is not by then is the outcome's."""
        harbour = self._harbour
        holds(
            lambda: harbour.state(rollout) in {"finished", "halted"} and boat.is_at_rest,
            PATIENCE_S,
        )

    def _outcome(
        self, point: str, boat: Afloat, proxy: MqttProxy, *, refetch_limit: int = WINDOW_BYTES
    ) -> Outcome:
        """Judge the device, what the manager believes, and what was fetched twice."""
        harbour, running = self._harbour, boat.program.running
        evidence = Evidence(
            folder=boat.box.state.path,
            signed=harbour.signed,
            running=running,
            ran=tuple(boat.program.ran),
            gated=frozenset(boat.gated),
            reports=tuple(boat.link.reports),
        )
        forbidden = set(forbidden_in(evidence))
        if harbour.believes(boat.box.config.device) != running:
            forbidden.add(Forbidden.LIED)
        end = {harbour.hex(NEW): "new", harbour.hex(OLD): "old"}.get(running or "", "none")
        if proxy.refetched_bytes > refetch_limit:
            end = "refetched more than a window"
        return Outcome(
            point=point,
            end=end,
            forbidden=tuple(one for one in Forbidden if one in forbidden),
            detail=f"{proxy.refetched_bytes} bytes of chunks came twice",
        )

    def _ballast(self) -> str:
        layout = self._harbour.yard.layout
        manifest = layout.manifest(layout.release(NEW), JETSON)
        return max(manifest.layers, key=lambda layer: layer.size).digest


def _let_turn(boat: Afloat, turns: int = 20) -> None:
    """Let the agent look around some more, so that it has taken what has arrived."""
    end = boat.turns + turns
    holds(lambda: boat.turns >= end, PATIENCE_S)


def _changed(outcome: Outcome, **fields: object) -> Outcome:
    return msgspec.structs.replace(outcome, **fields)


_Try = Callable[[LinkFaults, str], Outcome]
_Counted = Callable[[LinkFaults, str, int], Outcome]

_COUNTED: Final = MappingProxyType[str, _Counted](
    {
        "cut": lambda faults, point, number: faults.transfer(point, Cut(number)),
        "shuffled": lambda faults, point, seed: faults.transfer(point, Shuffled(seed)),
        "broker-restart": LinkFaults.stop_broker,
        "broker-kill": LinkFaults.stop_broker,
    }
)
"""Kinds of points with a number at the end."""

_NAMED: Final = MappingProxyType[str, _Try](
    {
        "whole": LinkFaults.whole,
        "duplicated": lambda faults, point: faults.transfer(point, Twice()),
        "reversed": lambda faults, point: faults.transfer(point, Shuffled(None)),
        "delayed": lambda faults, point: faults.transfer(point, Late(DELAY_S), hurry=1.0),
        "stale-offer-taken": LinkFaults.stale_offer,
        "stale-offer-unseen": LinkFaults.stale_offer,
        "stale-chunks": LinkFaults.stale_chunks,
        "forged-chunk": LinkFaults.forged_chunk,
    }
)


def points() -> Iterable[str]:
    """Yield every packet of a transfer, then everything else that a link may do."""
    yield from (f"cut-{number:03d}" for number in range(PACKETS))
    yield from _NAMED
    yield from (f"shuffled-{seed}" for seed in range(1, 6))
    yield from (f"{what}-{at}" for what in ("broker-restart", "broker-kill") for at in MOMENTS)


@contextmanager
def opened(folder: Path) -> Iterator[Callable[[str], Outcome]]:
    """Open a harbour in ``folder`` and yield what tries a point."""
    with harbour_in(folder) as harbour:
        yield LinkFaults(harbour).try_point


ROW: Final = Row(
    name="link",
    number=6,
    fault=(
        "link cut in the middle of every MQTT packet of a transfer; chunks doubled, reordered, "
        "late; stale and forged messages; broker stopped and killed"
    ),
    points=points,
    open=opened,
    jobs=1,
    sample=4,
)
