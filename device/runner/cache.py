"""Where what a device compiled from a model is kept: TensorRT engines, OpenVINO's GPU kernels.

Nothing in it is part of a release, and all of it can be made again. It belongs to one user, since
loading a compiled model is as good as running its author's program.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

VARIABLE: Final = "ASDIC_CACHE"
COMPILED_LIMIT_BYTES: Final = 2 << 30


def keep_in(folder: Path) -> None:
    """Let this process keep what it compiles in ``folder``: the agent has one for each release."""
    os.environ[VARIABLE] = str(folder)


def cache_folder(name: str) -> Path | None:
    """Return the folder called ``name`` in the cache, made if need be; None where none can be.

    The cache is ``$ASDIC_CACHE``, else ``$XDG_CACHE_HOME/asdic``, else ``~/.cache/asdic``. A
    folder that others may write to, or that another user owns, is not used.
    """
    folder = _root() / name
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError:
        return None
    foreign = found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return None if foreign or not os.access(folder, os.W_OK) else folder


def _root() -> Path:
    if given := os.environ.get(VARIABLE):
        return Path(given)
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home) / "asdic" if home else Path(os.path.expanduser("~")) / ".cache" / "asdic"  # noqa: PTH111 - never raises
