"""Row 10: a state folder restored from an old copy, and one folder on two boxes.

Real manager, real agents, real signed reports. A point ends as ``detected`` where the manager
marks the device or the device refuses, as ``not detected`` where neither can know, and as
``refused`` where somebody plays old reports and the manager believes none of them. The detail
says what happened, and why.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta, timezone
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Final

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import ReleaseError
from asdic.contract.messages import offer_topic, up_topic
from asdic.contract.trust import Offer, parse_offer
from asdic.device.update.storage import Storage
from asdic.device.update.trust import TrustFolder
from asdic.device.update.trusted import DeviceFacts, verify_offer
from tests.faults.oracle import Evidence, forbidden_in
from tests.faults.row import Forbidden, Outcome, Row
from tests.support.afloat import Afloat, afloat
from tests.support.boxes import NOWHERE, Box
from tests.support.harbour import NEW, OLD, Harbour, Stranger, harbour_in, holds
from tests.support.mqtt_proxy import MqttProxy, Muted
from tests.support.yard import JETSON

PATIENCE_S: Final = 30.0
MONTH_OF_REPORTS: Final = 45_000
"""One a minute."""

DETECTED: Final = "detected"
NOT_DETECTED: Final = "not detected"
REFUSED: Final = "refused"


class CloneFaults:
    """Tries one point after the other in one harbour, each with a new box."""

    def __init__(self, harbour: Harbour) -> None:
        self._harbour = harbour
        self._names = count(1)

    def try_point(self, point: str) -> Outcome:
        """Return what came of a point."""
        box = self._harbour.box(f"box-{next(self._names)}")
        end, detail, forbidden = POINTS[point](self, box)
        return Outcome(point=point, end=end, detail=detail, forbidden=forbidden)

    def restored(self, box: Box) -> Found:
        """Restore the folder from before an update, a month of reports ago."""
        old = self._harbour.hex(OLD)
        self._commit(box, OLD)
        backup = back_up(box)
        self._commit(box, NEW)
        box.state.report_number.write_text(str(MONTH_OF_REPORTS))
        with self._afloat(box) as boat:
            self._until_heard(boat)
        restore(backup, box)
        with self._afloat(box) as boat:
            self._until(box, lambda: self._harbour.believes(box.config.device) == old)
            marks = self._conflicts(box)
            unheard = sum(one["number"] <= MONTH_OF_REPORTS for one in boat.link.reports)
            self._push(boat, NEW)
            forbidden = self._forbidden(boat)
        return (
            _marked(marks),
            f"marked at once; heard again after {unheard} reports that were not believed, though "
            f"{MONTH_OF_REPORTS} numbers behind; the next rollout reached it",
            forbidden,
        )

    def restored_unheard(self, box: Box) -> Found:
        """Restore a folder from before reports that the manager never heard."""
        self._commit(box, OLD)
        backup = back_up(box)
        with self._afloat(box, NOWHERE) as boat:
            self._until_spoken(boat)
        restore(backup, box)
        with self._afloat(box) as boat:
            self._until_heard(boat)
            forbidden = self._forbidden(boat)
        return (
            _marked(self._conflicts(box)),
            "its numbers go on where the manager last heard it, so nobody has heard two reports "
            "with one number; what was lost, nobody knew of",
            forbidden,
        )

    def copied(self, box: Box) -> Found:
        """Let two boxes run with one folder: the broker lets one in at a time."""
        self._commit(box, OLD)
        twin = Box(box.state.path.with_name(f"{box.config.device}-twin"))
        shutil.copytree(box.state.path, twin.state.path, symlinks=True, ignore=sockets)
        with self._afloat(box) as boat, self._afloat(twin):
            self._until(box, lambda: self._conflicts(box) >= 3)
            forbidden = self._forbidden(boat)
        return (
            _marked(self._conflicts(box)),
            "marked again with every report that both make; a restored box is marked once",
            forbidden,
        )

    def copied_silent(self, box: Box) -> Found:
        """Copy the folder to a box that never connects."""
        self._commit(box, OLD)
        twin = Box(box.state.path.with_name(f"{box.config.device}-twin"))
        shutil.copytree(box.state.path, twin.state.path, symlinks=True, ignore=sockets)
        with self._afloat(box) as boat, self._afloat(twin, NOWHERE) as other:
            self._until_spoken(other)
            self._until_heard(boat)
            forbidden = self._forbidden(boat)
        return _marked(self._conflicts(box)), "a box that says nothing is not heard", forbidden

    def replayed(self, box: Box) -> Found:
        """Play old reports that the manager had: its belief must not change."""
        with self._afloat(box) as boat:
            self._push(boat, OLD)
            self._push(boat, NEW)
            self._until_heard(boat)
            envelopes = boat.link.envelopes[:-1]
        return self._played(box, envelopes)

    def withheld(self, box: Box) -> Found:
        """Hold reports back, and play them when the manager has heard later ones."""
        muted = Muted(up_topic(box.config.device, "reported"))
        with (
            MqttProxy(self._harbour.broker.address, muted) as proxy,
            self._afloat(box, proxy.address) as boat,
        ):
            self._harbour.push(OLD, box.config.device)
            holds(lambda: boat.program.running is not None and boat.is_at_rest, PATIENCE_S)
            muted.is_muted = False
            proxy.cut()
            self._until(box, lambda: self._number(box) > 0)
        return self._played(box, muted.held)

    def old_offer_heard(self, box: Box) -> Found:
        """Restore the folder, and play an older valid offer."""
        took = self._play_offer(box, is_muted=False)
        self._until(box, lambda: self._conflicts(box) > 0)
        return _marked(self._conflicts(box)), f"{took}; its first report marks it", ()

    def old_offer(self, box: Box) -> Found:
        """The same, and the box's reports are kept from the manager."""
        took = self._play_offer(box, is_muted=True)
        return (
            _marked(self._conflicts(box)),
            f"{took}. Only whoever rules the broker can do so, and only while he keeps the box's "
            "reports from the manager; a counter outside of the folder would stop it",
            (),
        )

    def _play_offer(self, box: Box, *, is_muted: bool) -> str:
        backup = back_up(box)
        self._commit(box, OLD)
        stale = box.state.offer.read_bytes()
        self._commit(box, NEW)
        restore(backup, box)
        device = box.config.device
        muted = Muted(up_topic(device, "reported"))
        muted.is_muted = is_muted
        with (
            MqttProxy(self._harbour.broker.address, muted) as proxy,
            Stranger(self._harbour.broker.address) as stranger,
        ):
            stranger.publish(offer_topic(device), stale, retain=True)
            with self._afloat(box, proxy.address) as boat:
                took = holds(lambda: boat.program.running == self._harbour.hex(OLD), PATIENCE_S)
            stranger.publish(offer_topic(device), b"", retain=True)
        assert took, boat.agent.update.journal
        return (
            f"the floor fell with the folder, so the box took {OLD} again after {NEW}, from an "
            "offer not yet expired"
        )

    def old_offer_floor(self, box: Box) -> Found:
        """Control: the same offer, and the folder was not restored."""
        self._commit(box, OLD)
        stale = parse_offer(box.state.offer.read_bytes())
        self._commit(box, NEW)
        return _judged(refusal(box, stale, timedelta()))

    def old_offer_late(self, box: Box) -> Found:
        """The folder restored, and 31 days later by the device's clock."""
        return _judged(self._after_restore(box, timedelta(days=31)))

    def old_offer_clock(self, box: Box) -> Found:
        """The folder restored, and the device's clock ten years behind."""
        return _judged(self._after_restore(box, timedelta(days=-3650)))

    def _after_restore(self, box: Box, later: timedelta) -> str:
        backup = back_up(box)
        self._commit(box, OLD)
        stale = parse_offer(box.state.offer.read_bytes())
        self._commit(box, NEW)
        restore(backup, box)
        return refusal(box, stale, later)

    def _commit(self, box: Box, version: str) -> None:
        with self._afloat(box) as boat:
            self._push(boat, version)
            assert boat.program.running == self._harbour.hex(version)

    def _push(self, boat: Afloat, version: str) -> None:
        rollout = self._harbour.push(version, boat.box.config.device)
        ended = holds(
            lambda: self._harbour.state(rollout) == "finished" and boat.is_at_rest, PATIENCE_S
        )
        assert ended, f"{version} did not reach the box: {boat.agent.update.journal}"

    def _played(self, box: Box, envelopes: list[bytes]) -> Found:
        """Play reports at the manager, and say whether it believed one or marked the device."""
        device = box.config.device
        before = self._harbour.device(device)
        with Stranger(self._harbour.broker.address) as stranger:
            for envelope in envelopes:
                stranger.publish(up_topic(device, "reported"), envelope)
        wanted = before.refused_messages + len(envelopes)
        self._until(box, lambda: self._harbour.device(device).refused_messages >= wanted)
        after = self._harbour.device(device)
        is_same = (after.report, after.conflicts) == (before.report, before.conflicts)
        return (
            REFUSED if is_same else "believed",
            f"{len(envelopes)} old reports with good signatures; belief and mark unchanged",
            () if is_same else (Forbidden.LIED,),
        )

    def _forbidden(self, boat: Afloat) -> tuple[Forbidden, ...]:
        self._until_spoken(boat)
        return forbidden_in(
            Evidence(
                folder=boat.box.state.path,
                signed=self._harbour.signed,
                running=boat.program.running,
                ran=tuple(boat.program.ran),
                reports=tuple(boat.link.reports),
            )
        )

    def _until_spoken(self, boat: Afloat) -> None:
        """Wait until the box has said what its program runs."""
        assert holds(
            lambda: boat.said is not None and boat.said == boat.program.running, PATIENCE_S
        )

    def _until_heard(self, boat: Afloat) -> None:
        """Wait until it has said so, and the manager has heard it."""
        self._until_spoken(boat)
        self._until(boat.box, lambda: self._number(boat.box) == boat.link.reports[-1]["number"])

    def _afloat(self, box: Box, broker: BrokerAddress | None = None) -> _Boat:
        return afloat(box, broker or self._harbour.broker.address, clock=time.monotonic)

    def _number(self, box: Box) -> int:
        return self._harbour.device(box.config.device).report_number

    def _conflicts(self, box: Box) -> int:
        return self._harbour.device(box.config.device).conflicts

    def _until(self, box: Box, condition: Callable[[], bool]) -> None:
        assert holds(condition, PATIENCE_S), self._harbour.device(box.config.device)


Found = tuple[str, str, tuple[Forbidden, ...]]
_Boat = AbstractContextManager[Afloat]


def back_up(box: Box) -> Path:
    """Return a copy of a box's folder."""
    backup = box.state.path.with_name(f"{box.config.device}-backup")
    shutil.copytree(box.state.path, backup, symlinks=True, ignore=sockets)
    return backup


def restore(backup: Path, box: Box) -> None:
    """Put the copy in the folder's place."""
    shutil.rmtree(box.state.path)
    shutil.copytree(backup, box.state.path, symlinks=True)


def sockets(_folder: str, names: list[str]) -> set[str]:
    """Return what a copy leaves out."""
    return {name for name in names if name.endswith(".sock")}


def refusal(box: Box, offer: Offer, later: timedelta) -> str:
    """Return why a box refuses an offer, ``later`` by its clock, or nothing where it takes it."""
    try:
        verify_offer(
            offer,
            trust=TrustFolder(box.state.trust, Storage()).read(),
            device=DeviceFacts(device=box.config.device, target=JETSON),
            now=datetime.now(timezone.utc) + later,
        )
    except ReleaseError as error:
        return str(error)
    return ""


def _judged(reason: str) -> Found:
    if reason:
        return DETECTED, reason, ()
    return NOT_DETECTED, "the floor fell with the folder, and by its clock the offer is fresh", ()


def _marked(conflicts: int) -> str:
    return DETECTED if conflicts else NOT_DETECTED


POINTS: Final = MappingProxyType[str, Callable[[CloneFaults, Box], Found]](
    {
        "restored": CloneFaults.restored,
        "restored-unheard": CloneFaults.restored_unheard,
        "copied": CloneFaults.copied,
        "copied-silent": CloneFaults.copied_silent,
        "reports-replayed": CloneFaults.replayed,
        "reports-withheld": CloneFaults.withheld,
        "old-offer": CloneFaults.old_offer_heard,
        "old-offer-unheard": CloneFaults.old_offer,
        "old-offer-floor-kept": CloneFaults.old_offer_floor,
        "old-offer-31-days-later": CloneFaults.old_offer_late,
        "old-offer-clock-behind": CloneFaults.old_offer_clock,
    }
)


def points() -> Iterable[str]:
    """Yield the names of all points."""
    return tuple(POINTS)


@contextmanager
def opened(folder: Path) -> Iterator[Callable[[str], Outcome]]:
    """Open a harbour in ``folder`` and yield what tries a point."""
    with harbour_in(folder) as harbour:
        yield CloneFaults(harbour).try_point


ROW: Final = Row(
    name="clones",
    number=10,
    fault="state folder restored from an old copy; one folder on two boxes; old reports and offers",
    points=points,
    open=opened,
    jobs=1,
    sample=4,
)
