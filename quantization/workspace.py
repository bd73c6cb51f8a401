"""Where work in progress lies: beside the variants, so that an interrupted call goes on."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from asdic.contract.errors import ConfigError

WORK_FOLDER: Final = ".work"


@contextmanager
def open_workspace(out: Path) -> Iterator[Path]:
    """Yield the folder in ``out`` where work in progress lies; it is removed when all is done.

    What an interrupted call left there is used again. One call at a time.

    Raises:
        ConfigError: Another call works in ``out``.
    """
    folder = out / WORK_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another asdic quantize works in {out}; wait for it") from error
        yield folder
    shutil.rmtree(folder)
