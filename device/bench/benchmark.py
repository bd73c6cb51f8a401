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

from asdic.contract.bench import Against, BenchReport, Measured, Run
from asdic.contract.errors import IncompatibleTargetError
from asdic.contract.messages import RuntimeFacts
from asdic.contract.target import target_named
from asdic.contract.variant import Variant, read_variant
from asdic.device.bench.clock import Clock, SystemClock
from asdic.device.bench.compare import ComparePhase
from asdic.device.bench.frames import FramesEndedError, FrameSource
from asdic.device.bench.preflight import MACHINES, disturbances, inspect_machine, is_emulated
from asdic.device.bench.run import PhasedRun
from asdic.device.bench.sensors import find_sensors
from asdic.device.bench.settings import Origin, Settings
from asdic.device.bench.telemetry import Recorder
from asdic.device.bench.throttling import judge_throttling
from asdic.device.runner.engine import usable_threads


def run_benchmark(
    folder: Path,
    settings: Settings,
    *,
    frames: FrameSource | None = None,
    origin: Origin = Origin(),  # noqa: B008 (frozen)
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

    def _run(self, threads: int) -> None:
        self.recorder.forget_energy()
        run = PhasedRun(
            folder=self.folder,
            variant=self.variant,
            settings=self.settings,
            frames=self.frames,
            clock=self.clock,
            recorder=self.recorder,
            enter=self._enter,
            done=Run(threads=threads),
        )
        try:
            run.cold_start()
            run.measure()
        finally:
            self.runs.append(run.done)
            self.runtime = run.runtime or self.runtime

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
