"""What a program says to the agent and hears from it between two frames, without ever waiting."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Final

from asdic.contract.errors import ConfigError, LinkError
from asdic.device.application import ANSWER_TIMEOUT_S, Application, Call, CurrentRelease

RECONNECT_S: Final = 0.5

log = logging.getLogger("asdic.runner")


class Conversation:
    """One connection to the agent, made again when it is lost.

    Attributes:
        wanted: What the agent said last is to run; None before it said anything.
        trouble: What was wrong with the connection or the last answer; empty where nothing was.
        heard_s: When the agent last answered, on the monotonic clock.
        number: Counts the connections; what was said over an earlier one is over.
    """

    def __init__(self, state: Path) -> None:
        self.wanted: CurrentRelease | None = None
        self.trouble = "the agent has not answered yet"
        self.heard_s = time.monotonic()
        self.number = 0
        self._state = state
        self._application: Application | None = None
        self._connect_at_s = 0.0
        self._asked_s = 0.0

    def listen(self) -> None:
        """Connect where that is due, and take the answer if it is there."""
        try:
            if self._application is None:
                self._connect_if_due()
            elif self._application.is_waiting:
                self._take_answer(self._application)
        except LinkError as error:
            self._lose(error)

    @property
    def can_say(self) -> bool:
        """Whether the agent is there and has answered all that was said."""
        return self._application is not None and not self._application.is_waiting

    def say(self, call: Call) -> None:
        """Send a call; its answer is taken by a later ``listen``."""
        if self._application is None:
            return
        try:
            self._application.send(call)
        except LinkError as error:
            self._lose(error)
        else:
            self._asked_s = time.monotonic()

    def close(self) -> None:
        """Hang up."""
        if self._application is not None:
            self._application.close()
            self._application = None

    def _connect_if_due(self) -> None:
        if time.monotonic() >= self._connect_at_s:
            self._application = Application.connect(self._state)
            self.number += 1

    def _take_answer(self, application: Application) -> None:
        trouble = ""
        try:
            answer = application.answer()
        except ConfigError as error:  # The agent is there, and in trouble itself.
            trouble = str(error)
        else:
            if answer is None:
                self._check_patience()
                return
            self.wanted = answer
        self.heard_s = time.monotonic()
        self._note(trouble)

    def _check_patience(self) -> None:
        if time.monotonic() - self._asked_s > ANSWER_TIMEOUT_S:
            raise LinkError(f"the agent is gone: no answer within {ANSWER_TIMEOUT_S:.0f} s")

    def _lose(self, error: LinkError) -> None:
        """Go on without the agent; one that restarts is back within seconds."""
        self.close()
        self._connect_at_s = time.monotonic() + RECONNECT_S
        self._note(str(error))

    def _note(self, trouble: str) -> None:
        if trouble and trouble != self.trouble:
            log.warning("%s", trouble)
        self.trouble = trouble
