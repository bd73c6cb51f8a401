"""An agent that kills itself: right after, or right before, a chosen word is in its journal.

``python -m tests.support.dying_agent after gating FOLDER --state box1`` is ``asdic-agent install``
with another disk under it. The disk is the seam that the agent has anyway; nothing is patched.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Final

import msgspec

from asdic.cli.device import log_to_stderr, state_folder, supervisor_for
from asdic.contract.messages import UpdateState
from asdic.device.agent import Agent, locked
from asdic.device.config import read_config
from asdic.device.link import FolderLink
from asdic.device.update.journal import Journal
from asdic.device.update.storage import Storage

BEFORE: Final = "before"


class DyingStorage(Storage):
    """A disk whose machine loses its agent when a state reaches the journal.

    ``before``: the journal does not say it yet. ``after``: it does, and nothing was done yet.
    """

    def __init__(self, when: str, state: UpdateState) -> None:
        super().__init__()
        self._when = when
        self._state = state

    def write(self, path: Path, data: bytes, *, mode: int = 0o644, urgent: bool = False) -> None:
        """Write, and die if it is time."""
        is_time = path.name == "journal.json" and (
            msgspec.json.decode(data.split(b"\n")[0], type=Journal).state is self._state
        )
        if is_time and self._when == BEFORE:
            os.kill(os.getpid(), signal.SIGKILL)
        super().write(path, data, mode=mode, urgent=urgent)
        if is_time:
            os.kill(os.getpid(), signal.SIGKILL)


def main(when: str, state: str, folder: str, _option: str, box: str) -> None:
    """Install until death."""
    log_to_stderr()
    device = state_folder(Path(box))
    config = read_config(device)
    with locked(device):
        Agent(
            device,
            config,
            link=FolderLink(Path(folder), config.device),
            storage=DyingStorage(when, UpdateState(state)),
            supervisor=supervisor_for(device, config, frames=None, fps=20.0, no_runner=False),
            again=True,
        ).run(lambda: False)


if __name__ == "__main__":
    main(*sys.argv[1:])
