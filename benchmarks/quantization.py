"""asdic's quantizer against NNCF, ai-edge-quantizer, ONNX Runtime and modelopt.

::

    .venv/bin/python -m benchmarks.quantization --out DIR > docs/benchmarks/quantization.md
    .venv/bin/python -m benchmarks.quantization --out DIR --only keywords,carotid
    .venv/bin/python -m benchmarks.quantization --out DIR --modelopt ENV/bin/python --json

For each network the float model is converted once; then each tool gets the same float file and the
same calibration samples, in a process of its own, and its INT8 file answers the same samples that
asdic's own gate asks, on the runtime that flies (a Jetson's graph in ONNX Runtime, optimizations
off). asdic runs as a person would run it, with no option. Each cell is kept in DIR, and a second
call goes on where the first one stopped. modelopt needs an environment of its own
(``constraints/modelopt.txt``); EfficientNet's weights are brought by pip.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
import onnx

from asdic.contract.errors import AsdicError, QuantizationError
from asdic.contract.files import write_file
from asdic.contract.messages import RuntimeFacts
from asdic.contract.target import ModelFormat, Runtime
from asdic.device.runner.engine import cpu_features
from asdic.device.runner.postprocess import Prediction
from asdic.quantization.backends.backend import FloatFiles
from asdic.quantization.backends.placement import check_placement
from asdic.quantization.calibration import Inputs, read_inputs
from asdic.quantization.job import ConvertJob, Workers, write_calibration
from asdic.quantization.judge import answers_of, judge, open_runner
from asdic.quantization.kinds import FloatModel
from asdic.quantization.provenance import tool_versions
from asdic.quantization.source import read_source
from benchmarks.device_footprint import machine, warning
from benchmarks.peers.networks import ASDIC, NETWORKS, Subject
from benchmarks.peers.tools import TOOLS, Tool

OURS: Final = "asdic"
REPOSITORY: Final = Path(__file__).parents[1]
TIMEOUT_S: Final = 1800.0
MARGIN_DB: Final = 0.5
POINTS: Final = 0.5
SLOWER: Final = 1.3
_RUNTIMES: Final = MappingProxyType(
    {
        ModelFormat.TFLITE: Runtime.LITERT,
        ModelFormat.OPENVINO_IR: Runtime.OPENVINO,
        ModelFormat.ONNX_QDQ: Runtime.ONNXRUNTIME,
    }
)
_TARGETS: Final = MappingProxyType(
    {
        ModelFormat.TFLITE: "x86-litert-int8",
        ModelFormat.OPENVINO_IR: "x86-openvino-int8",
        ModelFormat.ONNX_QDQ: "jetson-orin-int8",
    }
)


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What a tool made of a network: points of the metric, SQNR in dB, seconds; or why nothing.

    ``seconds`` is the tool's own call; for asdic the first rung of its climb, judging included,
    and ``all_seconds`` the whole command. ``refused`` is what TensorRT's rules for a Jetson's graph
    have against the file, so that it does not count among the best.
    """

    network: str
    model_format: str
    tool: str
    is_default: bool = False
    metric: str = ""
    fp32: float = 0.0
    int8: float = 0.0
    drop: float = 0.0
    ci95: tuple[float, float] = (0.0, 0.0)
    samples: int = 0
    sqnr_db: float | None = None
    seconds: float = 0.0
    all_seconds: float = 0.0
    note: str = ""
    refused: str = ""
    failed: str = ""


def main() -> None:
    """Measure what is missing, and print the page or the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantization")
    parser.add_argument("--out", type=Path, required=True, help="where cells are kept")
    parser.add_argument("--only", default=",".join(NETWORKS), help="networks, with commas")
    parser.add_argument("--modelopt", type=Path, help="the Python of modelopt's environment")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    cells = [
        cell
        for name in options.only.split(",")
        for cell in _network(name, options.out.resolve() / name, options.modelopt)
    ]
    if options.json:
        print(json.dumps([msgspec.to_builtins(cell) for cell in cells], indent=2))
    else:
        print("\n".join(_page(cells)))


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One network, converted, and what judges it."""

    subject: Subject
    model: FloatModel
    inputs: Inputs
    folder: Path
    modelopt: Path | None


def _network(name: str, folder: Path, modelopt: Path | None) -> Iterator[Cell]:
    folder.mkdir(parents=True, exist_ok=True)
    subject = NETWORKS[name](folder)
    model = read_source(subject.model, folder)
    inputs = read_inputs(subject.data, model.description)
    bench = Bench(subject=subject, model=model, inputs=inputs, folder=folder, modelopt=modelopt)
    for model_format in ModelFormat:
        yield from _format(bench, model_format)


def _format(bench: Bench, model_format: ModelFormat) -> Iterator[Cell]:
    folder = bench.folder / model_format.value
    folder.mkdir(exist_ok=True)
    write_calibration(bench.inputs.calibration, folder / "described.npz")
    job = ConvertJob(
        model=bench.model, model_format=model_format, calibration=folder / "described.npz"
    )
    files = Workers().convert(job, folder / "float")
    write_calibration(files.laid_out(bench.inputs.calibration), folder / "calibration.npz")
    fp32: tuple[Prediction, ...] | None = None
    for tool in (tool for tool in TOOLS if tool.model_format == model_format.value):
        path = folder / f"{tool.name}.json"
        if not path.is_file():
            fp32 = fp32 or _answers(bench, model_format, files, [folder / "float" / files.files[0]])
            write_file(path, msgspec.json.encode(_peer(bench, model_format, files, tool, fp32)))
        yield msgspec.json.decode(path.read_bytes(), type=Cell)
    path = folder / f"{OURS}.json"
    if not path.is_file():
        write_file(path, msgspec.json.encode(_ours(bench, model_format)))
    yield msgspec.json.decode(path.read_bytes(), type=Cell)


def _peer(
    bench: Bench,
    model_format: ModelFormat,
    files: FloatFiles,
    tool: Tool,
    fp32: tuple[Prediction, ...],
) -> Cell:
    print(f"{bench.subject.name}: {tool.peer}, {tool.setting}", file=sys.stderr)
    folder = bench.folder / model_format.value
    about = {
        "network": bench.subject.name,
        "model_format": model_format.value,
        "tool": f"{tool.peer}, {tool.setting}",
        "is_default": tool.is_default,
    }
    place = folder / tool.name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    source = folder / "float" / files.files[0]
    target = place / source.name.replace("float", "model")
    python: Path | None = Path(sys.executable)
    if tool.peer == "modelopt":
        python = bench.modelopt
        if python is None:
            return Cell(**about, failed="not measured: give its environment with --modelopt")
    command = [str(python), "-m", "benchmarks.peers.cell", tool.name]
    done = subprocess.run(
        [*command, str(source), str(folder / "calibration.npz"), str(target)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        return Cell(**about, failed=_last_line(done.stderr))
    try:
        int8 = _answers(bench, model_format, files, [target])
        found = judge(
            bench.inputs,
            fp32,
            int8,
            metric=bench.model.description.metric,
            facts=RuntimeFacts(runtime=_RUNTIMES[model_format].value, version=""),
        )
    except AsdicError as error:
        return Cell(**about, failed=_last_line(str(error)))
    drop = found.pairing.drop()
    before, after = found.pairing.values()
    return Cell(
        **about,
        metric=found.metric,
        fp32=before,
        int8=after,
        drop=drop.mean,
        ci95=(drop.low, drop.high),
        samples=drop.samples,
        sqnr_db=found.sqnr_db,
        seconds=float(done.stdout.strip().splitlines()[-1]),
        refused=_refused(target) if model_format is ModelFormat.ONNX_QDQ else "",
    )


def _refused(path: Path) -> str:
    """Return what breaks TensorRT's rules, or nothing."""
    try:
        check_placement(onnx.load(path))
    except QuantizationError as error:
        return str(error)
    return ""


def _ours(bench: Bench, model_format: ModelFormat) -> Cell:
    print(f"{bench.subject.name}: asdic, {model_format.value}", file=sys.stderr)
    out = bench.folder / model_format.value / "asdic"
    shutil.rmtree(out, ignore_errors=True)
    command = [*ASDIC, "quantize", str(bench.subject.model), "--data", str(bench.subject.data)]
    started = time.perf_counter()
    done = subprocess.run(
        [*command, "--target", _TARGETS[model_format], "--out", str(out), "--json"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT_S,
        check=False,
    )
    took = time.perf_counter() - started
    about = {
        "network": bench.subject.name,
        "model_format": model_format.value,
        "tool": OURS,
        "all_seconds": took,
    }
    if done.returncode:
        return Cell(**about, failed=_last_line(done.stderr))
    (report,) = json.loads(done.stdout)
    return Cell(
        **about,
        metric=report["metric"],
        fp32=report["fp32"],
        int8=report["int8"],
        drop=report["drop"],
        ci95=tuple(report["ci95"]),
        samples=report["samples"],
        sqnr_db=report["sqnr_db"],
        seconds=report["tried"][0]["seconds"],
        note=f"{report['recipe']}, {report['verdict']}, rung {_rung(report)}",
    )


def _rung(report: dict[str, Any]) -> str:
    names = [one["recipe"] for one in report["tried"]]
    return f"{names.index(report['recipe']) + 1} of {len(names)}"


def _answers(
    bench: Bench, model_format: ModelFormat, files: FloatFiles, paths: Sequence[Path]
) -> tuple[Prediction, ...]:
    with open_runner(_RUNTIMES[model_format], paths, files) as runner:
        return answers_of(runner, bench.inputs.cases)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "it said nothing"


# The page


def _page(cells: Sequence[Cell]) -> Iterator[str]:
    today = datetime.datetime.now(datetime.UTC).date()
    versions = ", ".join(f"{name} {version}" for name, version in _peers_versions().items())
    yield from (
        "# INT8: asdic beside its peers",
        "",
        f"Printed by `python -m benchmarks.quantization` on {today}.",
        f"Machine: {machine()}, {' '.join(cpu_features())}.",
        f"Versions: {versions}.",
        "",
        "One float file and the same calibration samples for all tools of a format, the same",
        "samples to judge by. *SQNR* is that of all outputs together; *drop* is in points of the",
        "metric, with its 95 % interval. *Seconds* are the tool's own call without imports; for",
        "asdic, which runs with no option, those of the first rung of its climb, the start of a",
        "process and judging included. A Jetson's file is judged in simulation.",
        *warning(),
    )
    for network in dict.fromkeys(cell.network for cell in cells):
        yield from _table(network, [cell for cell in cells if cell.network == network])


def _table(network: str, cells: Sequence[Cell]) -> Iterator[str]:
    first = next((cell for cell in cells if not cell.failed), None)
    yield from ("", f"## {network}", "")
    if first is not None:
        yield f"{first.metric}, {first.samples} samples, FP32 {first.fp32:.2f} points."
        yield ""
    yield "| format | tool | SQNR, dB | drop | seconds | |"
    yield "|---|---|---:|---:|---:|---|"
    for cell in cells:
        if cell.failed:
            yield f"| {cell.model_format} | {cell.tool} | | | | {cell.failed} |"
            continue
        sqnr = "equal" if cell.sqnr_db is None else f"{cell.sqnr_db:.1f}"
        low, high = cell.ci95
        yield (
            f"| {cell.model_format} | {cell.tool} | {sqnr} | {cell.drop:+.2f} ({low:+.2f} to "
            f"{high:+.2f}) | {cell.seconds:.1f} | {cell.note or cell.refused} |"
        )
    yield ""
    for model_format in dict.fromkeys(cell.model_format for cell in cells):
        yield from _aims([cell for cell in cells if cell.model_format == model_format])


def _aims(cells: Sequence[Cell]) -> Iterator[str]:
    """Yield how asdic did in one format against the best peer and each default."""
    ours = next(cell for cell in cells if cell.tool == OURS)
    peers = [cell for cell in cells if cell.tool != OURS and not cell.failed and not cell.refused]
    if ours.failed or not peers:
        return
    best = max(peers, key=lambda cell: cell.sqnr_db or 0.0)
    ahead = (ours.sqnr_db or 0.0) - (best.sqnr_db or 0.0)
    defaults = [(ours.sqnr_db or 0.0) - (one.sqnr_db or 0.0) for one in peers if one.is_default]
    quickest = min(peers, key=lambda cell: cell.seconds)
    yield (
        f"- {ours.model_format}: {ahead:+.1f} dB against the best peer ({best.tool}): "
        f"{_met(ahead >= -MARGIN_DB)}; against defaults "
        f"{', '.join(f'{one:+.1f}' for one in defaults)} dB; non-inferior at {POINTS} points: "
        f"{_met(ours.ci95[1] <= POINTS)}; first rung {ours.seconds / best.seconds:.1f} times the "
        f"best peer's call, {ours.seconds / quickest.seconds:.1f} times the quickest's "
        f"(aim {SLOWER})"
    )


def _met(met: bool) -> str:
    return "met" if met else "missed"


def _peers_versions() -> dict[str, str]:
    wanted = ("nncf", "openvino", "ai-edge-quantizer", "ai-edge-litert", "onnxruntime", "torch")
    found = tool_versions()
    return {name: found[name] for name in wanted}


if __name__ == "__main__":
    main()
