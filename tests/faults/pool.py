"""Processes that try a row's points beside each other."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import multiprocessing.util
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from tests.faults.row import Outcome, Row
from tests.faults.rows import BY_NAME


def outcomes_of(row: Row, points: list[str], *, jobs: int, seconds: float) -> Iterator[Outcome]:
    """Yield what comes of points, as it comes; none is begun after so many seconds."""
    jobs = min(jobs, row.jobs, len(points))
    if not points or seconds <= 0:
        return
    until = time.monotonic() + seconds
    # So that a row which is cut short has still been tried all over.
    rest = random.Random(row.name).sample(points, len(points))  # noqa: S311
    with concurrent.futures.ProcessPoolExecutor(
        jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_open,
        initargs=(row.name,),
    ) as pool:
        running = {pool.submit(_try, rest.pop()) for _ in range(min(2 * jobs, len(rest)))}
        while running:
            done, running = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for one in done:
                if rest and time.monotonic() < until:
                    running.add(pool.submit(_try, rest.pop()))
                yield one.result()


_opened: Callable[[str], Outcome] | None = None
_stack = ExitStack()


def _open(name: str) -> None:
    """Set a row up in this process, once, for all points that it will try."""
    global _opened  # noqa: PLW0603 - a pool's process has no other place for it
    folder = _stack.enter_context(tempfile.TemporaryDirectory(prefix=f"asdic-{name}-"))
    _opened = _stack.enter_context(BY_NAME[name].open(Path(folder)))
    multiprocessing.util.Finalize(None, _stack.close, exitpriority=100)


def _try(point: str) -> Outcome:
    assert _opened is not None
    return _opened(point)
