"""Try every fault that the device must survive, and print the table: ``make faults``.

    .venv/bin/python -m tests.faults                      # all of it: about an hour on two cores
    .venv/bin/python -m tests.faults --budget 10m         # as much as fits, spread over all rows
    .venv/bin/python -m tests.faults --row flips --row clock
    .venv/bin/python -m tests.faults --page docs/reliability.md

Stopped, by Ctrl-C or its budget, it goes on where it was. The exit code is 1 where something
forbidden was seen.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tests.faults.pool import outcomes_of
from tests.faults.results import Results
from tests.faults.row import Row
from tests.faults.rows import BY_NAME, CONTROL, ROWS
from tests.faults.table import Line, page_of, table_of

WIDTH: Final = 140
UNITS_S: Final = MappingProxyType({"s": 1, "m": 60, "h": 3600})
PAGE_BEGINS: Final = "<!-- make faults writes from here -->"
PAGE_ENDS: Final = "<!-- to here -->"


def seconds_of(text: str) -> float:
    """Return what ``90s``, ``10m`` or ``1h`` is in seconds.

    Raises:
        click.BadParameter: It is nothing like that.
    """
    found = re.fullmatch(r"(\d+)([smh])", text)
    if found is None:
        raise click.BadParameter(f"{text!r} is no time; write 90s, 10m or 1h")
    return int(found[1]) * UNITS_S[found[2]]


@click.command()
@click.option("--budget", help="Stop after this time, as 90s, 10m or 1h; the next call goes on.")
@click.option("--row", "names", multiple=True, type=click.Choice(list(BY_NAME)), help="Only this.")
@click.option("--jobs", type=click.IntRange(1), default=2, show_default=True, help="Processes.")
@click.option("--page", type=click.Path(path_type=Path, dir_okay=False), help="Write it there too.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option("--results", type=click.Path(path_type=Path), default=".faults", show_default=True)
def main(
    budget: str | None,
    names: Sequence[str],
    jobs: int,
    page: Path | None,
    as_json: bool,
    results: Path,
) -> None:
    """Try every fault that the device must survive, and print what came of it."""
    rows = [row for row in (*ROWS, CONTROL) if not names or row.name in names]
    kept = Results(results)
    until = time.monotonic() + seconds_of(budget) if budget else float("inf")
    lines = {row.name: _line(row, kept) for row in rows}
    _try_all([line for line in lines.values() if not line.lacks], kept, jobs=jobs, until=until)
    lines = {row.name: _line(row, kept) for row in rows}
    _show(list(lines.values()), as_json=as_json)
    if page is not None:
        _write_page(page, lines)
    sys.exit(any(line.findings for line in lines.values()))


def _line(row: Row, results: Results) -> Line:
    lacks = row.lacks()
    points = [] if lacks else list(row.points())
    known = results.of(row.name)
    return Line(row, len(points), [known[one] for one in points if one in known], lacks)


def _try_all(lines: Sequence[Line], results: Results, *, jobs: int, until: float) -> None:
    """Try what is not known yet; where time is short, each row gets its share."""
    with Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as progress:
        for number, line in enumerate(lines):
            share = (until - time.monotonic()) / (len(lines) - number)
            task = progress.add_task(line.row.name, total=line.points, completed=len(line.outcomes))
            known = results.of(line.row.name)
            points = [one for one in line.row.points() if one not in known]
            for outcome in outcomes_of(line.row, points, jobs=jobs, seconds=share):
                results.add(line.row.name, outcome)
                progress.advance(task)


def _show(lines: Sequence[Line], *, as_json: bool) -> None:
    if as_json:
        facts = {
            line.row.name: {"points": line.points, "lacks": line.lacks, "outcomes": line.outcomes}
            for line in lines
        }
        click.echo(msgspec.json.format(msgspec.json.encode(facts)).decode())
        return
    console = Console()
    console.width = max(console.width, WIDTH)
    console.print(table_of(lines))
    for line in lines:
        for one in line.findings:
            names = ", ".join(name.value for name in one.forbidden) or one.end
            console.print(f"row {line.row.number}, {one.point}: {names}: {one.detail}")


def _write_page(page: Path, lines: dict[str, Line]) -> None:
    """Put the table between the page's two marks."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(PAGE_BEGINS)
    _, _, after = rest.partition(PAGE_ENDS)
    faults = [line for name, line in lines.items() if name != CONTROL.name]
    empty = Line(CONTROL, 0, ())
    table = "\n".join(page_of(faults, lines.get(CONTROL.name, empty)))
    page.write_text(f"{before}{PAGE_BEGINS}\n\n{table}\n\n{PAGE_ENDS}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
