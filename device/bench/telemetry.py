"""What the machine did while it was measured: sensors read about once a second, in between.

No thread and no daemon: the phases call ``look`` outside of what they time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from asdic.contract.bench import Energy, Reading, Telemetry
from asdic.device.bench.clock import Clock, StepWatch
from asdic.device.bench.sensors import ENERGY, POWER, Sensor

INTERVAL_NS: Final = 1_000_000_000
READINGS_LIMIT: Final = 120


class Recorder:
    """Reads the sensors, keeps up to ``READINGS_LIMIT`` readings, and adds up energy.

    Attributes:
        phase: What is being measured; readings and energy belong to it.
        steps_s: Jumps of the time of day.
    """

    def __init__(self, sensors: Sequence[Sensor], clock: Clock) -> None:
        self.phase = "preflight"
        self._sensors = tuple(sensors)
        self._clock = clock
        self._watch = StepWatch(clock)
        self._start_ns = clock.now_ns()
        self._next_ns = self._start_ns
        self._kept: list[Reading] = []
        self._stride = 1
        self._seen = 0
        self._vanished: dict[str, None] = {}
        self._meters: dict[tuple[str, str], _Meter] = {}

    @property
    def readings(self) -> tuple[Reading, ...]:
        """What was kept so far."""
        return tuple(self._kept)

    @property
    def steps_s(self) -> tuple[float, ...]:
        """By how many seconds the time of day was set, each time."""
        return tuple(self._watch.steps_s)

    @property
    def telemetry(self) -> Telemetry:
        """Everything, for the result."""
        return Telemetry(
            sensors=tuple(sensor.name for sensor in self._sensors),
            vanished=tuple(self._vanished),
            readings=self.readings,
        )

    def enter(self, phase: str) -> None:
        """Say what is measured from now on; the sensors are read at both sides of the border."""
        self.read()
        self.phase = phase
        self.read()

    def forget_energy(self) -> None:
        """Start new sums: the phases that follow are those of another run."""
        self._meters.clear()

    def look(self) -> None:
        """Read the sensors if the last time is a second ago."""
        if self._clock.now_ns() >= self._next_ns:
            self.read()

    def read(self) -> None:
        """Read all sensors now."""
        now_ns = self._clock.now_ns()
        self._next_ns = now_ns + INTERVAL_NS
        self._watch.look()
        values = {sensor.name: sensor.read() for sensor in self._sensors}
        self._vanished |= {name: None for name, value in values.items() if value is None}
        at_s = (now_ns - self._start_ns) / 1e9
        there = {name: value for name, value in values.items() if value is not None}
        for name, value in there.items():
            if name.partition(":")[0] in {ENERGY, POWER}:
                self._meters.setdefault((self.phase, name), _Meter(name)).add(at_s, value)
        if self._sensors:
            self._keep(Reading(at_s=at_s, phase=self.phase, values=there))

    def energy(self, phase: str, inferences: int) -> Iterator[Energy]:
        """Yield what each energy sensor says about ``phase``, if it was read often enough."""
        for (measured, name), meter in self._meters.items():
            if measured == phase and meter.seconds > 0 and name not in self._vanished:
                yield Energy(
                    phase=phase,
                    sensor=name,
                    scope=name.partition(".")[2],
                    rate_hz=meter.intervals / meter.seconds,
                    seconds=meter.seconds,
                    joules=meter.joules,
                    joules_per_inference=meter.joules / inferences if inferences else None,
                )

    def _keep(self, reading: Reading) -> None:
        if self._seen % self._stride == 0:
            self._kept.append(reading)
        self._seen += 1
        if len(self._kept) > READINGS_LIMIT:
            del self._kept[1::2]
            self._stride *= 2


class _Meter:
    """Adds up energy: a counter's differences, or a power over time (trapezoids)."""

    def __init__(self, name: str) -> None:
        self._counts = name.startswith(ENERGY)
        self._last: tuple[float, float] | None = None
        self.joules = 0.0
        self.seconds = 0.0
        self.intervals = 0

    def add(self, at_s: float, value: float) -> None:
        if self._last is not None:
            then_s, before = self._last
            passed_s = at_s - then_s
            added = value - before if self._counts else (value + before) / 2 * passed_s
            # A counter that went back has overflowed; that interval is left out, time and all.
            if added >= 0.0:
                self.joules += added
                self.seconds += passed_s
                self.intervals += 1
        self._last = (at_s, value)
