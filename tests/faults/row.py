"""What a row of the table of faults is: points to try, and what came of each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import msgspec


class Forbidden(str, Enum):
    """What must never happen; the oracle counts each."""

    BRICK = "BRICK"
    MIXED = "MIXED"
    UNVERIFIED_RAN = "UNVERIFIED_RAN"
    DOWNGRADED = "DOWNGRADED"
    STUCK = "STUCK"
    LIED = "LIED"
    LEAK = "LEAK"


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one point.

    ``end`` is a word for the table's count of ends: ``old``, ``new``, or whatever else a row has
    to say (``detected``). ``runs`` is how many runs of the device's code the point took,
    ``cases`` how many distinct faults it stands for.
    """

    point: str
    end: str
    forbidden: tuple[Forbidden, ...] = ()
    detail: str = ""
    runs: int = 1
    cases: int = 1


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table.

    Args:
        name: A short word, for ``--row`` and the file of results.
        number: The row's number in the table.
        fault: What is done to the device, in the table's words.
        points: All points in a stable order; a name says enough to repeat it.
        open: Sets up in an empty folder what all points share, and yields what tries one.
        sample: How many points, spread evenly, ``make test`` tries.
        jobs: How many processes may try its points beside each other.
        lacks: Says what is missing to run this row here, or nothing.
    """

    name: str
    number: int
    fault: str
    points: Callable[[], Iterable[str]]
    open: Callable[[Path], AbstractContextManager[Callable[[str], Outcome]]]
    sample: int
    jobs: int = 16
    lacks: Callable[[], str] = lambda: ""


def sample_of(row: Row) -> list[str]:
    """Return as many points as a row's sample has, spread evenly over all of them."""
    points = list(row.points())
    return [points[(2 * nth + 1) * len(points) // (2 * row.sample)] for nth in range(row.sample)]
