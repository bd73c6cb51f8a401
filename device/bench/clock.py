"""The clocks of a benchmark. Latency is measured on the one that never steps."""

from __future__ import annotations

import time
from typing import Final, Protocol

STEP_NS: Final = 100_000_000


class Clock(Protocol):
    """Time for a benchmark; a test brings its own."""

    def now_ns(self) -> int:
        """Return a time that only goes forward, at a steady pace."""

    def wall_ns(self) -> int:
        """Return the time of day, which somebody may set."""

    def sleep_until(self, when_ns: int) -> None:
        """Return when ``now_ns`` has reached ``when_ns``, at once if it has."""


class SystemClock:
    """This machine's clocks."""

    def now_ns(self) -> int:
        """Return CLOCK_MONOTONIC."""
        return time.perf_counter_ns()

    def wall_ns(self) -> int:
        """Return CLOCK_REALTIME."""
        return time.time_ns()

    def sleep_until(self, when_ns: int) -> None:
        """Sleep; the kernel's wake-up delay is part of what a paced program sees."""
        while (left := when_ns - time.perf_counter_ns()) > 0:
            time.sleep(left / 1e9)


class StepWatch:
    """Notices that the time of day was set, by comparing it with the steady clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_ns = clock.wall_ns() - clock.now_ns()
        self.steps_s: list[float] = []

    def look(self) -> None:
        """Note by how many seconds the time of day stepped since the last look, if it did."""
        offset_ns = self._clock.wall_ns() - self._clock.now_ns()
        if abs(offset_ns - self._offset_ns) > STEP_NS:
            self.steps_s.append((offset_ns - self._offset_ns) / 1e9)
        self._offset_ns = offset_ns
