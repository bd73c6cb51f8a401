"""The verdict: did INT8 lose more than the limit, and how sure is that?

No I/O here. ``drop.py`` measures the drop and its interval. A verdict needs the whole interval on
one side of the limit, so few samples rarely decide: 32 samples of which none flipped leave room
for a drop of 10 points, and that is *undecided*, not passed, where 0.5 are allowed. 765 such
samples pass.
"""

from __future__ import annotations

import math
from enum import Enum
from statistics import NormalDist
from typing import Final

from typing_extensions import assert_never

from asdic.contract.errors import ConfigError
from asdic.quantization.drop import CONFIDENCE, Drop, flips_interval

MORE_SAMPLES_LIMIT: Final = 100_000
INT8_SHARE_AT_LEAST: Final = 0.5
"""The share of the multiply-accumulates below which a model is not called quantized."""


class Verdict(str, Enum):
    """What the gate says.

    ``undecided``: the interval of the drop holds the limit. ``not-quantized``: so little of the
    model is INT8 that its accuracy is the float model's.
    """

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    UNDECIDED = "undecided"
    FAIL = "fail"
    NOT_QUANTIZED = "not-quantized"


def verdict_of(drop: Drop, *, limit: float, int8_share: float = 1.0) -> Verdict:
    """Return the verdict: the whole interval must lie on one side of ``limit``.

    ``fail`` where even the lower bound is beyond it. Otherwise ``not-quantized`` where less than
    ``INT8_SHARE_AT_LEAST`` of the multiply-accumulates are INT8, ``pass`` where even the upper
    bound is within the limit, and ``undecided``.

    Args:
        drop: The drop and its interval.
        limit: Points that may be lost.
        int8_share: The share of the multiply-accumulates in INT8, 0 to 1.
    """
    if drop.low > limit:
        return Verdict.FAIL
    if int8_share < INT8_SHARE_AT_LEAST:
        return Verdict.NOT_QUANTIZED
    return Verdict.PASS if drop.high <= limit else Verdict.UNDECIDED


def fewest_to_pass(limit: float) -> int:
    """Return with how many samples, right or wrong as a whole, a model can pass that flips none.

    With fewer, no recipe passes, however good: 765 for 0.5 points, 381 for one. It is ``n`` in
    ``100 z^2 / (n + z^2) = limit``; see ``drop.flips_interval``.

    Raises:
        ConfigError: The limit is not above 0.
    """
    if limit <= 0.0:
        raise ConfigError(f"a drop of {limit:g} points cannot be shown by samples; allow more")
    square = NormalDist().inv_cdf((1.0 + CONFIDENCE) / 2) ** 2
    return max(1, math.ceil(square * (100.0 / limit - 1.0)))


def more_samples_needed(drop: Drop, *, limit: float) -> int:
    """Return about how many samples more would decide, if the drop stays where it is.

    An interval shrinks with the square root of the samples; that of flips is computed for more
    samples with as many flips among them. At most ``MORE_SAMPLES_LIMIT``.
    """
    if _decided(drop.low, drop.high, limit):
        return 0
    if drop.flips is not None:
        return _more_flips_needed(drop.flips, drop.samples, limit)
    half_width = drop.high - drop.mean if drop.mean <= limit else drop.mean - drop.low
    distance = abs(limit - drop.mean)
    if distance <= half_width / math.sqrt(MORE_SAMPLES_LIMIT / drop.samples + 1):
        return MORE_SAMPLES_LIMIT
    return max(1, math.ceil(drop.samples * ((half_width / distance) ** 2 - 1)))


def describe_verdict(
    drop: Drop, *, limit: float, what: str = "the drop", int8_share: float = 1.0
) -> str:
    """Return the verdict as a clause for a person; ``what`` names the loss that was measured."""
    verdict = verdict_of(drop, limit=limit, int8_share=int8_share)
    match verdict:
        case Verdict.PASS:
            return f"pass: {what} is at most {drop.high:.2f} points, {limit:g} are allowed"
        case Verdict.FAIL:
            return f"fail: {what} is at least {drop.low:.2f} points, {limit:g} are allowed"
        case Verdict.NOT_QUANTIZED:
            return (
                f"not quantized: {_percent(int8_share)} % of the multiply-accumulates are INT8, "
                f"at least {100 * INT8_SHARE_AT_LEAST:g} % must be"
            )
        case Verdict.UNDECIDED:
            more = more_samples_needed(drop, limit=limit)
            about = f"more than {more}" if more >= MORE_SAMPLES_LIMIT else f"about {more}"
            return (
                f"undecided: {what} lies between {drop.low:.2f} and {drop.high:.2f} points, "
                f"{limit:g} are allowed; {about} more samples would decide"
            )
        case _:
            assert_never(verdict)


def _percent(share: float) -> str:
    """Return a share in percent, rounded down: what is below the least share must look so."""
    return f"{math.floor(1000 * share) / 10:g}"


def _decided(low: float, high: float, limit: float) -> bool:
    return high <= limit or low > limit


def _more_flips_needed(flips: tuple[int, int], samples: int, limit: float) -> int:
    """Return how many more samples, with their share of flips, decide: found by bisection."""

    def decides(more: int) -> bool:
        growth = (samples + more) / samples
        bounds = flips_interval(flips[0] * growth, flips[1] * growth, samples + more)
        return _decided(*bounds, limit)

    if not decides(MORE_SAMPLES_LIMIT):
        return MORE_SAMPLES_LIMIT
    too_few, enough = 0, MORE_SAMPLES_LIMIT
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if decides(middle) else (middle, enough)
    return enough
