"""The gate: a candidate must be right and fast on this very device before it goes live.

The agent starts the trial (``trial.py``) as a child, watches its memory and its time, and judges
what it printed by the variant's own limits. Nothing the child says is believed beyond its type.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from asdic.contract.messages import GateFacts, Refusal
from asdic.contract.target import Runtime, target_named
from asdic.contract.variant import Limits, Variant
from asdic.device.process import resident_bytes
from asdic.device.runner.cache import COMPILED_LIMIT_BYTES
from asdic.device.update.trial import FILE_LIMIT_BYTES, Measured, TrialResult, own_folders

OUTPUT_LIMIT_BYTES: Final = 64 << 10
CPU_LIMIT_S: Final = 1_800

log = logging.getLogger("asdic.gate")

Verdict: TypeAlias = GateFacts | Refusal


class Trial:
    """One running trial."""

    def __init__(
        self,
        folder: Path,
        limits: Limits,
        *,
        baseline: Path | None,
        simulate: bool,
        bench_s: float,
        cache: Path | None = None,
        file_bytes: int = FILE_LIMIT_BYTES,
    ) -> None:
        self._limits = limits
        self._cache = cache
        self._refusal: Refusal | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._complaints = tempfile.TemporaryFile()  # noqa: SIM115
        self._child = subprocess.Popen(
            [
                *_command(folder, limits, bench_s),
                *_options(baseline=baseline, simulate=simulate),
                *_cache_options(cache, file_bytes),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._complaints,
            cwd="/",
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def poll(self) -> Verdict | None:
        """Return the verdict, or None while the trial runs."""
        if self._child.poll() is None:
            if resident_bytes(self._child.pid) <= self._limits.memory_bytes:
                return None
            self._refusal = Refusal(
                code="memory",
                message=f"the model takes more than the {self._limits.memory_bytes >> 20} MiB "
                "of memory that its release allows",
            )
        return self._finish()

    def stop(self) -> None:
        """End the trial; a second time does nothing."""
        with suppress(ProcessLookupError):
            self._child.kill()
        self._child.wait()
        if self._cache is not None:
            own_folders(self._cache, os.geteuid())
        self._output.close()
        self._complaints.close()

    def _finish(self) -> Verdict:
        if self._child.returncode is None:
            self._child.kill()
        status = self._child.wait()
        verdict = self._refusal or self._verdict(status)
        self.stop()
        return verdict

    def _verdict(self, status: int) -> Verdict:
        self._output.seek(0)
        try:
            result = msgspec.json.decode(self._output.read(OUTPUT_LIMIT_BYTES), type=TrialResult)
        except msgspec.DecodeError:
            return Refusal(code="crash", message=f"the trial of the model {self._end(status)}")
        log.info("the trial ran without: %s", ", ".join(result.confinement))
        if result.measured is None:
            return result.refusal or Refusal(code="crash", message="the trial said nothing")
        return judge(result.measured, self._limits)

    def _end(self, status: int) -> str:
        how = f"was ended by signal {-status}" if status < 0 else f"ended with code {status}"
        if status < 0 and -status != signal.SIGABRT:  # Only who aborts itself has said why.
            return how
        self._complaints.seek(0)
        lines = self._complaints.read(OUTPUT_LIMIT_BYTES).decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f"{how}: {last[:300]}" if last else how


def judge(measured: Measured, limits: Limits) -> Verdict:
    """Return the facts if the candidate keeps to its limits, or the first reason why not."""
    numbers = (measured.measured, measured.latency_ms_p50, measured.load_s, measured.slowdown or 0)
    if not all(math.isfinite(number) for number in numbers):
        return Refusal(code="crash", message="the trial measured something that is not a number")
    for code, message in _complaints(measured, limits):
        return Refusal(code=code, message=message)
    return GateFacts(
        outputs_checked=measured.outputs_checked,
        worst_difference=measured.worst_difference,
        metric=measured.metric,
        measured=measured.measured,
        limit=measured.limit,
        latency_ms_p50=measured.latency_ms_p50,
        load_s=measured.load_s,
        memory_bytes=measured.memory_bytes,
        runtime=measured.runtime,
    )


def file_limit_bytes(variant: Variant, *, simulate: bool) -> int:
    """Return how large a file the trial may write: what its runtime builds, else next to none."""
    target = target_named(variant.target)
    builds = target.runtime is Runtime.TENSORRT or target.execution_device != "cpu"
    return COMPILED_LIMIT_BYTES if builds and not simulate else FILE_LIMIT_BYTES


def _complaints(measured: Measured, limits: Limits) -> Iterator[tuple[str, str]]:
    rules: tuple[tuple[str, bool, Callable[[], str]], ...] = (
        ("no-golden", not measured.has_golden,
         lambda: "the release brings no golden set, so nothing proves that it is right here"),
        ("golden", bool(measured.golden_reason), lambda: measured.golden_reason),
        ("load-time", measured.load_s > limits.load_s,
         lambda: f"the model loads in {measured.load_s:.1f} s, {limits.load_s:.1f} s are allowed"),
        ("memory", measured.memory_bytes > limits.memory_bytes,
         lambda: f"the model takes {measured.memory_bytes >> 20} MiB of memory, "
                 f"{limits.memory_bytes >> 20} MiB are allowed"),
        ("latency", limits.latency_ms is not None and measured.latency_ms_p50 > limits.latency_ms,
         lambda: f"an inference takes {measured.latency_ms_p50:.1f} ms, "
                 f"{limits.latency_ms:.1f} ms are allowed"),
        ("slowdown", (measured.slowdown or 0.0) > limits.slowdown,
         lambda: f"the model is at least {measured.slowdown:.1f} times as slow as the current "
                 f"one, {limits.slowdown:.1f} times are allowed"),
    )  # fmt: skip
    return ((code, message()) for code, is_broken, message in rules if is_broken)


def _command(folder: Path, limits: Limits, bench_s: float) -> list[str]:
    return [
        *(sys.executable, "-m", "asdic.device.update.trial", str(folder.resolve())),
        *("--memory-bytes", str(limits.memory_bytes), "--cpu-s", str(CPU_LIMIT_S)),
        *("--parent", str(os.getpid()), "--seconds", str(bench_s)),
    ]


def _options(*, baseline: Path | None, simulate: bool) -> list[str]:
    options = ["--simulate"] if simulate else []
    return [*options, "--baseline", str(baseline.resolve())] if baseline else options


def _cache_options(cache: Path | None, file_bytes: int) -> list[str]:
    options = ["--file-bytes", str(file_bytes)]
    return [*options, "--cache", str(cache.resolve())] if cache else options
