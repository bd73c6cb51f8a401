"""What the verbs that talk to a running server share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from asdic.cli.console import print_json, print_table
from asdic.contract.errors import AsdicError, MissingPackageError

if TYPE_CHECKING:
    from asdic.fleet.client import FleetClient
    from asdic.fleet.view import RolloutView

_F = TypeVar("_F", bound=Callable[..., Any])


class RolloutFailedError(AsdicError):
    """The rollout that a person waited for did not finish."""


def fleet_option(command: _F) -> _F:
    """Add ``--fleet``, which names the server's state folder."""
    return click.option(
        "--fleet",
        type=click.Path(path_type=Path),
        default=Path("fleet"),
        envvar="ASDIC_FLEET",
        show_default=True,
        show_envvar=True,
        help="State folder of the running server.",
    )(command)


def json_option(command: _F) -> _F:
    """Add ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def conclude(client: FleetClient, rollout: RolloutView, *, wait: bool, as_json: bool) -> None:
    """Show a rollout that has just begun; with ``wait``, follow it to its end.

    Raises:
        RolloutFailedError: It was waited for and did not finish.
    """
    if wait:
        rollout = follow(client, rollout, quiet=as_json)
    if as_json:
        print_json(rollout)
    else:
        print_rollout(rollout)
    if wait and rollout.state != "finished":
        raise RolloutFailedError(f"rollout {rollout.id} is {rollout.state}: {rollout.reason}")


def follow(client: FleetClient, rollout: RolloutView, *, quiet: bool) -> RolloutView:
    """Follow a rollout to its end with a progress bar on stderr."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    except ImportError as error:
        raise MissingPackageError("rich", "fleet") from error
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        task = progress.add_task(f"release {rollout.release}", total=len(rollout.devices), note="")

        def show(now: RolloutView) -> None:
            stage = sum(one.state == "passed" for one in now.stages) + 1
            note = f"stage {min(stage, len(now.stages))}/{len(now.stages)}, {now.state}"
            progress.update(task, completed=now.committed, note=note)

        return client.follow(rollout, show)


def print_rollout(rollout: RolloutView) -> None:
    """Print a rollout's figures and devices."""
    reason = f" ({rollout.reason})" if rollout.reason else ""
    click.echo(f"{rollout.id}: release {rollout.release} is {rollout.state}{reason}")
    click.echo(
        f"{rollout.committed} committed, {rollout.failed} failed, "
        f"{rollout.updating + rollout.offered} under way, {rollout.withdrawn} withdrawn, "
        f"{rollout.never_offered} never offered, {rollout.unsupported} without a variant"
    )
    for device in rollout.unsupported_devices:
        click.echo(f"no variant for {device}")
    print_table(
        "Devices",
        ("device", "stage", "state", "why"),
        (
            (
                device.id,
                f"{device.stage} of {len(rollout.stages)}",
                device.state,
                "{code}: {message}".format_map(device.refusal) if device.refusal else "",
            )
            for device in rollout.devices
        ),
    )
