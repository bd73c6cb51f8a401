"""From results of the maker's own boxes to the limits that a release carries for its target.

The rule, for the variant whose model was measured:

- ``latency_ms`` is the slowest box's upper end of the 95 % interval of p50, times 1 + headroom;
- ``load_s`` is the slowest cold start's load, times 1 + headroom, at least one second;
- ``memory_bytes`` is twice the largest process, times 1 + headroom, in whole MiB: the device's
  gate opens the current model beside the candidate.

Rounded up to two digits. A result counts only if a trusted device signed it, nothing stood in for
the target, it came to its end, the golden check passed, and the machine neither throttled nor was
disturbed; ``allow`` waives one of these by its name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.bench import BenchReport, Run, ThrottlingVerdict
from asdic.contract.errors import ConfigError, ReleaseError
from asdic.contract.files import write_file
from asdic.contract.variant import VARIANT_FILE, Limits, Variant, encode_variant, read_variant
from asdic.device.bench.signing import SignedResult

HEADROOM: Final = 0.25
LOAD_AT_LEAST_S: Final = 1.0
MIB: Final = 1 << 20
WAIVABLE: Final = ("unsigned", "noisy", "throttled", "stand-in", "no-golden")
_SLOWED: Final = frozenset({ThrottlingVerdict.SUSPECTED, ThrottlingVerdict.CONFIRMED})


def qualify(
    folder: Path,
    results: Sequence[tuple[str, SignedResult]],
    *,
    headroom: float = HEADROOM,
    allow: Sequence[str] = (),
) -> Limits:
    """Write the limits that ``results`` give into the variant in ``folder``, and return them.

    Running it again with the same results changes nothing. Other limits (``slowdown``) stay.

    Args:
        folder: The variant; only its ``variant.json`` is replaced, in one step.
        results: Each with the name to call it by in an error.
        headroom: 0.25 allows a quarter more than was measured.
        allow: Names of ``WAIVABLE``.

    Raises:
        ReleaseError: A result may not count; the message says why, and what would waive it.
        ConfigError: There are no results, or no variant.
    """
    if not results:
        raise ConfigError("qualifying takes at least one result")
    if not 0 <= headroom <= 10:
        raise ConfigError(f"headroom is from 0 to 10, not {headroom:g}")
    variant = read_variant(folder)
    for name, result in results:
        _check(name, result, variant, frozenset(allow))
    limits = limits_from(
        [result.report for _, result in results], variant.limits, headroom=headroom
    )
    data = encode_variant(msgspec.structs.replace(variant, limits=limits))
    if data != encode_variant(variant):
        write_file(folder / VARIANT_FILE, data)
    return limits


def limits_from(reports: Sequence[BenchReport], limits: Limits, *, headroom: float) -> Limits:
    """Return ``limits`` with those that the rule of this module gives.

    Raises:
        ReleaseError: A figure that the rule needs is in none of the reports.
    """
    runs = [run for report in reports for run in report.runs]
    more = 1 + headroom
    return msgspec.structs.replace(
        limits,
        latency_ms=_rounded_up(
            _worst("a latency with its interval", map(_latency_ms, runs)) * more
        ),
        load_s=max(_rounded_up(_worst("a load time", map(_load_s, runs)) * more), LOAD_AT_LEAST_S),
        memory_bytes=math.ceil(_worst("memory", map(_memory_bytes, runs)) * 2 * more / MIB) * MIB,
    )


def _check(name: str, result: SignedResult, variant: Variant, allow: frozenset[str]) -> None:
    for waiver, reason in _objections(result, variant):
        if waiver is None:
            raise ReleaseError(f"{name} does not count: {reason}")
        if waiver not in allow:
            raise ReleaseError(f"{name} does not count: {reason} (--allow {waiver} waives this)")


def _objections(result: SignedResult, variant: Variant) -> Iterator[tuple[str | None, str]]:
    report = result.report
    model = {(file.name, file.digest) for file in variant.files}
    if report.measured.target != variant.target:
        yield None, f"it is for {report.measured.target}, the variant for {variant.target}"
    if {(file.name, file.digest) for file in report.measured.files} != model:
        yield None, "another model was measured, its files have other digests"
    stopped = report.interrupted or report.ended
    if stopped or not report.runs:
        yield None, f"it is incomplete ({stopped or 'no phase was run'})"
    if result.signer is None:
        keys = ", ".join(result.claimed_keys)
        yield "unsigned", f"signed by {keys}, which is not trusted" if keys else "it is not signed"
    if report.emulated or report.simulated:
        yield "stand-in", "something stood in for the target, its times are not the target's"
    if report.throttling.verdict in _SLOWED:
        yield "throttled", f"throttling is {report.throttling.verdict.value}"
    if not report.quiet:
        yield "noisy", f"the machine was not quiet: {'; '.join(report.disturbances)}"
    checks = [run.accuracy for run in report.runs]
    if any(check is not None and not check.passed for check in checks):
        yield None, "the golden check failed"
    if variant.golden is not None and not all(checks):
        yield "no-golden", "the golden check was not run"


def _latency_ms(run: Run) -> float | None:
    return run.burst.latency.at(0.5).high_ms if run.burst else None


def _load_s(run: Run) -> float | None:
    return max((*(run.cold_start.load_s if run.cold_start else ()), run.load_s or 0.0)) or None


def _memory_bytes(run: Run) -> float | None:
    cold = run.cold_start.memory_bytes if run.cold_start else ()
    return float(max((*cold, run.memory_bytes or 0))) or None


def _worst(what: str, values: Iterator[float | None]) -> float:
    known = [value for value in values if value is not None]
    if not known:
        raise ReleaseError(f"the results hold no {what}; measure again")
    return max(known)


def _rounded_up(value: float) -> float:
    """Return ``value`` rounded up to two significant digits."""
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return round(math.ceil(value / step - 1e-9) * step, 12)
