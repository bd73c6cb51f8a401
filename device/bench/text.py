"""A result for people: lines of a name and a value. What is unknown says so."""

from __future__ import annotations

from collections.abc import Iterator

from asdic.contract.bench import (
    Against,
    BenchReport,
    ColdStart,
    Latency,
    Machine,
    Paced,
    Percentile,
    Run,
    Sustained,
)

NAMES = {0.5: "p50", 0.9: "p90", 0.99: "p99", 0.999: "p99.9"}


def lines_of(report: BenchReport) -> Iterator[tuple[str, str]]:
    """Yield what ``report`` says, most important conditions first."""
    measured = report.measured
    yield "variant", f"{measured.model} for {measured.target}" + _release(report)
    if report.runtime is not None:
        yield "runtime", f"{report.runtime.runtime} {report.runtime.version}"
        yield "delegate", report.runtime.delegate or "unknown"
    yield "machine", _machine(report.machine)
    yield "quiet", "yes" if report.quiet else f"no: {'; '.join(report.disturbances)}"
    for run in report.runs:
        yield from _run(run)
    if report.against is not None:
        yield from _against(report.against)
    yield (
        "throttling",
        f"{report.throttling.verdict.value}: {'; '.join(report.throttling.evidence)}",
    )
    yield from _notes(report)


def _run(run: Run) -> Iterator[tuple[str, str]]:
    yield "threads", str(run.threads)
    if run.cold_start is not None:
        yield "cold start", _cold(run.cold_start)
    if run.warm_up is not None:
        steady = "then steady" if run.warm_up.steady else "and never steady"
        yield "warm-up", f"{run.warm_up.discarded} inferences discarded, {steady}"
    if run.burst is not None:
        yield "latency", latency_text(run.burst.latency)
        yield "throughput", f"{run.burst.throughput_per_s:.1f} inferences a second, measured"
    if run.paced is not None:
        yield "paced", _paced(run.paced)
    if run.sustained is not None:
        yield "sustained", _sustained(run.sustained)
    for energy in run.energy:
        each = energy.joules_per_inference
        yield (
            "energy",
            f"{energy.joules:.2f} J in {energy.seconds:.0f} s of {energy.phase}"
            + (f", {each * 1e3:.2f} mJ an inference" if each is not None else "")
            + f" ({energy.sensor}, read {energy.rate_hz:.1f} times a second)",
        )
    if run.accuracy is not None:
        verdict = "passed" if run.accuracy.passed else f"FAILED: {run.accuracy.reason}"
        yield (
            "golden check",
            f"{run.accuracy.metric} {run.accuracy.measured:.2f} points, "
            f"limit {run.accuracy.limit:.2f}: {verdict}",
        )
    if run.memory_bytes is not None:
        yield "memory", f"{run.memory_bytes / 1e6:.0f} MB at most, the whole process"


def latency_text(latency: Latency) -> str:
    """Return all percentiles with their intervals."""
    return ", ".join(percentile_text(one) for one in latency.percentiles)


def percentile_text(one: Percentile) -> str:
    """Return ``p50 1.23 ms (1.20 to 1.25)``, or how many samples it takes."""
    name = NAMES.get(one.q, f"q{one.q:g}")
    if one.value_ms is None:
        return f"{name} unknown (needs {one.needed} samples)"
    if one.low_ms is None or one.high_ms is None:
        return f"{name} {one.value_ms:.3g} ms"
    return f"{name} {one.value_ms:.3g} ms ({one.low_ms:.3g} to {one.high_ms:.3g})"


def _release(report: BenchReport) -> str:
    version = f", release {report.measured.version}" if report.measured.version else ""
    return version + (f", on {report.device}" if report.device else "")


def _machine(machine: Machine) -> str:
    parts = [
        f"{machine.processor}, {machine.usable_processors} of {machine.processors} processors",
        f"governor {', '.join(machine.governors) or 'unknown'}",
    ]
    if machine.power_mode is not None:
        parts.append(f"power mode {machine.power_mode}")
    return "; ".join(parts)


def _cold(cold: ColdStart) -> str:
    source = "from disk" if cold.from_disk else "perhaps from memory"
    return (
        f"{len(cold.load_s)} processes: load {_span(cold.load_s)} s {source}{_builds(cold)}, first "
        f"inference {_span(cold.first_ms)} ms, {_span(cold.process_s)} s from start to answer"
    )


def _builds(cold: ColdStart) -> str:
    built = tuple(one.seconds for one in cold.builds or () if one.seconds is not None)
    cached = len(cold.builds or ()) - len(built)
    words = f", {_span(built)} s of it building" if built else ""
    return words + (f", {cached} from the runtime's cache" if cached else "")


def _span(values: tuple[float, ...]) -> str:
    return f"{min(values):.3g} to {max(values):.3g}"


def _paced(paced: Paced) -> str:
    missed = paced.missed + paced.unserved
    return (
        f"{paced.fps:g} frames a second: {latency_text(paced.latency)}; {missed} of "
        f"{paced.frames} missed {paced.deadline_ms:.3g} ms "
        f"(at most {paced.miss_bound:.2%} with 95 %)"
    )


def _sustained(sustained: Sustained) -> str:
    return (
        f"{sustained.seconds:.0f} s: last {sustained.window_s:.0f} s took {sustained.ratio:.2f} "
        f"times the first ({sustained.first_ms:.3g} and {sustained.last_ms:.3g} ms)"
    )


def _against(against: Against) -> Iterator[tuple[str, str]]:
    yield "against", f"{against.other.model} for {against.other.target}"
    if against.ratio is not None and against.low is not None and against.high is not None:
        yield (
            "ratio",
            f"{against.ratio:.3f} ({against.low:.3f} to {against.high:.3f}) of its time, "
            f"p50 {against.p50_a_ms:.3g} and {against.p50_b_ms:.3g} ms, "
            f"{len(against.restarts)} restarts",
        )
    yield "verdict", f"{against.verdict.value}: {against.reason}"


def _notes(report: BenchReport) -> Iterator[tuple[str, str]]:
    if report.simulated:
        yield "note", "simulated by another runtime: these times are not the target's"
    if report.emulated:
        yield "note", "not the target's kind of processor: these times are not the target's"
    for name in report.telemetry.vanished:
        yield "note", f"the sensor {name} vanished during the run"
    for step_s in report.clock_steps_s:
        yield "note", f"the time of day was set by {step_s:+.1f} s; latencies do not use it"
    if report.interrupted:
        yield "note", f"interrupted in the phase {report.interrupted}; what was measured is above"
    if report.ended:
        yield "note", f"ended early {report.ended}"
