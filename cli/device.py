"""What the verbs of ``asdic-agent`` share: their options, and how a runner is started."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from asdic.device.config import AgentConfig, StateFolder
    from asdic.device.supervisor import Supervisor

_F = TypeVar("_F", bound=Callable[..., Any])


def state_option(command: _F) -> _F:
    """Add ``--state`` to a verb."""
    return click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        default="/var/lib/asdic",
        show_default=True,
        envvar="ASDIC_STATE",
        help="The device's state folder.",
    )(command)


def runner_options(command: _F) -> _F:
    """Add ``--frames``, ``--fps`` and ``--no-runner`` to a verb."""
    for option in (
        click.option(
            "--no-runner",
            is_flag=True,
            help="Start no runner: the box's own program speaks the application contract.",
        ),
        click.option("--fps", default=10.0, show_default=True, help="Inferences a second."),
        click.option(
            "--frames",
            type=click.Path(path_type=Path, file_okay=False, exists=True),
            help="Folder of images to infer in turn.  [default: the golden set's inputs]",
        ),
    ):
        command = option(command)
    return command


def state_folder(path: Path) -> StateFolder:
    """Return the state folder at ``path``, by its full name."""
    from asdic.device.config import StateFolder

    return StateFolder(path.resolve())


def supervisor_for(
    state: StateFolder,
    config: AgentConfig,
    *,
    frames: Path | None,
    fps: float,
    no_runner: bool,
) -> Supervisor | None:
    """Return the supervisor of this device's runner, or None where a program takes its place."""
    from asdic.device.supervisor import Supervisor

    if no_runner:
        return None
    command = [sys.executable, "-m", "asdic.cli.runner", "--state", str(state.path)]
    command += ["--fps", str(fps), "--parent", str(os.getpid())]
    command += ["--simulate"] if config.simulated else []
    command += ["--frames", str(frames.resolve())] if frames is not None else []
    return Supervisor(command, config.timing)


def log_to_stderr() -> None:
    """Write one line an event to stderr."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")


def stop_on_signals() -> Callable[[], bool]:
    """Return a question that is answered with yes after SIGTERM or Ctrl-C."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop.is_set
