"""For tests of the benchmark: a test's own clock, variants of bare models, made-up results."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asdic.contract.bench import (
    Accuracy,
    BenchReport,
    Burst,
    ColdStart,
    Machine,
    Measured,
    Run,
    Telemetry,
    Throttling,
    ThrottlingVerdict,
)
from asdic.contract.files import sha256_of, write_file
from asdic.contract.messages import RuntimeFacts
from asdic.contract.target import target_named
from asdic.contract.variant import (
    VARIANT_FILE,
    ArrayInput,
    ArrayOutput,
    FileRef,
    Variant,
    encode_variant,
)
from asdic.device.bench.phases import latency_of
from asdic.device.bench.samples import Series
from asdic.device.runner.engine import open_engine


class TestClock:
    """Time that passes only where a test says so. The time of day may be set."""

    __test__ = False

    def __init__(self) -> None:
        self.time_ns = 1_000_000_000
        self.set_by_ns = 0

    def now_ns(self) -> int:
        """Return the steady time."""
        return self.time_ns

    def wall_ns(self) -> int:
        """Return the time of day."""
        return self.time_ns + self.set_by_ns

    def sleep_until(self, when_ns: int) -> None:
        """Let the time come."""
        self.time_ns = max(self.time_ns, when_ns)


class TimedModel:
    """Takes, one after the other, as many ms on the test's clock as it was told."""

    def __init__(self, clock: TestClock, latencies_ms: Iterable[float]) -> None:
        self._clock = clock
        self._latencies_ms: Iterator[float] = iter(latencies_ms)

    def infer(self, _frame: object) -> None:
        """Let time pass."""
        self._clock.time_ns += round(next(self._latencies_ms) * 1e6)


def make_bare_variant(folder: Path, model: Path, *, target: str = "x86-litert-int8") -> Path:
    """Make a variant of a model file as it is, with arrays in and out and no golden set."""
    write_file(folder / model.name, model.read_bytes())
    runtime = target_named(target).runtime
    engine = open_engine(runtime, [folder / model.name], threads=1)
    variant = Variant(
        model=model.stem,
        target=target,
        runtime=runtime,
        runtime_version=engine.version,
        task="classification",
        files=(
            FileRef(
                name=model.name,
                digest=sha256_of(folder / model.name),
                size_bytes=model.stat().st_size,
            ),
        ),
        inputs=engine.inputs,
        outputs=engine.outputs,
        preprocessing=tuple(ArrayInput(tensor=spec.name) for spec in engine.inputs),
        postprocessing=tuple(ArrayOutput(tensor=spec.name) for spec in engine.outputs),
        recipe="none",
    )
    engine.close()
    write_file(folder / VARIANT_FILE, encode_variant(variant))
    return folder


def series_of(samples_ms: Sequence[float] | NDArray[np.float64]) -> Series:
    """Return latencies as a phase would have measured them."""
    series = Series()
    for sample_ms in samples_ms:
        series.append(round(sample_ms * 1e6))
    return series


def make_result(
    samples_ms: Sequence[float] | NDArray[np.float64],
    *,
    files: tuple[FileRef, ...] = (),
    target: str = "x86-openvino-int8",
    quiet: bool = True,
    throttling: ThrottlingVerdict = ThrottlingVerdict.NONE,
    simulated: bool = False,
    interrupted: str | None = None,
    points: float = 90.0,
    load_s: float = 2.0,
    memory_bytes: int = 100 << 20,
) -> BenchReport:
    """Return a whole result with the given latencies in its burst."""
    latency = latency_of(series_of(samples_ms))
    seconds = float(np.sum(samples_ms)) / 1e3
    accuracy = Accuracy(
        metric="dice",
        measured=points,
        limit=80.0,
        samples=32,
        outputs_checked=8,
        worst_difference=0.0,
        passed=points >= 80.0,
        reason="" if points >= 80.0 else "too low",
    )
    run = Run(
        threads=1,
        cold_start=ColdStart(
            load_s=(load_s,),
            first_ms=(5.0,),
            process_s=(load_s + 1,),
            memory_bytes=(memory_bytes,),
            from_disk=True,
        ),
        load_s=load_s / 2,
        burst=Burst(
            latency=latency,
            enough=True,
            seconds=seconds,
            throughput_per_s=len(samples_ms) / seconds,
        ),
        accuracy=accuracy,
        memory_bytes=memory_bytes,
    )
    return BenchReport(
        asdic_version="0.1.0",
        started_s=0.0,
        device=None,
        measured=Measured(model="tiny", target=target, task="segmentation", files=files),
        machine=Machine(
            architecture="x86_64",
            processor="a processor",
            kernel="6.0",
            processors=2,
            usable_processors=2,
            processor_quota=None,
            memory_bytes=None,
            memory_limit_bytes=None,
            governors=("performance",),
            turbo=None,
            power_mode=None,
            load=0.0,
            pressure_percent=None,
        ),
        runtime=RuntimeFacts(runtime="openvino", version="2026.4.1"),
        emulated=False,
        simulated=simulated,
        quiet=quiet,
        disturbances=() if quiet else ("others work here",),
        runs=(run,),
        telemetry=Telemetry(sensors=(), vanished=(), readings=()),
        throttling=Throttling(verdict=throttling, evidence=("made up",)),
        clock_steps_s=(),
        interrupted=interrupted,
    )
