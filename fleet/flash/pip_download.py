"""Fetching wheels for a box with pip, from the operator's own index, proxies and certificates."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from packaging.utils import canonicalize_name

from asdic.contract.errors import ConfigError, LinkError
from asdic.fleet.flash.box_python import BoxPython

DOWNLOAD_S: Final = 3600.0
_KEPT_LINES: Final = 200
_NOT_FOUND: Final = re.compile(r"No matching distribution found for (\S+)")
_NAME_END: Final = re.compile(r"[^A-Za-z0-9._-]")
_DOWNLOADING: Final = re.compile(r"Downloading (\S+\.whl)(?: (\(.+\)))?")
_NETWORK: Final = re.compile(
    r"Retrying \(Retry|NewConnectionError|ConnectTimeout|ReadTimeout|ProxyError|"
    r"SSLError|Temporary failure in name resolution|Could not fetch URL"
)


class WheelMissingError(ConfigError):
    """The index has no wheel of some packages for a box.

    Attributes:
        packages: Their names, with the version where one was asked for.
    """

    def __init__(self, packages: Sequence[str], box: BoxPython) -> None:
        self.packages = tuple(packages)
        super().__init__(
            f"your package index has no wheel of {', '.join(packages)} for Python {box.python} "
            f"on {box.architecture}; name an index that has it in pip's configuration "
            "(extra-index-url), or a folder of wheels that you built (find-links), or put "
            "another Python on the box"
        )


class PipDownload:
    """Fetches into ``folder`` what fits ``box``; ``progress`` is told of each wheel."""

    def __init__(self, folder: Path, box: BoxPython, progress: Callable[[str], None]) -> None:
        self._folder = folder
        self._box = box
        self._progress = progress

    def __call__(self, requirements: Sequence[str]) -> list[Path]:
        """Fetch one wheel for each requirement, and none for what those require.

        Raises:
            WheelMissingError: There is none for some of them; the error names all.
            LinkError: The index does not answer.
            ConfigError: There is no pip, or it refuses.
        """
        before = set(self._folder.glob("*.whl"))
        rest, missing = list(requirements), []
        while rest and (output := self._pip(rest)) is not None:
            absent = _missing(output)
            named = [one for one in rest if _name(one) == absent]
            if not named or _NETWORK.search(output):
                raise _refusal(output)
            missing += named
            rest = [one for one in rest if one not in named]
        if missing:
            raise WheelMissingError(missing, self._box)
        return sorted(set(self._folder.glob("*.whl")) - before)

    def _pip(self, requirements: Sequence[str]) -> str | None:
        """Run pip; return its last lines if it failed."""
        words = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        words += ["--disable-pip-version-check", "--no-input", "--progress-bar=off"]
        words += ["--dest", str(self._folder), *self._box.pip_options, *requirements]
        lines: deque[str] = deque(maxlen=_KEPT_LINES)
        with subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process:
            late = threading.Timer(DOWNLOAD_S, process.kill)
            late.start()
            try:
                for line in process.stdout or ():
                    lines.append(line.rstrip())
                    self._say(line)
            finally:
                late.cancel()
        return "\n".join(lines) if process.returncode else None

    def _say(self, line: str) -> None:
        if found := _DOWNLOADING.search(line):
            name = found[1].rpartition("/")[2]
            self._progress(f"fetches {' '.join(filter(None, (name, found[2])))}")


def _missing(output: str) -> str | None:
    """Return the name of the package that pip finds no wheel of."""
    found = _NOT_FOUND.search(output)
    return None if found is None else _name(found[1])


def _name(requirement: str) -> str:
    return canonicalize_name(_NAME_END.split(requirement, 1)[0])


def _refusal(output: str) -> ConfigError | LinkError:
    lines = output.splitlines()
    if "No module named pip" in output:
        return ConfigError(
            f"{sys.executable} has no pip, which fetches the wheels; install it: "
            f"{sys.executable} -m ensurepip"
        )
    if _NETWORK.search(output):
        return LinkError(f"the package index does not answer: {_reason(lines)}")
    return ConfigError(f"pip cannot fetch the wheels: {_reason(lines)}")


def _reason(lines: Sequence[str]) -> str:
    """Return pip's own word: the last line that it calls an error, or a warning, or any."""
    for kind in ("ERROR: ", "WARNING: ", ""):
        for line in reversed(lines):
            if line.startswith(kind) and line:
                return line.removeprefix(kind)[:500]
    return "pip was stopped, or said nothing"
