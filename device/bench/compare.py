"""Is one variant faster than another? Fresh processes, both by turns, one interval, one verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.bench import Against, ComparisonVerdict, Measured, Restart
from asdic.contract.errors import ConfigError
from asdic.contract.messages import RuntimeFacts
from asdic.device.bench.child import PairAnswer, Request, ask
from asdic.device.bench.samples import unpack_ms
from asdic.device.bench.statistics import percentile

RESTARTS: Final = 5
RESTARTS_LIMIT: Final = 20
MARGIN: Final = 0.03
INNER: Final = 400
OUTER: Final = 10_000
# Student's t at 97.5 % for 1 to 19 degrees of freedom.
_T: Final = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093),
)


@dataclass
class ComparePhase:
    """Measures ``a`` and ``b`` in ``restarts`` fresh processes."""

    a: Path
    b: Path
    restarts: int
    seconds: float
    threads: int
    simulate: bool
    look: Callable[[], None]
    runtimes: tuple[RuntimeFacts, RuntimeFacts] | None = None
    _done: list[Restart] = field(default_factory=list)

    def run(self) -> None:
        """Measure.

        Raises:
            ConfigError: There are too few or too many restarts, or a process could not run.
        """
        if not RESTARTS <= self.restarts <= RESTARTS_LIMIT:
            raise ConfigError(
                f"a comparison takes {RESTARTS} to {RESTARTS_LIMIT} restarts, not {self.restarts}"
            )
        for number in range(self.restarts):
            answer = ask(
                Request(
                    folders=(str(self.a.resolve()), str(self.b.resolve())),
                    seconds=self.seconds / self.restarts,
                    first=number % 2,
                    threads=self.threads,
                    simulate=self.simulate,
                )
            )
            if isinstance(answer, PairAnswer):
                self._done.append(restart_of(answer, "ab"[number % 2]))
                self.runtimes = answer.runtimes
            self.look()

    def result(self, other: Measured, *, margin: float, seed: int = 0) -> Against:
        """Return the verdict on what was measured so far."""
        return judge(
            self._done,
            other=other,
            runtime=self.runtimes[1] if self.runtimes else None,
            threads=self.threads,
            margin=margin,
            seed=seed,
        )


def judge(
    restarts: Sequence[Restart],
    *,
    other: Measured,
    runtime: RuntimeFacts | None = None,
    threads: int = 1,
    margin: float = MARGIN,
    seed: int = 0,
) -> Against:
    """Return the verdict on ``restarts``.

    The whole interval decides. Within ``margin`` of 1 it is ``no difference``, even where it
    excludes 1; wholly on one side it is ``faster`` or ``slower``; else more data is needed.
    """
    interval = ratio_interval(restarts, seed=seed) if len(restarts) >= RESTARTS else None
    verdict, reason = _verdict(interval, margin, len(restarts))
    a = np.concatenate([unpack_ms(one.a) for one in restarts]) if restarts else None
    b = np.concatenate([unpack_ms(one.b) for one in restarts]) if restarts else None
    return Against(
        other=other,
        runtime=runtime,
        threads=threads,
        verdict=verdict,
        reason=reason,
        margin=margin,
        p50_a_ms=None if a is None else percentile(a, 0.5),
        p50_b_ms=None if b is None else percentile(b, 0.5),
        ratio=interval[0] if interval else None,
        low=interval[1] if interval else None,
        high=interval[2] if interval else None,
        restarts=tuple(restarts),
    )


def ratio_interval(restarts: Sequence[Restart], *, seed: int = 0) -> tuple[float, float, float]:
    """Return time of a over time of b with its 95 % interval: (ratio, low, high).

    In a restart it is the median over its turns of what a turn's a took over its b (geometric
    means of two each): within a turn both saw the machine in the same state, so a clock with two
    speeds does not show. Over restarts it is the geometric mean. The bootstrap is hierarchical:
    restarts are drawn with replacement, and in each its turns, in moving blocks of
    sqrt(n) (Kalibera and Jones, Rigorous benchmarking in reasonable time, ISMM 2013). With few
    restarts a bootstrap's interval is too narrow; its tails are moved out as Student's t would
    (the expanded percentile interval: Hesterberg, The American Statistician 69:371, 2015).
    """
    random = np.random.default_rng(seed)
    count = len(restarts)
    centre = float(np.mean([math.log(one.ratio) for one in restarts]))
    pools = np.stack([_resampled(one, random) for one in restarts])
    picks = random.integers(count, size=(OUTER, count))
    draws = random.integers(INNER, size=(OUTER, count))
    means = pools[picks, draws].mean(axis=1)
    quantile = -math.sqrt(count / (count - 1)) * _T[count - 2]
    tail = NormalDist().cdf(quantile)
    low, high = percentile(means, tail), percentile(means, 1.0 - tail)
    return math.exp(centre), math.exp(min(low, centre)), math.exp(max(high, centre))


def _verdict(
    interval: tuple[float, float, float] | None, margin: float, restarts: int
) -> tuple[ComparisonVerdict, str]:
    if interval is None:
        return (
            ComparisonVerdict.NOT_ENOUGH_DATA,
            f"{restarts} restarts were measured, {RESTARTS} are needed",
        )
    _, low, high = interval
    if 1.0 / (1.0 + margin) <= low and high <= 1.0 + margin:
        return ComparisonVerdict.NO_DIFFERENCE, f"any difference is below {margin:.0%}"
    if high < 1.0:
        return ComparisonVerdict.FASTER, "the whole interval lies below 1"
    if low > 1.0:
        return ComparisonVerdict.SLOWER, "the whole interval lies above 1"
    return (
        ComparisonVerdict.NOT_ENOUGH_DATA,
        f"the interval holds 1 and is wider than {margin:.0%}; measure for longer",
    )


def turn_ratios(a_ms: NDArray[np.float64], b_ms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log(time of a / time of b) for each turn of two samples each."""
    even = min(a_ms.size, b_ms.size) // 2 * 2
    logarithms = np.log(a_ms[:even]) - np.log(b_ms[:even])
    return np.asarray(logarithms.reshape(-1, 2).mean(axis=1), np.float64)


def restart_of(answer: PairAnswer, first: str) -> Restart:
    """Return what a fresh process measured, with its own ratio."""
    turns = turn_ratios(unpack_ms(answer.a), unpack_ms(answer.b))
    return Restart(first=first, ratio=math.exp(float(np.median(turns))), a=answer.a, b=answer.b)


def _resampled(restart: Restart, random: np.random.Generator) -> NDArray[np.float64]:
    """Return INNER log ratios of one restart, its turns drawn in blocks that wrap around."""
    turns = turn_ratios(unpack_ms(restart.a), unpack_ms(restart.b))
    count = turns.size
    length = math.isqrt(count)
    starts = random.integers(count, size=(INNER, math.ceil(count / length), 1))
    picks = ((starts + np.arange(length)) % count).reshape(INNER, -1)[:, :count]
    return np.asarray(np.median(turns[picks], axis=1), np.float64)
