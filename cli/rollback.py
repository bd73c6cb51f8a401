"""``asdic rollback``: the fleet goes back to a release that worked."""

from __future__ import annotations

from pathlib import Path

import click

from asdic.cli.fleet import conclude, fleet_option, json_option


@click.command()
@click.option(
    "--to", "version", help="The release to go back to.  [default: the one that finished before]"
)
@click.option("--wait", is_flag=True, help="Follow the rollback; exit code 1 unless it finishes.")
@fleet_option
@json_option
def rollback(version: str | None, wait: bool, fleet: Path, as_json: bool) -> None:
    """Bring the devices of the newest rollout back to an earlier release, all at once.

    A failed device does not stop the others. A rollout that reached nobody is not counted: after
    a halted canary, going back means the release before the one that the fleet runs.

    \b
    Examples:
      asdic rollback
      asdic rollback --to 1.0.0 --wait
    """
    from asdic.fleet.client import FleetClient
    from asdic.fleet.view import RolloutView

    client = FleetClient(fleet)
    started = client.post("rollback", {"version": version}, RolloutView)
    conclude(client, started, wait=wait, as_json=as_json)
