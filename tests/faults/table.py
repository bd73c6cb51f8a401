"""The table of faults: what was tried, what came of it, as text, as JSON and as a page."""

from __future__ import annotations

import datetime
import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table

from tests.faults.row import Forbidden, Outcome, Row

UNEXPECTED_ENDS = frozenset({"refetched more than a window", "more packets than points"})
"""Ends that are no forbidden outcome, and still not what was promised."""


@dataclass(frozen=True)
class Line:
    """A row with what came of it so far."""

    row: Row
    points: int
    outcomes: Sequence[Outcome]
    lacks: str = ""

    @property
    def cases(self) -> int:
        """How many faults were tried."""
        return sum(outcome.cases for outcome in self.outcomes)

    @property
    def runs(self) -> int:
        """How many runs that took, for equal disks are played once."""
        return sum(outcome.runs for outcome in self.outcomes)

    @property
    def forbidden(self) -> Mapping[Forbidden, int]:
        """In how many points each forbidden outcome was seen."""
        return Counter(name for outcome in self.outcomes for name in outcome.forbidden)

    @property
    def ends(self) -> str:
        """How the points ended, with counts."""
        counts = Counter(outcome.end for outcome in self.outcomes)
        return ", ".join(f"{count} {end}" for end, count in counts.most_common())

    @property
    def findings(self) -> list[Outcome]:
        """The points that did not end as promised."""
        return [one for one in self.outcomes if one.forbidden or one.end in UNEXPECTED_ENDS]

    @property
    def tried(self) -> str:
        """Points tried of all, or why none was."""
        return self.lacks or f"{len(self.outcomes)} of {self.points}"


def table_of(lines: Sequence[Line]) -> Table:
    """Return the table for a terminal."""
    table = Table(title="Faults", title_justify="left")
    for name in ("#", "row", "points", "faults", "runs", "ends", *(f.value for f in Forbidden)):
        table.add_column(name, overflow="fold")
    for line in lines:
        number, _, *rest = _cells(line)
        table.add_row(number, line.row.name, *rest)
    return table


def page_of(lines: Sequence[Line], control: Line) -> Iterator[str]:
    """Yield the lines of the table for ``docs/reliability.md``."""
    names = ("#", "fault", "points tried", "faults", "runs", "ends", *(f.value for f in Forbidden))
    yield "| " + " | ".join(names) + " |"
    yield "|---:|---|---:|---:|---:|---|" + "---:|" * len(Forbidden)
    for line in lines:
        yield "| " + " | ".join(_cells(line)) + " |"
    yield ""
    yield from _findings(lines)
    yield from _control(control)
    today = datetime.datetime.now(datetime.UTC).date()
    yield f"`make faults`, {today}, Linux {platform.release()}, {platform.machine()}."


def _cells(line: Line) -> list[str]:
    counts = [str(line.forbidden.get(name, 0)) if line.outcomes else "" for name in Forbidden]
    return [
        str(line.row.number),
        line.row.fault,
        line.tried,
        f"{line.cases:,}",
        f"{line.runs:,}",
        line.ends,
        *counts,
    ]


def _findings(lines: Sequence[Line]) -> Iterator[str]:
    findings = [(line.row, one) for line in lines for one in line.findings]
    if not findings:
        return
    yield "Points that did not end as promised:"
    yield ""
    for row, one in findings:
        names = ", ".join(name.value for name in one.forbidden) or one.end
        yield f"- row {row.number}, {one.point}: {names}. {one.detail}"
    yield ""


def _control(control: Line) -> Iterator[str]:
    if not control.outcomes:
        return
    caught = [one for one in control.outcomes if one.end == "caught"]
    yield "### The control"
    yield ""
    yield (
        f"{len(caught)} of {len(control.outcomes)} mutants were caught ({control.points} in all)."
    )
    yield ""
    by_kind: dict[str, list[Outcome]] = {}
    for one in control.outcomes:
        by_kind.setdefault(one.point.partition(": ")[0], []).append(one)
    for kind, outcomes in by_kind.items():
        count = sum(one.end == "caught" for one in outcomes)
        yield f"- {kind}: {count} of {len(outcomes)}"
    yield ""
    survivors = [one for one in control.outcomes if one.end != "caught"]
    if survivors:
        yield "Survivors:"
        yield ""
        for one in survivors:
            yield f"- {one.point}. {one.detail}"
        yield ""
