"""``asdic bench``: how fast a variant is on this machine, and whether it answers as recorded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asdic.contract.errors import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asdic.device.bench.bench import BenchResult


@click.command()
@click.argument("folder", metavar="VARIANT", type=click.Path(path_type=Path))
@click.option("--seconds", default=10.0, show_default=True, help="How long to measure.")
@click.option(
    "--threads", type=click.IntRange(min=1), help="For one inference.  [default: all usable]"
)
@click.option("--simulate", is_flag=True, help="Use the runtime that stands in for the target's.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def bench(folder: Path, seconds: float, threads: int | None, simulate: bool, as_json: bool) -> None:
    """Measure the variant in the folder VARIANT on this machine, and run its golden check.

    \b
    Examples:
      asdic bench variants/x86-openvino-int8
      asdic bench variants/x86-litert-int8 --threads 1 --seconds 30
      asdic bench variants/jetson-orin-int8 --simulate --json
    """
    from asdic.device.bench.bench import bench_folder

    if not as_json:
        click.echo(f"measuring for {seconds:g} s ...", err=True)
    show_result(
        bench_folder(folder, seconds=seconds, threads=threads, simulate=simulate), as_json=as_json
    )


def show_result(result: BenchResult, *, as_json: bool) -> None:
    """Print ``result``.

    Raises:
        ReleaseError: The golden check failed; the result is printed first.
    """
    from asdic.cli.console import print_json

    if as_json:
        print_json(result)
    else:
        for name, value in _lines(result):
            click.echo(f"{name:<14}{value}")
    if result.golden is not None and not result.golden.passed:
        raise ReleaseError(f"the golden check failed: {result.golden.reason}")


def _lines(result: BenchResult) -> Iterator[tuple[str, str]]:
    yield "variant", f"{result.model} for {result.target}"
    yield "runtime", f"{result.runtime.runtime} {result.runtime.version}, {result.threads} threads"
    yield "processor", " ".join(result.runtime.cpu_features) or "unknown features"
    yield "load", f"{result.load_s:.2f} s, then {result.first_ms:.1f} ms for the first inference"
    yield "latency", _latency(result)
    yield "samples", f"{result.samples} after {result.warm_up} of warm-up"
    yield "throughput", f"{result.throughput_per_s:.1f} inferences a second"
    yield "memory", f"{result.memory_bytes / 1e6:.0f} MB at most, the whole process"
    if result.golden is not None:
        yield (
            "golden check",
            f"{result.golden.metric} {result.golden.measured:.2f} points "
            + ("passed" if result.golden.passed else "FAILED"),
        )
    if result.simulated:
        yield "note", "simulated by another runtime: these times are not the target's"
    if result.emulated:
        yield "note", "not the target's kind of processor: these times are not the target's"


def _latency(result: BenchResult) -> str:
    middle = f"p50 {result.p50_ms:.3g} ms"
    if result.p50_interval_ms is not None:
        low, high = result.p50_interval_ms
        middle += f" (95 %: {low:.3g} to {high:.3g})"
    return ", ".join((middle, _tail("p90", result.p90_ms), _tail("p99", result.p99_ms)))


def _tail(name: str, value_ms: float | None) -> str:
    return f"{name} unknown (too few)" if value_ms is None else f"{name} {value_ms:.3g} ms"
