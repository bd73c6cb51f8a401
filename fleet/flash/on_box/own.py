"""What the agent's own folder says: read as by a stranger, since root may be the reader."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

FILE_LIMIT_BYTES = 1 << 20
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def report_number(state: Path) -> int:
    """Return the number of the last report that the agent before made."""
    try:
        return int(agents_own(state / "reports" / "last.json")["number"])
    except (ValueError, KeyError, TypeError):
        return 0


def busy_s(state: Path) -> float:
    """Return for how many seconds more an exam is in progress, as its program said to the agent."""
    said = agents_own(state / "application" / "busy.json")
    try:
        is_of_this_boot = said["boot"] == BOOT_ID.read_text().strip()
        return max(0.0, float(said["until_s"]) - time.monotonic()) if is_of_this_boot else 0.0
    except (ValueError, KeyError, TypeError):
        return 0.0


def agents_own(path: Path) -> Any:
    """Return the JSON of a file, or None; what lies there is neither followed nor waited for."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
        with os.fdopen(descriptor, "rb") as file:
            return json.loads(file.read(FILE_LIMIT_BYTES))
    except (OSError, ValueError):
        return None
