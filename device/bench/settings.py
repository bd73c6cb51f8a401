"""What a benchmark is asked to do, and on whose behalf."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from asdic.contract.errors import ConfigError
from asdic.device.bench.compare import MARGIN, RESTARTS


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is to be measured, and for how long.

    Attributes:
        seconds: The longest that the burst takes, and the paced run without ``minutes``; a
            comparison takes this long in all.
        minutes: How long the sustained run takes; it is paced if there is a frame rate.
        fps: Frame rate of the paced run; None leaves it out.
        deadline_ms: When a paced frame is late; None means the time between two frames.
        threads: One run for each of these numbers; empty means one run with all usable ones.
        cold_starts: How many fresh processes.
        simulate: Use the runtime that stands in for the target's.
        any_machine: Measure a variant of another architecture too.
        against: Compare with this variant, instead of the phases.
        restarts: Fresh processes of a comparison.
        margin: A smaller difference is none.
    """

    seconds: float = 10.0
    minutes: float = 0.0
    fps: float | None = None
    deadline_ms: float | None = None
    threads: tuple[int, ...] = ()
    cold_starts: int = 5
    simulate: bool = False
    any_machine: bool = False
    against: Path | None = None
    restarts: int = RESTARTS
    margin: float = MARGIN

    def __post_init__(self) -> None:
        ranges = (
            ("the burst takes", self.seconds, 1e-3, 86_400.0, "seconds"),
            ("the sustained run takes", self.minutes, 0.0, 1_440.0, "minutes"),
            ("the paced run takes", self.fps, 1e-3, 10_000.0, "frames a second"),
            ("the deadline is", self.deadline_ms, 1e-3, 60_000.0, "ms"),
            ("the fewest threads are", min(self.threads, default=None), 1, 1_024, ""),
            ("the most threads are", max(self.threads, default=None), 1, 1_024, ""),
            ("the cold starts are", self.cold_starts, 0, 100, ""),
            ("the margin is", self.margin, 1e-4, 0.99, "of the time"),
        )
        for what, value, low, high, unit in ranges:
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{what} {low:g} to {high:g} {unit}".rstrip() + f", not {value}")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Which device, release and order a result speaks of; nothing on a server."""

    device: str | None = None
    version: str | None = None
    manifest: str | None = None
    order: str | None = None
