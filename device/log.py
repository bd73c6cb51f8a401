"""The agent's own short memory of what went wrong: ``log/agent.log`` in the state folder.

Warnings and errors only, bounded, one line each, for ``asdic-agent doctor``. Where the disk does
not take a line, the line is lost and nobody waits: stderr has it too.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from asdic.contract.errors import ConfigError
from asdic.contract.files import read_bounded
from asdic.device.config import StateFolder

FILE_LIMIT_BYTES: Final = 256 << 10
OLDER_FILES: Final = 1
LINE_LIMIT: Final = 1_000


def keep_warnings(state: StateFolder) -> None:
    """Keep this process's warnings and errors in the state folder from now on."""
    logging.getLogger().addHandler(WarningsFile(log_file(state)))


def log_file(state: StateFolder) -> Path:
    """Return the newer of the two files."""
    return state.path / "log" / "agent.log"


def log_files(state: StateFolder) -> tuple[Path, ...]:
    """Return both files, the older first; either may be missing."""
    newest = log_file(state)
    older = (newest.with_name(f"{newest.name}.{n}") for n in range(OLDER_FILES, 0, -1))
    return (*older, newest)


def read_log(state: StateFolder) -> str:
    """Return all that is kept; what is missing or cannot be read is left out."""
    return "".join(_text(path) for path in log_files(state))


class WarningsFile(RotatingFileHandler):
    """Two files of at most ``FILE_LIMIT_BYTES`` each, opened with the first warning."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            path, maxBytes=FILE_LIMIT_BYTES, backupCount=OLDER_FILES, encoding="utf-8", delay=True
        )
        self.setLevel(logging.WARNING)
        formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
        formatter.converter = time.gmtime
        formatter.default_time_format = "%Y-%m-%dT%H:%M:%SZ"
        formatter.default_msec_format = ""
        self.setFormatter(formatter)

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, whatever a message out of the network holds."""
        line = super().format(record)[:LINE_LIMIT]
        return "".join(letter if letter.isprintable() else " " for letter in line)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        """Let the line go: a full disk must not fill stderr with tracebacks as well."""

    def close(self) -> None:
        """Close the file; the last line may be lost too."""
        with suppress(OSError):
            super().close()

    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(exist_ok=True)
        return super()._open()


def _text(path: Path) -> str:
    try:
        return read_bounded(path, 2 * FILE_LIMIT_BYTES).decode("utf-8", errors="replace")
    except ConfigError:
        return ""
