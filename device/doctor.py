"""What is wrong with this box, for a person beside it or at the other end of a telephone.

What is looked at, and what is said about it, is in ``checks.py``. Whatever is damaged is a
finding, and never the end of the examination.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

import msgspec

from asdic.contract.errors import AsdicError
from asdic.device.case import Case, Level
from asdic.device.checks import CHECKS
from asdic.device.config import StateFolder
from asdic.device.log import read_log

FORMAT: Final = "asdic-doctor/1"
ERRORS_SHOWN: Final = 5


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at: what was found, and what to do about it."""

    check: str
    level: Level
    found: str
    advice: str = ""


class Diagnosis(msgspec.Struct, frozen=True, kw_only=True):
    """All findings about one box. ``time_s`` is the box's own clock."""

    format: str = FORMAT
    device: str | None
    target: str | None
    agent_version: str
    time_s: float
    findings: tuple[Finding, ...]
    last_errors: tuple[str, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that somebody has to act on."""
        return tuple(one for one in self.findings if one.level is Level.ERROR)

    def lines(self) -> Iterator[str]:
        """Yield it as lines for a person."""
        yield f"{self.device or 'no device'} ({self.target or '-'}), asdic {self.agent_version}"
        for one in self.findings:
            yield f"{one.level.value:<8} {one.check:<9} {one.found}"
            if one.advice:
                yield f"{'':18} -> {one.advice}"
        for line in self.last_errors:
            yield f"{'':8} {line}"


def diagnose(state: StateFolder, *, now_s: float | None = None) -> Diagnosis:
    """Return what is to be said about the box in ``state``. It raises nothing expected."""
    case = Case(state, time.time() if now_s is None else now_s)
    try:
        config = case.config
    except (AsdicError, OSError):
        config = None
    return Diagnosis(
        device=config.device if config else None,
        target=config.target if config else None,
        agent_version=version("asdic"),
        time_s=case.now_s,
        findings=tuple(one for name in CHECKS for one in _examined(name, case)),
        last_errors=tuple(read_log(state).splitlines()[-ERRORS_SHOWN:]),
    )


def _examined(name: str, case: Case) -> Iterator[Finding]:
    """Yield the findings of one check; what it stumbles over is one of them."""
    try:
        for level, found, advice in CHECKS[name](case):
            yield Finding(check=name, level=level, found=found, advice=advice)
    except (AsdicError, OSError, ValueError) as error:
        yield Finding(check=name, level=Level.ERROR, found=str(error))
