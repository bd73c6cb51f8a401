"""The verb ``asdic report``: what quantization did to a model, or did differently the next time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from asdic.cli.console import print_json, print_table

if TYPE_CHECKING:
    from asdic.quantization.difference import Difference
    from asdic.quantization.report import QuantizationReport


LAYERS_SHOWN: Final = 20
SHOWN_DB: Final = 0.5


@click.command()
@click.argument("a", type=click.Path(path_type=Path, exists=True))
@click.argument("b", type=click.Path(path_type=Path, exists=True), required=False)
@click.option(
    "--html",
    "html_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a page with plots and pictures that opens without a network.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report, or the differences.")
def report(*, a: Path, b: Path | None, html_path: Path | None, as_json: bool) -> None:
    """Show the report A of a quantization, or compare report B with report A.

    A and B are a variant's folder, its report.json, or the folder that `asdic quantize` wrote
    its variants into.

    \b
    Examples:
      asdic report variants/
      asdic report variants/x86-openvino-int8 --html openvino.html
      asdic report before/ after/
      asdic report before/x86-litert-int8 after/x86-litert-int8 --json
    """
    if b is None:
        _one(a, html_path, as_json=as_json)
    elif html_path is not None:
        raise click.UsageError("--html is for a report alone; leave B away")
    else:
        _two(a, b, as_json=as_json)


def _one(path: Path, html_path: Path | None, *, as_json: bool) -> None:
    from asdic.quantization.report import read_report, report_folders

    folders = report_folders(path)
    reports = [read_report(folder) for folder in folders]
    if html_path is not None:
        write_page(html_path, folders)
    if as_json:
        print_json(reports if len(reports) > 1 else reports[0])
    else:
        show(reports)


def _two(a: Path, b: Path, *, as_json: bool) -> None:
    from asdic.quantization.difference import difference
    from asdic.quantization.report import read_report, report_pairs

    found = [
        difference(read_report(before), read_report(after)) for before, after in report_pairs(a, b)
    ]
    if as_json:
        print_json(found if len(found) > 1 else found[0])
        return
    for one in found:
        _show_difference(one)


def write_page(path: Path, folders: Sequence[Path]) -> None:
    """Write the reports in ``folders`` as one HTML page."""
    from asdic.contract.files import write_file
    from asdic.quantization.page import page, read_exhibit

    write_file(path, page([read_exhibit(folder) for folder in folders]).encode())


def show(reports: Sequence[QuantizationReport]) -> None:
    """Print reports for a person: the verdicts, the tables, and what else is to be known."""
    from asdic.quantization import text

    ordered = sorted(reports, key=text.urgency)
    for one in ordered:
        is_good = one.verdict.value == "pass" and one.slower is None
        click.secho(text.headline(one), fg=None if is_good else "yellow", bold=not is_good)
    print_table(text.title(ordered), text.ACCURACY, map(text.accuracy_row, ordered))
    print_table("size and speed", text.COST, map(text.cost_row, ordered))
    for line in text.remarks(ordered):
        click.echo(line)


def _show_difference(found: Difference) -> None:
    from asdic.quantization.difference import describe, describe_layer

    click.echo(f"A  {found.before}\nB  {found.after}")
    if found.conditions:
        rows = [(one.what, one.before, one.after) for one in found.conditions]
        print_table("what went in", ("", "A", "B"), rows)
    print_table("what came out", ("", "A", "B", "change"), map(describe, found.figures))
    changed = [one for one in found.layers if one.change is None or abs(one.change) >= SHOWN_DB]
    if changed:
        shown = map(describe_layer, changed[:LAYERS_SHOWN])
        print_table("layers, the worst change first", ("", "A", "B", "SQNR"), shown)
