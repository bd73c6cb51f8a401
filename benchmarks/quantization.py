"""asdic's quantizer against NNCF, ai-edge-quantizer, ONNX Runtime and modelopt.

::

    .venv/bin/python -m benchmarks.quantization --out DIR --make-modelopt \\
        > docs/benchmarks/quantization.md
    .venv/bin/python -m benchmarks.quantization --out DIR --only keywords,carotid
    .venv/bin/python -m benchmarks.quantization --out DIR --peer NNCF,asdic --json
    .venv/bin/python -m benchmarks.quantization --out DIR --again asdic

For each network the float model is converted once; then each tool gets the same float file and the
same calibration samples, and its INT8 file answers the same samples that asdic's own gate asks.
Each cell is kept in DIR, and a second call goes on where the first one stopped. modelopt needs an
environment of its own (``constraints/modelopt.txt``); EfficientNet's weights are brought by pip.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from asdic.device.runner.engine import cpu_features
from asdic.quantization.provenance import tool_versions
from benchmarks.device_footprint import machine, warning
from benchmarks.peers.losses import LOSSES
from benchmarks.peers.measure import OURS, REFERENCE, REPOSITORY, Choice, cells
from benchmarks.peers.networks import NETWORKS
from benchmarks.peers.table import tables
from benchmarks.peers.tools import TOOLS

PEERS: Final = (*dict.fromkeys(tool.peer for tool in TOOLS), REFERENCE, OURS)
CONSTRAINTS: Final = REPOSITORY / "constraints" / "modelopt.txt"
_VERSIONS: Final = (
    "nncf", "openvino", "ai-edge-quantizer", "ai-edge-litert", "onnxruntime", "torch"
)  # fmt: skip
_ABOUT: Final = """
One float file and the same calibration samples for all tools of a format, the same samples to
judge by. *SQNR* is that of all outputs together; *drop* is in points of the metric, with its 95 %
interval, INT8 paired with FP32. *Call* is the tool's own, without imports; of asdic, which runs
with no option, the first rung of its climb with the start of a process and judging. *Process* is
the whole of it; of asdic the whole command: conversion, all rungs and the report. A Jetson's file
is judged in simulation; what TensorRT-RTX, which stands in for a Jetson's TensorRT, refuses is no
rival. Without labels the metric is agreement with FP32.
"""


def main() -> None:
    """Measure what is missing, and print the page or the figures."""
    options = _parser().parse_args()
    out = options.out.resolve()
    choice = Choice(
        networks=_words(options.only, NETWORKS, "network"),
        peers=_words(options.peer, PEERS, "peer"),
        again=_words(options.again, PEERS, "peer"),
        modelopt=_modelopt(out, options.modelopt, make=options.make_modelopt),
    )
    found = list(cells(choice, out))
    if options.json:
        print(json.dumps([msgspec.to_builtins(cell) for cell in found], indent=1))
    else:
        print("\n".join((*_head(), *tables(found, LOSSES))))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quantization")
    parser.add_argument("--out", type=Path, required=True, help="where cells are kept")
    parser.add_argument("--only", default=",".join(NETWORKS), help="networks, with commas")
    parser.add_argument("--peer", default=",".join(PEERS), help="tools, with commas")
    parser.add_argument("--again", default="", help="tools whose cells are measured anew")
    parser.add_argument("--modelopt", type=Path, help="the Python of modelopt's environment")
    parser.add_argument(
        "--make-modelopt",
        action="store_true",
        help="make that environment in DIR if there is none (2 GB, where torch is the CPU's)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    return parser


def _words(text: str, known: Iterable[str], what: str) -> list[str]:
    words, names = [word for word in text.split(",") if word], list(known)
    unknown = next((word for word in words if word not in names), None)
    if unknown is not None:
        sys.exit(f"there is no {what} {unknown!r}; there are {', '.join(names)}")
    return words


def _modelopt(out: Path, given: Path | None, *, make: bool) -> Path | None:
    """Return the Python of modelopt's environment, or None where there is none."""
    folder = out / "modelopt"
    python = folder / "bin" / "python"
    if given is None and make:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "-q", "-r", str(CONSTRAINTS)]
        subprocess.run(install, check=True, stdout=sys.stderr)
    return given or (python if python.exists() else None)


def _head() -> Iterator[str]:
    today = datetime.datetime.now(datetime.UTC).date()
    versions = tool_versions()
    yield from (
        "# INT8: asdic beside its peers",
        "",
        "    python -m benchmarks.quantization --out DIR --make-modelopt",
        "",
        f"{today}, {machine()}, {' '.join(cpu_features())}.",
        f"{', '.join(f'{name} {versions[name]}' for name in _VERSIONS)}, {_modelopt_version()}.",
        *_ABOUT.rstrip().splitlines(),
        *warning(),
    )


def _modelopt_version() -> str:
    lines = CONSTRAINTS.read_text().splitlines()
    return next(line for line in lines if line.startswith("nvidia-modelopt")).replace("==", " ")


if __name__ == "__main__":
    main()
