"""A whole benchmark of one variant: the phases in their order, and one result for all of them.

Ctrl-C, or a frame source that ends, stops the benchmark; what was measured until then is the
result, and it says so.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from asdic.contract.bench import Accuracy, Against, BenchReport, Measured, Run
from asdic.contract.errors import ConfigError, IncompatibleTargetError
from asdic.contract.messages import RuntimeFacts
from asdic.contract.target import target_named
from asdic.contract.variant import Variant, read_variant
from asdic.device.bench.bench import peak_memory_bytes
from asdic.device.bench.clock import Clock, SystemClock
from asdic.device.bench.cold import ColdPhase
from asdic.device.bench.compare import MARGIN, RESTARTS, ComparePhase
from asdic.device.bench.frames import FramesEndedError, FrameSource, frames_for
from asdic.device.bench.phases import BurstPhase, PacedPhase, Stage, SustainedPhase, warm_up
from asdic.device.bench.preflight import MACHINES, disturbances, inspect_machine, is_emulated
from asdic.device.bench.sensors import find_sensors
from asdic.device.bench.telemetry import Recorder
from asdic.device.bench.throttling import judge_throttling
from asdic.device.runner.engine import usable_threads
from asdic.device.runner.golden import check_golden
from asdic.device.runner.runner import Runner

WARM_UP_LIMIT_S: Final = 20.0
WARM_UP_SHARE: Final = 0.5


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


def run_benchmark(
    folder: Path,
    settings: Settings,
    *,
    frames: FrameSource | None = None,
    origin: Origin = Origin(),
    clock: Clock | None = None,
    root: Path = Path("/"),
    on_phase: Callable[[str], None] = lambda _phase: None,
) -> BenchReport:
    """Return the result of all phases, or of those that were reached.

    Args:
        folder: A variant.
        settings: What is to be measured.
        frames: What is inferred; None takes the golden inputs, or noise where there are none.
        origin: Goes into the result.
        clock: A test's own.
        root: Where the machine's files lie; a test's own.
        on_phase: Is told the name of each phase as it begins.

    Raises:
        ConfigError: There is no variant, or no runtime for it.
        DigestError: A file, the golden set for instance, is missing or damaged.
        IncompatibleTargetError: The variant is for another architecture.
    """
    session = _Session(
        folder=folder,
        settings=settings,
        frames=frames,
        origin=origin,
        clock=clock or SystemClock(),
        root=root,
        on_phase=on_phase,
    )
    try:
        session.measure()
    except KeyboardInterrupt:
        session.interrupted = session.recorder.phase
    except FramesEndedError as error:
        session.ended = f"in the phase {session.recorder.phase}: {error}"
    return session.report()


@dataclass(kw_only=True)
class _Session:
    folder: Path
    settings: Settings
    frames: FrameSource | None
    origin: Origin
    clock: Clock
    root: Path
    on_phase: Callable[[str], None]
    interrupted: str | None = None
    ended: str | None = None
    runs: list[Run] = field(default_factory=list)
    runtime: RuntimeFacts | None = None
    against: Against | None = None

    def __post_init__(self) -> None:
        self.started_s = time.time()
        self.machine = inspect_machine(self.root)
        self.variant = self._read(self.folder)
        self.recorder = Recorder(find_sensors(self.root), self.clock)

    def measure(self) -> None:
        self._enter("preflight")
        if self.settings.against is not None:
            self._compare(self.settings.against)
            return
        for threads in self.settings.threads or (usable_threads(),):
            self.runs.append(Run(threads=threads))
            self.recorder.forget_energy()
            self._cold_start(threads)
            self._run(threads)
        self.recorder.read()

    def report(self) -> BenchReport:
        disturbed = tuple(disturbances(self.machine))
        long_runs = [run.sustained for run in self.runs if run.sustained is not None]
        return BenchReport(
            asdic_version=importlib.metadata.version("asdic"),
            started_s=self.started_s,
            device=self.origin.device,
            order=self.origin.order,
            measured=measured_of(self.variant, self.origin),
            machine=self.machine,
            runtime=self.runtime,
            emulated=is_emulated(target_named(self.variant.target).architecture, self.root),
            simulated=self.settings.simulate,
            quiet=not disturbed,
            disturbances=disturbed,
            runs=tuple(self.runs),
            telemetry=self.recorder.telemetry,
            throttling=judge_throttling(self.recorder.readings, long_runs),
            clock_steps_s=self.recorder.steps_s,
            against=self.against,
            interrupted=self.interrupted,
            ended=self.ended,
        )

    def _read(self, folder: Path) -> Variant:
        variant = read_variant(folder)
        wanted = target_named(variant.target).architecture
        here = MACHINES.get(self.machine.architecture)
        is_allowed = self.settings.simulate or self.settings.any_machine
        if here is not wanted and not is_allowed:
            raise IncompatibleTargetError(
                f"{folder} is for {variant.target} ({wanted.value}), this machine is "
                f"{self.machine.architecture}: its times would say nothing; measure anyway "
                "with --any-machine, marked as emulated"
            )
        return variant

    def _enter(self, phase: str) -> None:
        self.recorder.enter(phase)
        self.on_phase(phase)

    def _cold_start(self, threads: int) -> None:
        if not self.settings.cold_starts:
            return
        self._enter("cold-start")
        phase = ColdPhase(
            folder=self.folder,
            variant=self.variant,
            clock=self.clock,
            processes=self.settings.cold_starts,
            threads=threads,
            simulate=self.settings.simulate,
            look=self.recorder.look,
        )
        try:
            phase.run()
        finally:
            self.runs[-1] = replace(self.runs[-1], cold_start=phase.result())

    def _run(self, threads: int) -> None:
        self._enter("load")
        with Runner.open(self.folder, simulate=self.settings.simulate, threads=threads) as runner:
            self.runtime = runner.facts()
            self.runs[-1] = replace(self.runs[-1], load_s=runner.load_s)
            stage = Stage(
                infer=runner.predict,
                frames=self.frames or frames_for(runner, self.folder),
                clock=self.clock,
                recorder=self.recorder,
            )
            try:
                self._phases(stage)
                self._accuracy(runner)
            finally:
                self.runs[-1] = replace(self.runs[-1], memory_bytes=peak_memory_bytes())

    def _phases(self, stage: Stage) -> None:
        settings = self.settings
        self._enter("warm-up")
        limit_s = min(WARM_UP_LIMIT_S, settings.seconds * WARM_UP_SHARE)
        self.runs[-1] = replace(self.runs[-1], warm_up=warm_up(stage, limit_s=limit_s))
        self._burst(BurstPhase(stage, limit_s=settings.seconds))
        if settings.fps is not None:
            self._paced(
                PacedPhase(
                    stage,
                    fps=settings.fps,
                    seconds=settings.minutes * 60 or settings.seconds,
                    deadline_ms=settings.deadline_ms,
                )
            )
        elif settings.minutes:
            self._sustained(SustainedPhase(stage, seconds=settings.minutes * 60))

    def _burst(self, phase: BurstPhase) -> None:
        self._enter("burst")
        try:
            phase.run()
        finally:
            if len(phase.series):
                self.runs[-1] = replace(self.runs[-1], burst=phase.result())
                self._energy("burst", phase.series.seen)

    def _paced(self, phase: PacedPhase) -> None:
        self._enter("paced")
        try:
            phase.run()
        finally:
            if len(phase.series):
                sustained = phase.sustained() if self.settings.minutes else None
                self.runs[-1] = replace(self.runs[-1], paced=phase.result(), sustained=sustained)
                self._energy("paced", phase.series.seen)

    def _sustained(self, phase: SustainedPhase) -> None:
        self._enter("sustained")
        try:
            phase.run()
        finally:
            if len(phase.series):
                self.runs[-1] = replace(self.runs[-1], sustained=phase.result())
                self._energy("sustained", phase.series.seen)

    def _energy(self, phase: str, inferences: int) -> None:
        self.recorder.read()
        found = self.recorder.energy(phase, inferences)
        self.runs[-1] = replace(self.runs[-1], energy=(*self.runs[-1].energy, *found))

    def _accuracy(self, runner: Runner) -> None:
        if self.variant.golden is None:
            return
        self._enter("accuracy")
        found = check_golden(runner, self.folder)
        accuracy = Accuracy(
            metric=found.metric,
            measured=found.measured,
            limit=found.limit,
            samples=len(found.per_sample),
            outputs_checked=found.outputs_checked,
            worst_difference=found.worst_difference,
            passed=found.passed,
            reason=found.reason,
        )
        self.runs[-1] = replace(self.runs[-1], accuracy=accuracy)

    def _compare(self, other: Path) -> None:
        variant = self._read(other)
        self._enter("comparison")
        phase = ComparePhase(
            a=self.folder,
            b=other,
            restarts=self.settings.restarts,
            seconds=self.settings.seconds,
            threads=self.settings.threads[0] if self.settings.threads else usable_threads(),
            simulate=self.settings.simulate,
            look=self.recorder.look,
        )
        try:
            phase.run()
        finally:
            self.runtime = phase.runtimes[0] if phase.runtimes else None
            self.against = phase.result(measured_of(variant, Origin()), margin=self.settings.margin)
            self.recorder.read()


def measured_of(variant: Variant, origin: Origin) -> Measured:
    """Return what a result says about the variant it speaks of."""
    return Measured(
        model=variant.model,
        target=variant.target,
        task=variant.task,
        files=variant.files,
        version=origin.version,
        manifest=origin.manifest,
    )
