"""What a person at the box asks the agent for: to go back to the release before this one.

The request is a file in the state folder, so whoever may write there may ask, and nobody else.
A running agent answers beside it; where none runs, the command is the agent until it is over.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final

import msgspec

from asdic.contract.errors import AsdicError, InstallError
from asdic.contract.files import canonical_json, parse_json, read_bounded
from asdic.device.config import StateFolder
from asdic.device.update.storage import Storage
from asdic.device.update.update import Update

FILE_LIMIT_BYTES: Final = 4096
POLL_S: Final = 0.1
ANSWER_S: Final = 10.0


class GoBack(msgspec.Struct, frozen=True, kw_only=True):
    """The request; ``now``: also while an exam is in progress."""

    id: str
    now: bool = False


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Whether the agent began to; ``refusal`` says why not."""

    id: str
    refusal: str = ""


class Requests:
    """The agent's end."""

    def __init__(self, state: StateFolder, update: Update, storage: Storage) -> None:
        self._state = state
        self._update = update
        self._storage = storage
        # Who asked the agent before this one was told that nobody answered.
        storage.remove(state.order)

    def tick(self) -> None:
        """Do what was asked for, once: the request is gone before it is done."""
        path = self._state.order
        if not path.exists():
            return
        try:
            data = read_bounded(path, FILE_LIMIT_BYTES)
        finally:
            self._storage.remove(path)
        request = parse_json(data, GoBack, what=str(path))
        refusal = ""
        try:
            self._update.send_back(now=request.now)
        except InstallError as error:
            refusal = str(error)
        answer = Answer(id=request.id, refusal=refusal)
        self._storage.write(self._state.answer, canonical_json(answer))


def ask_to_go_back(
    state: StateFolder,
    storage: Storage,
    *,
    now: bool,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Ask the agent that works on ``state``, and return once it has begun.

    Raises:
        InstallError: It refuses, or does not answer.
    """
    request = GoBack(id=secrets.token_hex(8), now=now)
    storage.make_folder(state.order.parent)
    storage.write(state.order, canonical_json(request))
    deadline = clock() + ANSWER_S
    while clock() < deadline:
        answer = _answer(state)
        if answer is not None and answer.id == request.id:
            storage.remove(state.answer)
            if answer.refusal:
                raise InstallError(answer.refusal)
            return
        time.sleep(POLL_S)
    storage.remove(state.order)
    raise InstallError(f"the agent on {state.path} did not answer within {ANSWER_S:.0f} s")


def _answer(state: StateFolder) -> Answer | None:
    try:
        data = read_bounded(state.answer, FILE_LIMIT_BYTES)
        return parse_json(data, Answer, what=str(state.answer))
    except AsdicError:
        return None
