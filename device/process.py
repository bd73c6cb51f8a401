"""Child processes that end with the agent, however the agent ends."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38


def control_process(option: int, value: int) -> bool:
    """Call ``prctl(option, value)`` of the C library and return whether it worked."""
    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when ``parent`` dies, or leave at once if it has.

    ``kill -9`` of the agent must not leave a process behind that infers with no one to answer to.
    """
    control_process(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
