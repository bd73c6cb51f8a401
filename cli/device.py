"""What the verbs of ``asdic-agent`` share: their options, and how a runner is started."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

if TYPE_CHECKING:
    from asdic.device.config import AgentConfig, StateFolder
    from asdic.device.supervisor import Supervisor

RING: Final = "ring:"

_F = TypeVar("_F", bound=Callable[..., Any])


class FramesOption(click.Path):
    """A folder of images that exists, or ``ring:NAME``, which need not be there yet."""

    name = "frames"

    def convert(
        self, value: Any, parameter: click.Parameter | None, context: click.Context | None
    ) -> str:
        """Return the option's text; a folder by its full name."""
        if str(value).startswith(RING):
            return str(value)
        return str(Path(str(super().convert(value, parameter, context))).resolve())


def frames_option(command: _F) -> _F:
    """Add ``--frames`` to a verb."""
    return click.option(
        "--frames",
        type=FramesOption(file_okay=False, exists=True),
        help="Folder of images to infer in turn, or ring:NAME for frames in shared memory.  "
        "[default: the golden set's inputs]",
    )(command)


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
        click.option(
            "--fps",
            default=10.0,
            show_default=True,
            help="Inferences a second; for a ring, at most.",
        ),
        frames_option,
    ):
        command = option(command)
    return command


def state_folder(path: Path) -> StateFolder:
    """Return the state folder at ``path``, by its full name."""
    from asdic.device.config import StateFolder

    return StateFolder(path.resolve())


def with_ring(config: AgentConfig, frames: str | None) -> AgentConfig:
    """Return ``config`` with the ring of ``--frames``, which the agent asks what it carries."""
    import msgspec

    if frames is None or not frames.startswith(RING) or config.frames.ring:
        return config
    ring = frames.removeprefix(RING)
    return msgspec.structs.replace(config, frames=msgspec.structs.replace(config.frames, ring=ring))


def supervisor_for(
    state: StateFolder,
    config: AgentConfig,
    *,
    frames: str | None,
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
    command += ["--frames", frames] if frames is not None else []
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
