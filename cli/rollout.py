"""``asdic rollout``: look at a rollout, pause it, go on, or end it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asdic.cli.console import print_json, print_table
from asdic.cli.fleet import fleet_option, json_option, print_rollout
from asdic.contract.errors import ConfigError

if TYPE_CHECKING:
    from asdic.fleet.client import FleetClient


@click.group()
def rollout() -> None:
    """Look at rollouts and steer them.

    Without an ID, the newest rollout is meant.

    \b
    Examples:
      asdic rollout list
      asdic rollout show
      asdic rollout pause 1.1.0-3fa9c1d2
    """


@rollout.command("list")
@fleet_option
@json_option
def list_(fleet: Path, as_json: bool) -> None:
    """List all rollouts, the newest first."""
    from asdic.fleet.client import FleetClient
    from asdic.fleet.view import RolloutView

    rollouts = FleetClient(fleet).get("rollouts", list[RolloutView])
    if as_json:
        print_json(rollouts)
        return
    print_table(
        "Rollouts",
        ("id", "release", "state", "committed", "failed", "never offered", "reason"),
        (
            (
                one.id,
                one.release,
                one.state,
                f"{one.committed} of {len(one.devices)}",
                one.failed,
                one.never_offered,
                one.reason,
            )
            for one in rollouts
        ),
    )


@rollout.command()
@click.argument("rollout_id", metavar="[ID]", required=False)
@fleet_option
@json_option
def show(rollout_id: str | None, fleet: Path, as_json: bool) -> None:
    """Show a rollout with its devices and what happened."""
    from asdic.fleet.client import FleetClient
    from asdic.fleet.view import RolloutView, describe_event

    client = FleetClient(fleet)
    view = client.get(f"rollouts/{_id(client, rollout_id)}", RolloutView)
    if as_json:
        print_json(view)
        return
    print_rollout(view)
    for event in view.events:
        click.echo(f"{datetime.fromtimestamp(event.time_s):%H:%M:%S}  {describe_event(event)}")


def _steering(action: str, text: str) -> click.Command:
    @click.argument("rollout_id", metavar="[ID]", required=False)
    @fleet_option
    @json_option
    def steer(rollout_id: str | None, fleet: Path, as_json: bool) -> None:
        from asdic.fleet.client import FleetClient
        from asdic.fleet.view import RolloutView

        client = FleetClient(fleet)
        view = client.post(f"rollouts/{_id(client, rollout_id)}/{action}", {}, RolloutView)
        if as_json:
            print_json(view)
        else:
            print_rollout(view)

    return click.command(action, help=text)(steer)


_STEERING: tuple[tuple[str, str], ...] = (
    ("pause", "Make no new offers until it is resumed."),
    ("resume", "Go on; a stage that was inconclusive gets its time again."),
    ("abort", "End it; devices that have not begun never will."),
)
for _action, _text in _STEERING:
    rollout.add_command(_steering(_action, _text))


def _id(client: FleetClient, given: str | None) -> str:
    if given:
        return given
    rollouts: list[dict[str, Any]] = client.get("rollouts", list[dict[str, Any]])
    if not rollouts:
        raise ConfigError("there is no rollout yet; start one with `asdic push`")
    return str(rollouts[0]["id"])
