"""``asdic-agent install``: take a release out of a folder, without any network."""

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
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@state_option
@click.option("--now", is_flag=True, help="Also while an exam is in progress.")
@runner_options
def install(
    *, folder: Path, state: Path, now: bool, frames: str | None, fps: float, no_runner: bool
) -> None:
    """Install the release that FOLDER holds for this box: the same checks, no network.

    FOLDER is what `asdic export` wrote, on a USB stick for instance. It ends when the release is
    committed, or with exit code 1 and the reason why this box stays on what it ran.

    \b
    Examples:
      asdic-agent install /media/usb/releases --state box1
      asdic-agent install /media/usb/releases --state box1 --now
    """
    from asdic.device.agent import Agent, locked
    from asdic.device.config import read_config
    from asdic.device.install import Installation
    from asdic.device.link import FolderLink
    from asdic.device.log import keep_warnings
    from asdic.device.update.storage import Storage

    log_to_stderr()
    is_stopped = stop_on_signals()
    device = state_folder(state)
    config = with_ring(read_config(device), frames)
    keep_warnings(device)
    link = FolderLink(folder, config.device)
    supervisor = supervisor_for(device, config, frames=frames, fps=fps, no_runner=no_runner)
    with locked(device):
        agent = Agent(
            device,
            config,
            link=link,
            storage=Storage(),
            supervisor=supervisor,
            again=True,
            now=now,
        )
        installation = Installation(agent.update)
        agent.run(lambda: is_stopped() or installation.is_over())
    click.echo(installation.result())
