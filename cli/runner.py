"""The command ``asdic-runner``: the process that runs the model, beside the agent or under it."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path

import click

from asdic.cli.console import run
from asdic.cli.device import frames_option


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    required=True,
    help="The device's state folder.",
)
@frames_option
@click.option(
    "--fps", default=10.0, show_default=True, help="Inferences a second; for a ring, at most."
)
@click.option("--simulate", is_flag=True, help="Use the runtime that stands in for the target's.")
@click.option("--parent", type=int, hidden=True, help="End when this process ends.")
@click.version_option(package_name="asdic")
def runner(state: Path, frames: str | None, fps: float, simulate: bool, parent: int | None) -> None:
    """Run what the agent of a state folder says, and tell it how that goes.

    The agent starts one by itself; this command is for a service of its own.

    \b
    Examples:
      asdic-agent run --state box1 --no-runner &
      asdic-runner --state box1 --frames recordings/ --fps 25
      asdic-runner --state box1 --frames ring:probe --fps 60
    """
    from asdic.contract.errors import ConfigError
    from asdic.device.process import end_with_parent

    if parent is not None:
        end_with_parent(parent)
    if not 0 < fps <= 1_000:
        raise ConfigError(f"{fps:g} inferences a second are not possible; use 0 to 1000")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    from asdic.device.runner.frames import image_paths
    from asdic.device.runner.ring_source import ring_named
    from asdic.device.runner.service import RunnerService

    ring = ring_named(frames) if frames is not None else None
    RunnerService(
        state.resolve(),
        simulate=simulate,
        images=image_paths(Path(frames)) if frames is not None and ring is None else (),
        fps=fps,
        stopped=stop.is_set,
        ring=ring,
    ).run()


def main() -> None:
    """Run the command; an expected failure is one line on stderr and exit code 1."""
    sys.exit(run(runner, "asdic-runner"))


if __name__ == "__main__":
    main()
