"""All phases with one number of threads, in their order.

What a phase had measured when it was stopped in its middle is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from asdic.contract.bench import Accuracy, Run
from asdic.contract.messages import RuntimeFacts
from asdic.contract.variant import Variant
from asdic.device.bench.bench import peak_memory_bytes
from asdic.device.bench.clock import Clock
from asdic.device.bench.cold import ColdPhase
from asdic.device.bench.frames import FrameSource, frames_for
from asdic.device.bench.phases import BurstPhase, PacedPhase, Stage, SustainedPhase, warm_up
from asdic.device.bench.settings import Settings
from asdic.device.bench.telemetry import Recorder
from asdic.device.runner.golden import check_golden
from asdic.device.runner.runner import Runner

WARM_UP_LIMIT_S: Final = 20.0
WARM_UP_SHARE: Final = 0.5


@dataclass(kw_only=True)
class PhasedRun:
    """One run of a benchmark.

    Attributes:
        enter: Is told the name of each phase as it begins.
        done: What was measured so far.
        runtime: What ran the variant, once it was loaded.
    """

    folder: Path
    variant: Variant
    settings: Settings
    frames: FrameSource | None
    clock: Clock
    recorder: Recorder
    enter: Callable[[str], None]
    done: Run
    runtime: RuntimeFacts | None = None

    def cold_start(self) -> None:
        """Start fresh processes, if any are wanted."""
        if not self.settings.cold_starts:
            return
        self.enter("cold-start")
        phase = ColdPhase(
            folder=self.folder,
            variant=self.variant,
            clock=self.clock,
            processes=self.settings.cold_starts,
            threads=self.done.threads,
            simulate=self.settings.simulate,
            look=self.recorder.look,
        )
        try:
            phase.run()
        finally:
            self.done = replace(self.done, cold_start=phase.result())

    def measure(self) -> None:
        """Load the variant, and measure it in all phases."""
        self.enter("load")
        with Runner.open(
            self.folder, simulate=self.settings.simulate, threads=self.done.threads
        ) as runner:
            self.runtime = runner.facts()
            self.done = replace(self.done, load_s=runner.load_s)
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
                self.done = replace(self.done, memory_bytes=peak_memory_bytes())

    def _phases(self, stage: Stage) -> None:
        settings = self.settings
        self.enter("warm-up")
        limit_s = min(WARM_UP_LIMIT_S, settings.seconds * WARM_UP_SHARE)
        self.done = replace(self.done, warm_up=warm_up(stage, limit_s=limit_s))
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
        self.enter("burst")
        try:
            phase.run()
        finally:
            if len(phase.series):
                self.done = replace(self.done, burst=phase.result())
                self._energy("burst", phase.series.seen)

    def _paced(self, phase: PacedPhase) -> None:
        self.enter("paced")
        try:
            phase.run()
        finally:
            if len(phase.series):
                sustained = phase.sustained() if self.settings.minutes else None
                self.done = replace(self.done, paced=phase.result(), sustained=sustained)
                self._energy("paced", phase.series.seen)

    def _sustained(self, phase: SustainedPhase) -> None:
        self.enter("sustained")
        try:
            phase.run()
        finally:
            if len(phase.series):
                self.done = replace(self.done, sustained=phase.result())
                self._energy("sustained", phase.series.seen)

    def _energy(self, phase: str, inferences: int) -> None:
        self.recorder.read()
        found = self.recorder.energy(phase, inferences)
        self.done = replace(self.done, energy=(*self.done.energy, *found))

    def _accuracy(self, runner: Runner) -> None:
        if self.variant.golden is None:
            return
        self.enter("accuracy")
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
        self.done = replace(self.done, accuracy=accuracy)
