"""Two models by turns, in the order a b b a: what drifts, drifts under both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asdic.contract.errors import DataError
from asdic.device.bench.samples import Series
from asdic.device.runner.runner import Runner

if TYPE_CHECKING:
    from asdic.device.bench.child import Request

WARM_UP_SHARE: Final = 0.2
WARM_UP_TURNS: Final = 5
TURNS_AT_LEAST: Final = 10


@contextmanager
def opened_pair(a: Path, b: Path, request: Request) -> Iterator[tuple[Runner, Runner]]:
    """Yield both variants' runners; which one is opened first alternates between restarts.

    Raises:
        DataError: The variants do not take the same inputs.
    """
    with ExitStack() as stack:
        runners = {}
        for number in (request.first, 1 - request.first):
            runners[number] = stack.enter_context(
                Runner.open((a, b)[number], simulate=request.simulate, threads=request.threads)
            )
        names = [sorted(rule.tensor for rule in runners[number].preprocessing) for number in (0, 1)]
        if names[0] != names[1]:
            raise DataError(f"the variants take different inputs: {names[0]} and {names[1]}")
        yield runners[0], runners[1]


def by_turns(
    infer_a: Callable[[], object], infer_b: Callable[[], object], *, seconds: float, turns: int
) -> tuple[Series, Series]:
    """Return the latencies of both, two a turn, after a warm-up."""
    _warm_up(infer_a, infer_b, until=time.perf_counter() + seconds * WARM_UP_SHARE)
    times_a, times_b = Series(), Series()
    until = time.perf_counter() + seconds
    for turn in range(turns):
        if turn >= TURNS_AT_LEAST and time.perf_counter() >= until:
            break
        times_a.append(_time_ns(infer_a))
        times_b.append(_time_ns(infer_b))
        times_b.append(_time_ns(infer_b))
        times_a.append(_time_ns(infer_a))
    return times_a, times_b


def _warm_up(infer_a: Callable[[], object], infer_b: Callable[[], object], *, until: float) -> None:
    turn = 0
    while turn < WARM_UP_TURNS or time.perf_counter() < until:
        infer_a()
        infer_b()
        turn += 1


def _time_ns(infer: Callable[[], object]) -> int:
    started = time.perf_counter_ns()
    infer()
    return time.perf_counter_ns() - started
