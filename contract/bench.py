"""A benchmark's result, ``asdic-bench/1``: written on a box, kept by the fleet, read by anyone.

Published as a JSON schema in ``docs/bench.schema.json``; what each figure means is in
``docs/bench.md``. A figure that was not measured is null, never zero. Times are in the units of
their names. A result from a device travels in an envelope signed by the device's key
(``trust.sign_envelope`` with ``BENCH_TYPE``).
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any, Final

import msgspec

from asdic.contract.errors import ConfigError
from asdic.contract.files import parse_json
from asdic.contract.messages import Refusal, RuntimeFacts
from asdic.contract.variant import FileRef

BENCH_FORMAT: Final = "asdic-bench/1"
BENCH_TYPE: Final = "application/vnd.asdic.bench.v1+json"
BENCH_ORDER_TYPE: Final = "application/vnd.asdic.bench-order.v1+json"
BENCH_REFUSAL_TYPE: Final = "application/vnd.asdic.bench-refusal.v1+json"
# Signed and in base64 it is a third larger, and still fits into one MQTT message of 1 MiB.
BENCH_LIMIT_BYTES: Final = 640 << 10
BENCH_ENVELOPE_LIMIT_BYTES: Final = 900 << 10


class ThrottlingVerdict(str, Enum):
    """Whether the machine slowed itself down; ``none`` only where a sensor would have told."""

    NONE = "none"
    SUSPECTED = "suspected"
    CONFIRMED = "confirmed"
    UNKNOWN = "unknown"


class PackedSamples(msgspec.Struct, frozen=True, kw_only=True):
    """Latencies in the order of measurement: uint32, little-endian, zlib, base64.

    Each is in units of ``unit_ns`` nanoseconds. Every ``every``-th inference was kept; the
    percentiles of a result are those of the kept samples, exactly.
    """

    count: int
    unit_ns: int
    every: int
    data: str


class Percentile(msgspec.Struct, frozen=True, kw_only=True):
    """A percentile in ms, or null with the number of samples that it takes.

    ``q`` is the share, 0.99 for p99. ``low_ms`` and ``high_ms`` are the 95 % interval; they are
    null where the samples cannot bound it on both sides. ``effective`` is how many independent
    samples these are worth; ``needed`` is how many samples like these it takes for a value (299
    independent ones for p99, 2,995 for p99.9). ``coverage`` is the exact binomial probability
    that the interval holds the truth for so many independent samples.
    """

    q: float
    value_ms: float | None
    low_ms: float | None
    high_ms: float | None
    effective: float
    needed: int
    coverage: float | None

    @property
    def half_width(self) -> float:
        """Half of the interval over the value; infinite where there is none."""
        if self.value_ms is None or self.low_ms is None or self.high_ms is None:
            return math.inf
        return (self.high_ms - self.low_ms) / 2 / self.value_ms


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """p50, p90, p99 and p99.9 of the samples, and the samples."""

    percentiles: tuple[Percentile, ...]
    samples: PackedSamples

    def at(self, q: float) -> Percentile:
        """Return the percentile ``q``.

        Raises:
            ConfigError: The result does not hold it.
        """
        for one in self.percentiles:
            if one.q == q:
                return one
        raise ConfigError(f"the result holds no percentile {q:g}")


class Build(msgspec.Struct, frozen=True, kw_only=True):
    """How a runtime came by what it runs: compiled just now, in ``seconds``, or from its cache.

    ``seconds`` is null where it came from the cache.
    """

    from_cache: bool
    seconds: float | None


class ColdStart(msgspec.Struct, frozen=True, kw_only=True):
    """What fresh processes took, one figure a process, in the order in which they ran.

    ``load_s`` is opening the variant: digests, the runtime's import, reading and building or a
    cached build. ``first_ms`` is the first inference. ``process_s`` is from the start of the
    process to its first answer. ``from_disk`` says that the model's files were dropped from the
    operating system's cache before each. ``builds`` is how much of each load was building, or
    that the build came from the runtime's cache; null where a runtime builds nothing (LiteRT,
    ONNX Runtime).
    """

    load_s: tuple[float, ...]
    first_ms: tuple[float, ...]
    process_s: tuple[float, ...]
    memory_bytes: tuple[int, ...]
    from_disk: bool
    builds: tuple[Build, ...] | None = None


class WarmUp(msgspec.Struct, frozen=True, kw_only=True):
    """How many inferences were discarded, and whether the latency was steady then.

    Steady means: the medians of the last five windows of ``window`` inferences lie within 2 %,
    and show no trend (Mann-Kendall).
    """

    discarded: int
    window: int
    steady: bool


class Burst(msgspec.Struct, frozen=True, kw_only=True):
    """One inference after the other, as fast as it goes.

    ``enough`` says that it ended because the intervals were narrow (p50 within 2 %, p99 within
    5 %), not because the time was up. ``throughput_per_s`` is inferences over time, measured.
    """

    latency: Latency
    enough: bool
    seconds: float
    throughput_per_s: float


class Paced(msgspec.Struct, frozen=True, kw_only=True):
    """Frames at a steady rate; latency counts from the time at which a frame was due.

    So a slow frame also makes its successors late, as in life. ``missed`` frames were answered
    after the deadline, ``unserved`` ones not at all before the end. ``miss_bound`` is the upper
    95 % bound (exact binomial) of the share of frames that miss.
    """

    fps: float
    deadline_ms: float
    latency: Latency
    frames: int
    missed: int
    unserved: int
    miss_bound: float


class Sustained(msgspec.Struct, frozen=True, kw_only=True):
    """A long run: does the machine get slower as it gets warm?

    ``ratio`` is the median inference of the last ``window_s`` seconds over that of the first: a
    minute, or a third of a run of less than three. With a frame rate this is the paced run, and
    its latencies are there; an inference alone is compared, not the waiting before it.
    """

    seconds: float
    fps: float | None
    window_s: float
    first_ms: float
    last_ms: float
    ratio: float
    latency: Latency | None


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """The golden check, in the process and on the runner that was measured."""

    metric: str
    measured: float
    limit: float
    samples: int
    outputs_checked: int
    worst_difference: float
    passed: bool
    reason: str


class Energy(msgspec.Struct, frozen=True, kw_only=True):
    """Energy of one phase, by one sensor: what it covers (``scope``) and how often it was read.

    It is all that the scope took, not only the model's share.
    """

    phase: str
    sensor: str
    scope: str
    rate_hz: float
    seconds: float
    joules: float
    joules_per_inference: float | None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """All phases with one number of threads; a phase that was not run is null.

    The phase that was stopped in its middle, if one was, holds what it had measured so far.

    ``memory_bytes`` is the most that the measuring process had resident so far.
    """

    threads: int
    cold_start: ColdStart | None = None
    load_s: float | None = None
    warm_up: WarmUp | None = None
    burst: Burst | None = None
    paced: Paced | None = None
    sustained: Sustained | None = None
    accuracy: Accuracy | None = None
    memory_bytes: int | None = None
    energy: tuple[Energy, ...] = ()


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured: the variant's name, target and files, and its release if it has one."""

    model: str
    target: str
    task: str
    files: tuple[FileRef, ...]
    version: str | None = None
    manifest: str | None = None


class ComparisonVerdict(str, Enum):
    """What can be said of one variant's speed beside another's."""

    FASTER = "faster"
    SLOWER = "slower"
    NO_DIFFERENCE = "no difference"
    NOT_ENOUGH_DATA = "not enough data"


class Restart(msgspec.Struct, frozen=True, kw_only=True):
    """One fresh process that ran both variants by turns, in the order a b b a.

    ``first`` was opened first, ``a`` or ``b``. Sample i of one belongs to sample i of the other;
    two of each make a turn.
    """

    first: str
    ratio: float
    a: PackedSamples
    b: PackedSamples


class Against(msgspec.Struct, frozen=True, kw_only=True):
    """The measured variant (a) beside another (b): ``ratio`` is time of a over time of b.

    ``low`` and ``high`` are the ratio's 95 % interval by a hierarchical bootstrap over restarts
    and turns. ``runtime`` is what ran the other. ``no difference`` means: smaller than ``margin``
    (0.03 is 3 %).
    """

    other: Measured
    runtime: RuntimeFacts | None
    threads: int
    verdict: ComparisonVerdict
    reason: str
    margin: float
    p50_a_ms: float | None
    p50_b_ms: float | None
    ratio: float | None
    low: float | None
    high: float | None
    restarts: tuple[Restart, ...]


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on, and in which state it was before the first phase."""

    architecture: str
    processor: str
    kernel: str
    processors: int
    usable_processors: int
    processor_quota: float | None
    memory_bytes: int | None
    memory_limit_bytes: int | None
    governors: tuple[str, ...]
    turbo: bool | None
    power_mode: str | None
    load: float | None
    pressure_percent: float | None


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What the sensors said at one moment, by name; one that did not answer is left out."""

    at_s: float
    phase: str
    values: dict[str, float]


class Telemetry(msgspec.Struct, frozen=True, kw_only=True):
    """The sensors that were there, those that vanished in between, and what they said."""

    sensors: tuple[str, ...]
    vanished: tuple[str, ...]
    readings: tuple[Reading, ...]


class Throttling(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict, and the sentences that it rests on."""

    verdict: ThrottlingVerdict
    evidence: tuple[str, ...]


class BenchOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A manager asks a device to measure its current release, as ``asdic-agent bench`` would.

    Signed with the director's targets key, retained on ``down/bench``. The device answers on
    ``up/bench`` with a ``BenchReport`` that names the order, or with a ``BenchRefusal`` where it
    could not be run, signed with its own key, and again after each connection
    until the manager withdraws the order, having stored the answer. An order that is not newer
    than the last one (``issued_s``, the manager's clock) is not run: nobody can play it again.
    """

    id: str
    device: str
    issued_s: float
    seconds: float = 10.0
    minutes: float = 0.0
    fps: float | None = None


class BenchRefusal(msgspec.Struct, frozen=True, kw_only=True):
    """A device's answer to an order that it could not run; ``refused_s`` is the device's clock."""

    device: str
    order: str
    refused_s: float
    refusal: Refusal


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """A whole result.

    ``emulated``: this processor is not of the target's architecture, or is itself emulated.
    ``simulated``: another runtime stood in. In both cases the times say nothing about the target.
    ``order`` is the manager's order that asked for it. ``quiet`` is false where something
    disturbed; ``disturbances`` says what. ``interrupted`` is the phase in which a person stopped
    it, ``ended`` why a phase stopped by itself (the frame source, for instance); the phases
    before are whole. ``clock_steps_s`` are jumps of the time of
    day during the run; latencies are measured on a clock that does not jump.
    """

    format: str = BENCH_FORMAT
    asdic_version: str
    started_s: float
    device: str | None
    order: str | None = None
    measured: Measured
    machine: Machine
    runtime: RuntimeFacts | None
    emulated: bool
    simulated: bool
    quiet: bool
    disturbances: tuple[str, ...]
    runs: tuple[Run, ...]
    telemetry: Telemetry
    throttling: Throttling
    clock_steps_s: tuple[float, ...]
    against: Against | None = None
    interrupted: str | None = None
    ended: str | None = None


def parse_bench(data: bytes, *, what: str = "the benchmark result") -> BenchReport:
    """Return the result in ``data``.

    Raises:
        ConfigError: It is too large, damaged, or of a format that this asdic does not know.
    """
    if len(data) > BENCH_LIMIT_BYTES:
        raise ConfigError(f"{what} has {len(data)} bytes, at most {BENCH_LIMIT_BYTES} are read")
    report = parse_json(data, BenchReport, what=what)
    if report.format != BENCH_FORMAT:
        raise ConfigError(f"{what} has format {report.format!r}, this asdic reads {BENCH_FORMAT!r}")
    return report


def bench_schema() -> dict[str, Any]:
    """Return the JSON schema of a result."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:asdic:bench:1",
        "title": BENCH_FORMAT,
        **msgspec.json.schema(BenchReport),
    }
