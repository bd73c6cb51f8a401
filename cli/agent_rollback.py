"""``asdic-agent rollback``: go back to the release before, because a person at the box says so."""

from __future__ import annotations

from pathlib import Path

import click

from asdic.cli.console import print_json
from asdic.cli.device import (
    log_to_stderr,
    runner_options,
    state_folder,
    state_option,
    stop_on_signals,
    supervisor_for,
)


@click.command()
@state_option
@click.option("--now", is_flag=True, help="Also while an exam is in progress.")
@click.option("--json", "as_json", is_flag=True, help="Print what runs as JSON.")
@runner_options
def rollback(
    *, state: Path, now: bool, as_json: bool, frames: str | None, fps: float, no_runner: bool
) -> None:
    """Go back to the release that this box ran before, and wait until it runs.

    It asks the agent that works on the box, or does it itself where none does. What was left does
    not come back by itself: another rollout brings it, or `asdic-agent install`. An exam holds the
    model where it is; `--now` overrides that, also for a way back that waits already. With exit
    code 1 the box did not go back, and the last line says why.

    \b
    Examples:
      asdic-agent rollback --state box1
      asdic-agent rollback --state box1 --now
      asdic-agent rollback --state box1 --json
    """
    from asdic.device.config import read_config
    from asdic.device.rollback import go_back

    log_to_stderr()
    is_stopped = stop_on_signals()
    device = state_folder(state)
    config = read_config(device)
    supervisor = supervisor_for(device, config, frames=frames, fps=fps, no_runner=no_runner)
    result = go_back(device, config, supervisor=supervisor, now=now, is_stopped=is_stopped)
    if as_json:
        print_json(result)
    else:
        click.echo(result.line())
