"""``asdic-agent status``: what this box runs, and where its update stands."""

from __future__ import annotations

from pathlib import Path

import click

from asdic.cli.console import print_json
from asdic.cli.device import state_folder, state_option


@click.command()
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def status(state: Path, as_json: bool) -> None:
    """Show what this box runs, where its update stands, and its last report.

    \b
    Examples:
      asdic-agent status --state box1
      asdic-agent status --state box1 --json
    """
    from asdic.device.status import read_status

    found = read_status(state_folder(state))
    if as_json:
        print_json(found)
        return
    for name, value in found.lines():
        click.echo(f"{name:<10} {value}")
