"""The benchmark on variants at hand, as the table of docs/benchmarks/bench.md.

    .venv/bin/python -m benchmarks.bench_table VARIANTS > docs/benchmarks/bench.md

``VARIANTS`` holds one folder a target, as ``asdic quantize --out`` makes it; a Jetson's variant is
simulated by ONNX Runtime. Then LiteRT is compared with OpenVINO, and with itself.
"""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterator
from pathlib import Path

from asdic.contract.bench import BenchReport, Percentile
from asdic.device.bench.benchmark import run_benchmark
from asdic.device.bench.settings import Settings
from asdic.device.bench.text import percentile_text

TARGETS = ("x86-litert-int8", "x86-openvino-int8", "jetson-orin-int8")
PAIRS = (("x86-litert-int8", "x86-openvino-int8"), ("x86-litert-int8", "x86-litert-int8"))


def main(variants: Path) -> None:
    """Print the page."""
    reports = [
        run_benchmark(
            variants / name,
            Settings(seconds=20, fps=30, threads=(1, 2), simulate=name.startswith("jetson")),
        )
        for name in TARGETS
    ]
    today = datetime.datetime.now(datetime.UTC).date()
    print("# The benchmark on three runtimes\n")
    print(f"Printed by `python -m benchmarks.bench_table {variants.name}` on {today}: for each")
    print("target `asdic bench VARIANT --seconds 20 --fps 30 --threads 1,2` (paced for 20 s).")
    machine = reports[0].machine
    print(f"Machine: {machine.processor}, {machine.usable_processors} processors, Linux", end=" ")
    print(f"{machine.kernel}. Quiet: {'yes' if reports[0].quiet else 'no'}.\n")
    for line in (*_table(reports), *_disturbances(reports)):
        print(line)
    print("\n## Against one another\n")
    print(
        "`asdic bench A --against B --seconds 30 --threads 1`; the ratio is time of A over B's.\n"
    )
    print("| A | B | ratio | 95 % | verdict |\n|---|---|---:|---|---|")
    for a, b in PAIRS:
        found = run_benchmark(
            variants / a, Settings(seconds=30, threads=(1,), against=variants / b)
        ).against
        assert found is not None
        print(
            f"| {a} | {b} | {found.ratio:.3f} | {found.low:.3f} to {found.high:.3f} "
            f"| {found.verdict.value} |"
        )


def _table(reports: list[BenchReport]) -> Iterator[str]:
    yield (
        "| target | runtime | threads | p50 ms | p99 ms | p99.9 ms | per second | paced p99 ms "
        "| missed 33 ms | cold load s | golden |"
    )
    yield "|---|---|---:|---|---|---|---:|---|---|---:|---|"
    for report in reports:
        assert report.runtime is not None
        name = report.measured.target + (" (simulated)" if report.simulated else "")
        for run in report.runs:
            burst, paced = run.burst, run.paced
            assert burst is not None
            assert paced is not None
            assert run.cold_start is not None
            assert run.accuracy is not None
            yield (
                f"| {name} | {report.runtime.runtime} {report.runtime.version} | {run.threads} "
                f"| {_cell(burst.latency.at(0.5))} | {_cell(burst.latency.at(0.99))} "
                f"| {_cell(burst.latency.at(0.999))} | {burst.throughput_per_s:.1f} "
                f"| {_cell(paced.latency.at(0.99))} "
                f"| {paced.missed + paced.unserved} of {paced.frames}, at most "
                f"{paced.miss_bound:.1%} | {sorted(run.cold_start.load_s)[2]:.2f} "
                f"| {run.accuracy.measured:.2f} {'passed' if run.accuracy.passed else 'FAILED'} |"
            )


def _cell(one: Percentile) -> str:
    return percentile_text(one).partition(" ")[2].replace(" ms", "", 1)


def _disturbances(reports: list[BenchReport]) -> Iterator[str]:
    yield ""
    for report in reports:
        for sentence in report.disturbances:
            yield f"- {report.measured.target}: {sentence}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
