"""``asdic token``: a claim that lets one device join."""

from __future__ import annotations

from pathlib import Path

import click

from asdic.cli.console import print_json
from asdic.cli.fleet import fleet_option, json_option


@click.command()
@fleet_option
@json_option
def token(fleet: Path, as_json: bool) -> None:
    """Print a one-time claim for `asdic-agent enrol`.

    \b
    Examples:
      asdic token
      asdic-agent enrol --server http://127.0.0.1:8470 --token "$(asdic token)" ...
    """
    from asdic.fleet.client import FleetClient

    claim = FleetClient(fleet).post("tokens", {}, dict[str, str])
    if as_json:
        print_json(claim)
    else:
        click.echo(claim["token"])
