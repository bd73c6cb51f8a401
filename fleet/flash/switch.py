"""The switch to a version that lies ready, seen from the operator's side.

It is a process of the box's own, which puts everything back unless we confirm in time. So a run
whose cable was pulled is found at work by the next one, or found undone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import msgspec

from asdic.contract.errors import InstallError, LinkError
from asdic.fleet.flash.remote import Remote

INSTALL_S: Final = 1800.0
GRACE_S: Final = 60.0
POLL_S: Final = 0.3


class Ear(Protocol):
    """Who hears whether the new agent reported."""

    def has_heard(self, after: int) -> bool:
        """Return whether a report with a larger number than ``after`` shows what is wanted."""

    def heard(self) -> str:
        """Return what was heard last, for a person."""


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What a box's systemd says of the unit that it runs.

    Attributes:
        exposure: The score of ``systemd-analyze security``, of 10, less being better; None where
            that gave none.
        level: Its word for the score, as ``OK``.
        notes: What ``systemd-analyze verify`` does not like, or why nothing could be judged.
    """

    exposure: float | None = None
    level: str = ""
    notes: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """Return it for a person."""
        score = f"systemd-analyze security: {self.exposure} ({self.level})"
        notes = (f"note: {note}" for note in self.notes)
        return (*([] if self.exposure is None else [score]), *notes)


class Switch:
    """One switch on one box.

    Args:
        remote: How to work on the box.
        arguments: What the box has to know of the installation (``box.activation``).
        patience_s: How long the new agent may take until it is heard.
        say: Is told where it stands.
    """

    def __init__(
        self,
        remote: Remote,
        arguments: dict[str, Any],
        *,
        patience_s: float,
        say: Callable[[str], None],
    ) -> None:
        self._remote = remote
        self._arguments = {
            **arguments,
            "patience_s": 2 * patience_s,
            "install_s": INSTALL_S,
        }
        self._patience_s = patience_s
        self._say = say

    def start(self, install: list[str] | None) -> None:
        """Begin it; with ``install``, that command of the new agent is run in its course."""
        self._do("start", install=install)

    def undo(self) -> None:
        """Put back what a switch left whose process has ended before its time."""
        self._do("undo")

    def judge(self) -> Judgement:
        """Return what the box's systemd says of the unit that it runs.

        The switch has been confirmed, so nothing that goes wrong here is a failure.
        """
        try:
            return msgspec.convert(self._do("judge"), Judgement)
        except (InstallError, LinkError) as error:
            return Judgement(notes=(f"nobody has judged the unit: {error}",))

    def follow(self, ear: Ear) -> None:
        """Wait until the new agent was heard, then confirm.

        Raises:
            InstallError: It was not heard in time, or failed; the box was put back.
            LinkError: A connection broke; the box goes on by itself.
        """
        name = self._remote.session.name
        deadline_s = time.monotonic() + INSTALL_S + self._patience_s + GRACE_S
        heard_by_s: float | None = None
        said = ""
        while time.monotonic() < deadline_s:
            record = self._do("state")
            if record["step"] != said:
                said = record["step"]
                self._say(said)
            match record["state"]:
                case "confirmed":
                    return
                case "reverted":
                    raise _failure(name, record)
                case "waiting":
                    heard_by_s = heard_by_s or time.monotonic() + self._patience_s
                    self._judge(ear, record["report_number"], heard_by_s)
            if not record["alive"]:
                self.undo()
            time.sleep(POLL_S)
        raise InstallError(f"{name}: the switch does not end ({said}); see activation.log there")

    def _judge(self, ear: Ear, number: int, heard_by_s: float) -> None:
        """Confirm once the agent was heard, and refuse when it is too late."""
        if ear.has_heard(number):
            self._do("decide", confirm=True, reason="")
        elif time.monotonic() > heard_by_s:
            late = f"no signed report of the new agent within {self._patience_s:.0f} s"
            self._do("decide", confirm=False, reason=f"{late} ({ear.heard()})")

    def _do(self, step: str, **further: Any) -> Any:
        return self._remote.call("activate", {**self._arguments, "step": step, **further})


def _failure(name: str, record: dict[str, Any]) -> InstallError:
    before, reason = record["before"]["current"], record.get("reason", "")
    now = f"it runs {before} as before" if before else "it has no agent, as before"
    return InstallError(f"{name} was put back, {now}: {reason}")
