"""``asdic status``: who runs what."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asdic.cli.console import print_json, print_table
from asdic.cli.fleet import fleet_option, json_option

if TYPE_CHECKING:
    from asdic.fleet.view import DeviceView


@click.command()
@fleet_option
@json_option
def status(fleet: Path, as_json: bool) -> None:
    """Show what each device runs, by its own last signed report.

    \b
    Examples:
      asdic status
      asdic status --json
    """
    from asdic.fleet.client import FleetClient
    from asdic.fleet.view import Overview

    overview = FleetClient(fleet).get("overview", Overview)
    if as_json:
        print_json(overview)
        return
    print_table(
        f"{len(overview.devices)} devices",
        ("device", "target", "runtime", "runs", "state", "online", "why"),
        (
            (
                one.id,
                one.target + (" (simulated)" if one.simulated else ""),
                one.runtime or "",
                ", ".join(filter(None, (one.release, _firmware(one), one.doubt))),
                one.state,
                "yes" if one.online else "no",
                "; ".join(filter(None, (one.warning, one.refusal))),
            )
            for one in overview.devices
        ),
    )


def _firmware(device: DeviceView) -> str:
    return f"firmware {device.firmware}" if device.firmware else ""
