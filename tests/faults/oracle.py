"""A judge of one device, from its files and its program. It shares no code with the store.

It reads a state folder with ``pathlib`` and ``json`` alone, hashes with ``hashlib``, and knows
from the yard, not from the device, what was signed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.row import Forbidden

POINTERS = ("current", "previous", "candidate")
ENDED = frozenset({"idle", "committed", "failed", "rejected"})


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A release as the yard signed it: its files' sha256 by name, and whether the gate may pass it.

    ``size_bytes`` is what all its blobs take, ``firmware`` the sha256 of the image that has to run
    beside it, where that matters.
    """

    version: str
    security_counter: int
    files: Mapping[str, str]
    size_bytes: int = 0
    is_good: bool = True
    firmware: str = ""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What is left of a device after a fault, when it had time to come to rest.

    Args:
        folder: Its state folder.
        signed: All releases of the yard, by the hex digits of their manifest's digest.
        running: The manifest (hex) that the program really has loaded, or None.
        ran: The manifests of all inferences made on the way, in order.
        gated: The manifests of which a trial ended well.
        most_bytes: How much the store has held at most.
        has_lost_it: Whether it was found with less than what it had said that it has committed.
        reports: What the device said, oldest first, as decoded JSON.
        firmware: The images (sha256) that the microcontroller runs now, and will run after its
            next resets; None where there is none.
        booted: All images that ran on it.
    """

    folder: Path
    signed: Mapping[str, Signed]
    running: str | None
    ran: Sequence[str] = ()
    gated: Set[str] | None = None
    has_lost_it: bool = False
    most_bytes: int = 0
    reports: Sequence[Mapping[str, Any]] = ()
    firmware: Set[str] | None = None
    booted: Set[str] = frozenset()


def forbidden_in(evidence: Evidence) -> tuple[Forbidden, ...]:
    """Return what must not have happened and did."""
    checks = {
        Forbidden.BRICK: _is_brick,
        Forbidden.MIXED: _is_mixed,
        Forbidden.UNVERIFIED_RAN: _ran_unverified,
        Forbidden.DOWNGRADED: _is_downgraded,
        Forbidden.STUCK: _is_stuck,
        Forbidden.LIED: _has_lied,
        Forbidden.LEAK: _leaks,
    }
    return tuple(name for name, holds in checks.items() if holds(evidence))


def intact(folder: Path, signed: Mapping[str, Signed]) -> frozenset[str]:
    """Return the signed releases that lie whole in a state folder, by their manifest (hex)."""
    return frozenset(
        name for name in _names(folder / "releases") if _is_whole(folder, name, signed)
    )


def pointer(folder: Path, name: str) -> str | None:
    """Return the manifest (hex) that a pointer names."""
    path = folder / name
    return path.readlink().name if path.is_symlink() else None


def _is_brick(evidence: Evidence) -> bool:
    """Nothing runs, though a good release that it had been told to run lies whole on the disk."""
    named = {pointer(evidence.folder, name) for name in ("current", "previous")}
    good = {
        name
        for name in intact(evidence.folder, evidence.signed) & named
        if evidence.signed[name].is_good
    }
    return evidence.running is None and bool(good)


def _is_mixed(evidence: Evidence) -> bool:
    """What runs is not, byte for byte, one signed release with its own firmware beside it."""
    running = evidence.running
    if running is None:
        return False
    return not _is_whole(evidence.folder, running, evidence.signed) or _is_mixed_pair(evidence)


def _is_mixed_pair(evidence: Evidence) -> bool:
    signed = evidence.signed.get(evidence.running or "")
    if evidence.firmware is None or signed is None or not signed.firmware:
        return False
    return evidence.firmware != {signed.firmware}


def _ran_unverified(evidence: Evidence) -> bool:
    """Something inferred that nobody signed, or that the gate had not passed."""
    good = {name for name, signed in evidence.signed.items() if signed.is_good}
    if evidence.gated is not None:
        good &= evidence.gated
    images = {signed.firmware for signed in evidence.signed.values()}
    return not good.issuperset(evidence.ran) or not images.issuperset(evidence.booted)


def _is_downgraded(evidence: Evidence) -> bool:
    """What runs, or may be gone back to, has a lower security counter than what was committed."""
    committed = {
        report["manifest"].removeprefix("sha256:")
        for report in evidence.reports
        if report["state"] == "committed" and report["manifest"]
    }
    counters = [evidence.signed[name].security_counter for name in committed & set(evidence.signed)]
    ways = {evidence.running, pointer(evidence.folder, "previous")} & set(evidence.signed)
    return any(evidence.signed[name].security_counter < max(counters, default=0) for name in ways)


def _is_stuck(evidence: Evidence) -> bool:
    """The update has not ended, or ended where no later offer can be taken."""
    try:
        line = (evidence.folder / "journal.json").read_bytes().partition(b"\n")[0]
        state = json.loads(line)["state"]
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return state not in ENDED


def _has_lied(evidence: Evidence) -> bool:
    """It said committed and lost it, used a number twice, or names another model than what runs."""
    if evidence.has_lost_it:
        return True
    said = Counter(report["number"] for report in {_key(r): r for r in evidence.reports}.values())
    if any(count > 1 for count in said.values()):
        return True
    if not evidence.reports:
        return False
    loaded = evidence.reports[-1]["loaded"]
    claimed = loaded["manifest"].removeprefix("sha256:") if loaded else None
    signed = evidence.signed.get(claimed or "")
    is_misnamed = signed is not None and loaded["version"] != signed.version
    return claimed != evidence.running or is_misnamed


def _leaks(evidence: Evidence) -> bool:
    """Something lies on the disk that no pointer needs, or there was more than may ever be."""
    folder = evidence.folder
    named = {name for name in (pointer(folder, one) for one in POINTERS) if name is not None}
    blobs = set(named)
    for name in named & set(evidence.signed):
        blobs |= set(evidence.signed[name].files.values())
    return bool(
        set(_names(folder / "releases")) - named
        or set(_names(folder / "gated")) - named
        or set(_names(folder / "store" / "blobs")) - blobs
        or _names(folder / "store" / "partial")
        or list(_leftovers(folder))
        or evidence.most_bytes > _most_bytes(evidence.signed)
    )


def _most_bytes(signed: Mapping[str, Signed]) -> int:
    """Return what two releases and one download take, with room for documents and bitmaps."""
    sizes = sorted(release.size_bytes for release in signed.values())
    return sum(sizes[-3:]) + (64 << 10)


def _leftovers(folder: Path) -> Iterator[str]:
    """Yield the temporary files of an atomic write that nobody finished."""
    for place, folders, files in os.walk(folder):
        names = (name for name in (*folders, *files) if name[0] == "." and name != ".boot")
        yield from (f"{place}/{name}" for name in names)


def _is_whole(folder: Path, name: str, signed: Mapping[str, Signed]) -> bool:
    if name not in signed:
        return False
    place = folder / "releases" / name
    found = {one: _sha256(place / one) for one in _names(place)}
    return found == dict(signed[name].files)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _key(report: Mapping[str, Any]) -> str:
    return json.dumps(report, sort_keys=True)
