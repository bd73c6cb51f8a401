"""Did the machine slow itself down? A verdict, and the sentences that it rests on.

``none`` is only said where a sensor that would have told stayed silent the whole time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from asdic.contract.bench import Reading, Sustained, Throttling, ThrottlingVerdict
from asdic.device.bench.sensors import PI_THROTTLED

BUSY_PHASES: Final = frozenset({"burst", "sustained"})
SLOWER: Final = 1.10
LOWER: Final = 0.90
WINDOW_S: Final = 10.0
_COUNTERS: Final = frozenset({"core_throttled", "package_throttled"})
_LIMITS: Final = frozenset({"cpu_limit_mhz", "device_limit_mhz"})
_CLOCKS: Final = frozenset({"cpu_mhz", "device_mhz"})
_COOLERS: Final = ("processor", "cpu", "gpu", "devfreq")
_PI_BITS: Final = {
    0: "under-voltage",
    1: "a capped frequency",
    2: "throttling",
    3: "the soft temperature limit",
}


def judge_throttling(
    readings: Sequence[Reading], long_runs: Sequence[Sustained] = ()
) -> Throttling:
    """Return the verdict.

    Args:
        readings: In the order of time.
        long_runs: Counted where they compare windows of at least ``WINDOW_S``.
    """
    confirmed = (*_counted(readings), *_cooled(readings), *_pi(readings))
    suspected = (*_capped(readings), *_slowed(long_runs), *_fell(readings))
    if confirmed:
        return Throttling(verdict=ThrottlingVerdict.CONFIRMED, evidence=(*confirmed, *suspected))
    if suspected:
        return Throttling(verdict=ThrottlingVerdict.SUSPECTED, evidence=suspected)
    silent = _telling(readings)
    if silent:
        return Throttling(
            verdict=ThrottlingVerdict.NONE, evidence=(f"nothing from {', '.join(silent)}",)
        )
    return Throttling(
        verdict=ThrottlingVerdict.UNKNOWN, evidence=("no sensor here could have told",)
    )


def _telling(readings: Sequence[Reading]) -> tuple[str, ...]:
    """Return the sensors that tell of throttling and answered in every reading."""
    if len(readings) < 2:
        return ()
    always = set.intersection(*(set(reading.values) for reading in readings))
    return tuple(
        sorted(
            name
            for name in always
            if _kind(name) in _COUNTERS or name == PI_THROTTLED or _is_cooler(name)
        )
    )


def _counted(readings: Sequence[Reading]) -> Iterator[str]:
    for name, values in _series(readings):
        if _kind(name) in _COUNTERS and values[-1] > values[0]:
            yield f"{name} rose by {values[-1] - values[0]:.0f}"


def _cooled(readings: Sequence[Reading]) -> Iterator[str]:
    for name, values in _series(readings):
        if _is_cooler(name) and max(values) > 0:
            yield f"the kernel cooled: {name} reached {max(values):.0f}"


def _pi(readings: Sequence[Reading]) -> Iterator[str]:
    """Bits 0 to 3 say what is so now, 16 to 19 what was so since the machine started."""
    seen = [int(values) for name, series in _series(readings) if name == PI_THROTTLED
            for values in series]  # fmt: skip
    if not seen:
        return
    for bit, what in _PI_BITS.items():
        is_so = any(value >> bit & 1 for value in seen)
        became_so = seen[-1] >> (bit + 16) & 1 and not seen[0] >> (bit + 16) & 1
        if is_so or became_so:
            yield f"the Raspberry Pi's firmware reports {what}"


def _capped(readings: Sequence[Reading]) -> Iterator[str]:
    for name, values in _series(readings):
        if _kind(name) in _LIMITS and min(values) < LOWER * values[0]:
            yield f"{name} was lowered from {values[0]:.0f} to {min(values):.0f}"


def _slowed(long_runs: Sequence[Sustained]) -> Iterator[str]:
    for run in long_runs:
        if run.window_s >= WINDOW_S and run.ratio > SLOWER:
            yield f"inferences took {run.ratio:.2f} times as long at the end of the sustained run"


def _fell(readings: Sequence[Reading]) -> Iterator[str]:
    busy = [reading for reading in readings if reading.phase in BUSY_PHASES]
    for name, values in _series(busy):
        if _kind(name) in _CLOCKS and values[-1] < LOWER * max(values):
            yield f"{name} fell from {max(values):.0f} to {values[-1]:.0f} under load"


def _series(readings: Sequence[Reading]) -> Iterator[tuple[str, list[float]]]:
    names = dict.fromkeys(name for reading in readings for name in reading.values)
    for name in names:
        yield name, [reading.values[name] for reading in readings if name in reading.values]


def _kind(name: str) -> str:
    return name.partition(":")[0]


def _is_cooler(name: str) -> bool:
    kind, _, owner = name.partition(":")
    return kind == "cooling_state" and any(word in owner.lower() for word in _COOLERS)
