"""``asdic push``: a release goes to devices, in stages."""

from __future__ import annotations

from pathlib import Path

import click

from asdic.cli.fleet import conclude, fleet_option, json_option


@click.command()
@click.argument("version")
@click.option(
    "--to",
    "selection",
    default="all",
    show_default=True,
    help="all, device ids, or tag:key=value; comma-separated.",
)
@click.option(
    "--canary", type=click.IntRange(min=1), metavar="N", help="First N devices, then all."
)
@click.option("--stages", metavar="STEPS", help="How far each stage reaches, like 1,50%,100%.")
@click.option(
    "--soak",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Seconds to watch a stage after its last device committed.",
)
@click.option(
    "--deadline",
    type=click.FloatRange(min=1),
    default=86400.0,
    show_default=True,
    help="Seconds that a stage may take before the rollout pauses.",
)
@click.option(
    "--failure-limit",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Failed devices that halt the rollout.",
)
@click.option("--wait", is_flag=True, help="Follow the rollout; exit code 1 unless it finishes.")
@fleet_option
@json_option
def push(
    *,
    version: str,
    selection: str,
    canary: int | None,
    stages: str | None,
    soak: float,
    deadline: float,
    failure_limit: int,
    wait: bool,
    fleet: Path,
    as_json: bool,
) -> None:
    """Push the signed release VERSION to devices.

    A newer push supersedes one that is still open for the same devices. Only a device's own
    signed report counts as success.

    \b
    Examples:
      asdic push 1.0.0 --to all
      asdic push 1.1.0 --to all --canary 1 --wait
      asdic push 1.1.0 --to tag:site=north --stages 1,10%,100% --soak 3600
    """
    from asdic.fleet.client import FleetClient
    from asdic.fleet.view import RolloutView

    if canary is not None and stages is not None:
        raise click.UsageError("use --canary or --stages, not both")
    client = FleetClient(fleet)
    wish = {
        "version": version,
        "selection": selection,
        "stages": stages or (f"{canary},100%" if canary else "100%"),
        "policy": {"soak_s": soak, "deadline_s": deadline, "failure_limit": failure_limit},
    }
    conclude(client, client.post("rollouts", wish, RolloutView), wait=wait, as_json=as_json)
