"""Processes: children that end with the agent, however it ends, and what one takes."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path
from typing import Final

PR_SET_PDEATHSIG: Final = 1
PR_SET_NO_NEW_PRIVS: Final = 38


def control_process(option: int, value: int) -> bool:
    """Call ``prctl(option, value)`` of the C library and return whether it worked."""
    return bool(ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) == 0)


def resident_bytes(pid: int) -> int:
    """Return how much memory a process has resident; 0 once it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGESIZE")


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when ``parent`` dies, or leave at once if it has.

    ``kill -9`` of the agent must not leave a process behind that infers with no one to answer to.
    """
    control_process(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
