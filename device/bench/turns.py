"""Two models by turns, in the order a b b a: what drifts, drifts under both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from asdic.contract.errors import DataError
from asdic.device.bench.samples import Series
from asdic.device.runner.golden import Inputs
from asdic.device.runner.runner import Runner

if TYPE_CHECKING:
    from asdic.device.bench.child import Request

WARM_UP_SHARE: Final = 0.2
WARM_UP_TURNS: Final = 5
TURNS_AT_LEAST: Final = 10


@contextmanager
def opened_pair(a: Path, b: Path, request: Request) -> Iterator[tuple[Runner, Runner]]:
    """Yield both variants' runners; which one is opened first alternates between restarts."""
    with ExitStack() as stack:
        runners = {}
        for number in (request.first, 1 - request.first):
            runners[number] = stack.enter_context(
                Runner.open((a, b)[number], simulate=request.simulate, threads=request.threads)
            )
        yield runners[0], runners[1]


def frame_for(other: Runner, frame: Inputs, runner: Runner) -> Inputs:
    """Return a frame of ``runner`` under the names of ``other``, which may call its inputs so.

    Raises:
        DataError: The other takes another number of inputs.
    """
    if not isinstance(frame, Mapping):
        return frame
    names = [rule.tensor for rule in runner.preprocessing]
    others = [rule.tensor for rule in other.preprocessing]
    if len(names) != len(others):
        raise DataError(f"the variants take different inputs: {names} and {others}")
    return {there: frame[here] for here, there in zip(names, others, strict=True)}


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
