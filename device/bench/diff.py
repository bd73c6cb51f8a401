"""Two results of the same kind beside each other, and what may get worse: for CI."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from asdic.contract.bench import BenchReport, Percentile, Run
from asdic.contract.errors import ConfigError
from asdic.contract.messages import RuntimeFacts

_BUDGET: Final = re.compile(r"([a-z0-9.-]+)=([+-]?[0-9]+(?:\.[0-9]+)?)(%?)")
_PERCENTILES: Final = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """How much worse a figure may get: ``p99=+5%`` is at most 5 % more.

    Of figures that are better when higher (throughput, accuracy) a loss is allowed:
    ``throughput=-5%``, ``accuracy=-0.5`` (points).
    """

    figure: str
    allowed: float
    is_relative: bool


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One figure in both results. ``change`` is relative (0.05 is 5 % more), None if unknown.

    ``certain`` says that the 95 % intervals do not overlap, None where there are none.
    ``regressed`` says that the budget is exceeded, or that the figure is gone; None means that
    it has no budget.
    """

    figure: str
    threads: int
    before: float | None
    after: float | None
    change: float | None
    certain: bool | None
    regressed: bool | None

    @property
    def line(self) -> str:
        """The change as a line for a person."""
        before, after = (
            "unknown" if value is None else f"{value:.4g}" for value in (self.before, self.after)
        )
        parts = [f"{self.figure:<11}{self.threads} threads  {before} -> {after}"]
        if self.change is not None:
            parts.append(f"({self.change:+.1%})")
        if self.certain is not None:
            parts.append("intervals apart" if self.certain else "intervals overlap")
        if self.regressed is not None:
            parts.append("OVER BUDGET" if self.regressed else "within budget")
        return "  ".join(parts)


def parse_budget(text: str) -> Budget:
    """Return the budget that ``text`` writes.

    Raises:
        ConfigError: It is not written like ``p99=+5%``, or its sign allows nothing worse.
    """
    match = _BUDGET.fullmatch(text)
    if match is None or match[1] not in FIGURES:
        raise ConfigError(
            f"{text!r} is no budget; write it like p99=+5%, of: {', '.join(sorted(FIGURES))}"
        )
    allowed = float(match[2]) / (100 if match[3] else 1)
    if allowed * (-1 if match[1] in _HIGHER_IS_BETTER else 1) < 0:
        raise ConfigError(f"{text!r} would demand an improvement; a budget says what may be lost")
    return Budget(figure=match[1], allowed=allowed, is_relative=bool(match[3]))


def diff(before: BenchReport, after: BenchReport, budgets: Sequence[Budget]) -> tuple[Change, ...]:
    """Return every figure that either result holds, for each number of threads of ``before``.

    Raises:
        ConfigError: The results speak of other targets, or have no number of threads in common.
    """
    if before.measured.target != after.measured.target:
        raise ConfigError(
            f"a result for {before.measured.target} cannot be compared with one for "
            f"{after.measured.target}"
        )
    pairs = [(a, b) for a in before.runs for b in after.runs if a.threads == b.threads]
    if not pairs:
        raise ConfigError("the results have no run with the same number of threads")
    allowed = {budget.figure: budget for budget in budgets}
    return tuple(
        change
        for a, b in pairs
        for name in FIGURES
        if (change := _change(name, a, b, allowed.get(name))) is not None
    )


def differing_conditions(before: BenchReport, after: BenchReport) -> tuple[str, ...]:
    """Return, as sentences, what else differs between the results or disturbed one."""
    pairs = {
        "processor": (before.machine.processor, after.machine.processor),
        "runtime": (_without_plan(before), _without_plan(after)),
        "governors": (before.machine.governors, after.machine.governors),
        "power mode": (before.machine.power_mode, after.machine.power_mode),
        "stand-ins": ((before.simulated, before.emulated), (after.simulated, after.emulated)),
    }
    return (
        *(f"the {name} differs" for name, (a, b) in pairs.items() if a != b),
        *(f"{name} was not quiet" for name, one in (("a", before), ("b", after)) if not one.quiet),
        *(
            f"{name} was interrupted"
            for name, one in (("a", before), ("b", after))
            if one.interrupted or one.ended
        ),
    )


def _without_plan(report: BenchReport) -> RuntimeFacts | None:
    """Return what ran the model, without what was built from it: that is another for each model."""
    return report.runtime and msgspec.structs.replace(report.runtime, plan=None)


def _percentile(q: float) -> Callable[[Run], Percentile | None]:
    return lambda run: run.burst.latency.at(q) if run.burst else None


def _cold(name: str) -> Callable[[Run], float | None]:
    def middle(run: Run) -> float | None:
        values = sorted(getattr(run.cold_start, name)) if run.cold_start else []
        return values[(len(values) - 1) // 2] if values else None

    return middle


FIGURES: Final[dict[str, Callable[[Run], Percentile | float | None]]] = {
    **{name: _percentile(q) for name, q in _PERCENTILES.items()},
    "throughput": lambda run: run.burst.throughput_per_s if run.burst else None,
    "paced-p99": lambda run: run.paced.latency.at(0.99) if run.paced else None,
    "misses": lambda run: (
        (run.paced.missed + run.paced.unserved) / run.paced.frames if run.paced else None
    ),
    "sustained": lambda run: run.sustained.ratio if run.sustained else None,
    "load": _cold("load_s"),
    "first": _cold("first_ms"),
    "memory": lambda run: float(run.memory_bytes) if run.memory_bytes else None,
    "accuracy": lambda run: run.accuracy.measured if run.accuracy else None,
}
_HIGHER_IS_BETTER: Final = frozenset({"throughput", "accuracy"})


def _change(name: str, a: Run, b: Run, budget: Budget | None) -> Change | None:
    first, second = FIGURES[name](a), FIGURES[name](b)
    before, after = _value(first), _value(second)
    if before is None and after is None and budget is None:
        return None
    known = before is not None and after is not None
    return Change(
        figure=name,
        threads=a.threads,
        before=before,
        after=after,
        change=after / before - 1 if before and after is not None else None,
        certain=_is_certain(first, second) if known else None,
        regressed=None if budget is None else _is_worse(name, before, after, budget),
    )


def _is_worse(name: str, before: float | None, after: float | None, budget: Budget) -> bool:
    """Return whether the budget is exceeded; what is unknown cannot be shown to be kept."""
    if before is None or after is None:
        return True
    worst = before * (1 + budget.allowed) if budget.is_relative else before + budget.allowed
    # A figure that just meets its budget is within it, whatever binary fractions say.
    slack = 1e-9 * max(abs(before), abs(after))
    return after < worst - slack if name in _HIGHER_IS_BETTER else after > worst + slack


def _value(figure: Percentile | float | None) -> float | None:
    return figure.value_ms if isinstance(figure, Percentile) else figure


def _is_certain(a: Percentile | float | None, b: Percentile | float | None) -> bool | None:
    if not isinstance(a, Percentile) or not isinstance(b, Percentile):
        return None
    if not (math.isfinite(a.half_width) and math.isfinite(b.half_width)):
        return None
    bounds = a.low_ms, a.high_ms, b.low_ms, b.high_ms
    low_a, high_a, low_b, high_b = (bound or 0.0 for bound in bounds)
    return high_a < low_b or high_b < low_a
