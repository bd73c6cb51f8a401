"""A shelf of boxes: several at once, each for itself, and what was done is remembered."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from asdic.contract.errors import AsdicError
from asdic.contract.files import canonical_json, parse_json, read_bounded, write_file
from asdic.fleet.flash.cargo import Wheelhouse, Wheels
from asdic.fleet.flash.flash import Outcome
from asdic.fleet.flash.session import Session
from asdic.fleet.flash.wish import Wish

DONE_LIMIT_BYTES: Final = 16 << 20
_T = TypeVar("_T")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one box: an outcome or an error; ``skipped`` where it was done before."""

    address: str
    outcome: Outcome | None = None
    error: str = ""
    skipped: bool = False

    @property
    def text(self) -> str:
        """Return it in few words."""
        if self.outcome is None:
            return self.error
        if self.skipped:
            return "done before"
        return "flashed" if self.outcome.done else "no change"


class _Entry(msgspec.Struct, frozen=True, kw_only=True):
    wish: str
    outcome: Outcome


class Done:
    """Which wishes were fulfilled, in a file of the operator's."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._entries: dict[str, _Entry] = {}
        if path.is_file():
            data = read_bounded(path, DONE_LIMIT_BYTES)
            self._entries = parse_json(data, dict[str, _Entry], what=str(path))

    def outcome(self, wish: Wish) -> Outcome | None:
        """Return what came of the very same wish, or None where it was not fulfilled."""
        entry = self._entries.get(wish.address)
        return entry.outcome if entry is not None and entry.wish == _digest(wish) else None

    def note(self, wish: Wish, outcome: Outcome) -> None:
        """Remember that a wish was fulfilled."""
        with self._lock:
            self._entries[wish.address] = _Entry(wish=_digest(wish), outcome=outcome)
            write_file(self._path, canonical_json(self._entries), mode=0o600)

    def forget(self, address: str) -> None:
        """Remember nothing of a box."""
        with self._lock:
            if self._entries.pop(address, None) is not None:
                write_file(self._path, canonical_json(self._entries), mode=0o600)


def _digest(wish: Wish) -> str:
    """Return what makes a wish: how one logs in is not part of it."""
    same = msgspec.structs.replace(wish, accept_host_key=None, identity=None, now=False)
    return hashlib.sha256(canonical_json(same)).hexdigest()


def flash_all(
    wishes: Sequence[Wish],
    work: Callable[[Wish], Outcome],
    *,
    done: Done,
    parallel: int = 1,
    resume: bool = False,
    abort: Callable[[], None] = lambda: None,
) -> tuple[Result, ...]:
    """Fulfil wishes, several at once; one that fails does not stop the others.

    Args:
        wishes: One a box.
        work: Fulfils one.
        done: What was fulfilled before; is kept up to date.
        parallel: How many at once.
        resume: Leave out what was fulfilled before.
        abort: Ends all work in hand, when this is interrupted.
    """

    def one(wish: Wish) -> Result:
        before = done.outcome(wish) if resume else None
        if before is not None:
            return Result(address=wish.address, outcome=before, skipped=True)
        outcome = work(wish)
        done.note(wish, outcome)
        return Result(address=wish.address, outcome=outcome)

    return tuple(
        Result(address=wish.address, error=str(found)) if isinstance(found, Exception) else found
        for wish, found in zip(
            wishes, each(wishes, one, parallel=parallel, abort=abort), strict=True
        )
    )


def each(
    wishes: Sequence[Wish],
    work: Callable[[Wish], _T],
    *,
    parallel: int,
    abort: Callable[[], None] = lambda: None,
) -> tuple[_T | AsdicError | OSError, ...]:
    """Return what ``work`` makes of each box, or the expected error that it ended with."""

    def one(wish: Wish) -> _T | AsdicError | OSError:
        try:
            return work(wish)
        except (AsdicError, OSError) as error:
            return error

    pool = ThreadPoolExecutor(max_workers=parallel, thread_name_prefix="flash")
    try:
        return tuple(pool.map(one, wishes))
    except BaseException:
        abort()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class Lines:
    """The open connections, so that one word hangs up all of them."""

    def __init__(self, open_one: Callable[[Wish], Session]) -> None:
        self._open_one = open_one
        self._open: list[Session] = []

    @contextmanager
    def to(self, wish: Wish) -> Iterator[Session]:
        """Yield a connection to a box."""
        session = self._open_one(wish)
        self._open.append(session)
        try:
            yield session
        finally:
            self._open.remove(session)
            session.close()

    def hang_up(self) -> None:
        """Close all; whoever waits for an answer finds the connection broken."""
        for session in tuple(self._open):
            session.close()


def one_at_a_time(wheelhouse: Wheelhouse) -> Wheelhouse:
    """Return a wheelhouse that brings each set of wheels once, whoever asks at the same time."""
    lock = threading.Lock()
    brought: dict[tuple[str, str, str | None, bool], Wheels] = {}

    def bring(*, architecture: str, python: str, runtime: str | None, firmware: bool) -> Wheels:
        key = (architecture, python, runtime, firmware)
        with lock:
            if key not in brought:
                brought[key] = wheelhouse(
                    architecture=architecture, python=python, runtime=runtime, firmware=firmware
                )
            return brought[key]

    return bring
