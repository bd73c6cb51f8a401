"""``asdic-agent run``: follow the fleet manager."""

from __future__ import annotations

from pathlib import Path

import click

from asdic.cli.device import (
    log_to_stderr,
    runner_options,
    state_folder,
    state_option,
    stop_on_signals,
    supervisor_for,
    with_ring,
)


@click.command()
@state_option
@runner_options
def run(state: Path, frames: str | None, fps: float, no_runner: bool) -> None:
    """Follow the fleet manager, and run what it signs for this box, until stopped.

    A broker that is away is tried again until it answers; the model runs on meanwhile.

    \b
    Examples:
      asdic-agent run --state box1
      asdic-agent run --state box1 --frames recordings/ --fps 25
      asdic-agent run --state box1 --frames ring:probe --fps 60
      asdic-agent run --state box1 --no-runner
    """
    from asdic.device.agent import Agent, locked
    from asdic.device.config import read_config
    from asdic.device.identity import read_key
    from asdic.device.link import MqttLink
    from asdic.device.log import keep_warnings
    from asdic.device.update.storage import Storage
    from asdic.device.update.trust import TrustFolder

    log_to_stderr()
    is_stopped = stop_on_signals()
    folder = state_folder(state)
    config = with_ring(read_config(folder), frames)
    keep_warnings(folder)
    trust = TrustFolder(folder.trust, Storage())
    link = MqttLink(
        config.broker,
        config.device,
        read_key(folder),
        config.timing,
        signed_s=trust.newest_signed_s,
    )
    supervisor = supervisor_for(folder, config, frames=frames, fps=fps, no_runner=no_runner)
    with locked(folder):
        Agent(folder, config, link=link, storage=Storage(), supervisor=supervisor).run(is_stopped)
