"""One network in one format: what each tool makes of the same float file, judged alike.

Each tool runs in a process of its own. Its file answers the samples that asdic's own gate asks, on
the runtime that flies; a Jetson's graph in simulation, and with this processor's INT8 kernels
beside it. asdic runs as a person would run it, with no option.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec
import onnx

from asdic.contract.errors import AsdicError, QuantizationError
from asdic.contract.messages import RuntimeFacts
from asdic.contract.target import ModelFormat
from asdic.contract.variant import read_variant
from asdic.device.runner.onnxruntime import OnnxRuntimeEngine
from asdic.device.runner.postprocess import Prediction
from asdic.device.runner.runner import Runner
from asdic.quantization.backends.backend import FloatFiles
from asdic.quantization.backends.placement import check_placement
from asdic.quantization.backends.rtx import try_rtx
from asdic.quantization.calibration import Inputs, read_inputs
from asdic.quantization.drop import PairedPoints
from asdic.quantization.graphs.graph import int8_share, open_graph
from asdic.quantization.job import ConvertJob, Workers, write_calibration
from asdic.quantization.judge import Judgement, answers_of, finite_or_none, judge, open_runner
from asdic.quantization.kinds import RUNTIMES, FloatModel
from asdic.quantization.report import QuantizationReport, read_report
from asdic.quantization.source import read_source
from benchmarks.peers.cells import Cell, Kernels, kept
from benchmarks.peers.networks import ASDIC, NETWORKS, Subject
from benchmarks.peers.tools import TOOLS, Tool

OURS: Final = "asdic"
REFERENCE: Final = "reference"
REPOSITORY: Final = Path(__file__).parents[2]
TIMEOUT_S: Final = 1800.0
_FAILURE_LIMIT: Final = 300
_TARGETS: Final = MappingProxyType(
    {
        ModelFormat.TFLITE: "x86-litert-int8",
        ModelFormat.OPENVINO_IR: "x86-openvino-int8",
        ModelFormat.ONNX_QDQ: "jetson-orin-int8",
    }
)


class ToolError(Exception):
    """A tool ended with an error, or not in time; the message is its last words."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is measured: networks, tools, which of these again, and where modelopt lives."""

    networks: Sequence[str]
    peers: Sequence[str]
    again: Sequence[str] = ()
    modelopt: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Made:
    """A tool's INT8 files and the seconds of its call and of its whole process."""

    files: tuple[Path, ...]
    seconds: float
    process_seconds: float


def cells(choice: Choice, out: Path) -> Iterator[Cell]:
    """Yield the cells, those that ``out`` lacks as soon as they are measured."""
    for name in choice.networks:
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        subject = NETWORKS[name](folder)
        model = read_source(subject.model, folder)
        inputs = read_inputs(subject.data, model.description)
        for model_format in ModelFormat:
            bench = Bench(
                subject=subject,
                model=model,
                inputs=inputs,
                model_format=model_format,
                folder=folder / model_format.value,
                modelopt=choice.modelopt,
            )
            yield from bench.cells(choice)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """One network in one format, and what judges it."""

    subject: Subject
    model: FloatModel
    inputs: Inputs
    model_format: ModelFormat
    folder: Path
    modelopt: Path | None

    def cells(self, choice: Choice) -> Iterator[Cell]:
        """Yield the cell of each tool that is chosen, asdic's last."""
        self.folder.mkdir(exist_ok=True)
        for tool in (one for one in TOOLS if one.model_format == self.model_format.value):
            if tool.peer in choice.peers:
                yield self._kept(choice, tool.peer, tool.name, self._about_peer(tool), tool=tool)
        if self._reference is not None and REFERENCE in choice.peers:
            yield self._kept(choice, REFERENCE, REFERENCE, self._about("the publisher's own INT8"))
        if OURS in choice.peers:
            yield self._kept(choice, OURS, OURS, self._about(OURS))

    def _kept(
        self, choice: Choice, peer: str, name: str, about: Cell, tool: Tool | None = None
    ) -> Cell:
        path = self.folder / f"{name}.json"
        if peer in choice.again:
            path.unlink(missing_ok=True)

        def measure() -> Cell:
            print(f"{self.subject.name}: {about.tool}, {self.model_format.value}", file=sys.stderr)
            try:
                if peer == OURS:
                    return self._ours(about)
                made = self._peers(tool) if tool else self._published()
                return self._judged(about, made)
            except (AsdicError, ToolError) as error:
                return msgspec.structs.replace(about, failed=_last_line(str(error)))

        return kept(path, measure)

    def _about_peer(self, tool: Tool) -> Cell:
        about = self._about(f"{tool.peer}, {tool.setting}")
        return msgspec.structs.replace(about, is_default=tool.is_default)

    def _about(self, tool: str) -> Cell:
        return Cell(
            network=self.subject.name,
            model_format=self.model_format.value,
            tool=tool,
            labelled=self.inputs.labelled,
        )

    # What makes a file

    def _peers(self, tool: Tool) -> Made:
        source = self._float[0]
        folder = self.folder / tool.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        target = folder / source.name.replace("float", "model")
        python = Path(sys.executable) if tool.peer != "modelopt" else self.modelopt
        if python is None:
            raise ToolError(
                "not measured: install constraints/modelopt.txt in an environment of its own and "
                "name its Python with --modelopt, or give --make-modelopt"
            )
        started = time.perf_counter()
        printed = _output(
            [str(python), "-m", "benchmarks.peers.cell", tool.name],
            [str(source), str(self.folder / "calibration.npz"), str(target)],
        )
        return Made(
            files=(target,),
            seconds=float(printed.splitlines()[-1]),
            process_seconds=time.perf_counter() - started,
        )

    @property
    def _reference(self) -> Path | None:
        return self.subject.reference if self.model_format is ModelFormat.TFLITE else None

    def _published(self) -> Made:
        assert self._reference is not None
        return Made(files=(self._reference,), seconds=0.0, process_seconds=0.0)

    def _ours(self, about: Cell) -> Cell:
        out = self.folder / OURS
        shutil.rmtree(out, ignore_errors=True)
        command = [*ASDIC, "quantize", str(self.subject.model), "--data", str(self.subject.data)]
        options = ["--target", _TARGETS[self.model_format], "--out", str(out)]
        started, gate = time.perf_counter(), ""
        try:
            _output(command, options)
        except ToolError as error:
            # A file that lost too much is not written without being asked for: ask for its figures.
            gate = str(error)
            elapsed = time.perf_counter() - started
            _output(command, [*options, "--allow-fail"])
        else:
            elapsed = time.perf_counter() - started
        folder = out / _TARGETS[self.model_format]
        report = read_report(folder)
        files = tuple(folder / one.name for one in read_variant(folder).files)
        made = Made(files=files, seconds=report.tried[0].seconds, process_seconds=elapsed)
        cell = self._judged(about, made)
        return msgspec.structs.replace(cell, note=_climb(report), gate=_last_line(gate))

    # What judges it

    @cached_property
    def _files(self) -> FloatFiles:
        """The float file, and the calibration samples beside it as it takes them."""
        described = self.folder / "described.npz"
        write_calibration(self.inputs.calibration, described)
        job = ConvertJob(model=self.model, model_format=self.model_format, calibration=described)
        files = Workers().convert(job, self.folder / "float")
        write_calibration(files.laid_out(self.inputs.calibration), self.folder / "calibration.npz")
        return files

    @property
    def _float(self) -> tuple[Path, ...]:
        return tuple(self.folder / "float" / name for name in self._files.files)

    @cached_property
    def _fp32(self) -> tuple[Prediction, ...]:
        return self._answers(self._float)

    def _answers(self, files: Sequence[Path]) -> tuple[Prediction, ...]:
        with open_runner(RUNTIMES[self.model_format], files, self._files) as runner:
            return answers_of(runner, self.inputs.cases)

    def _judged(self, about: Cell, made: Made) -> Cell:
        fp32 = self._fp32
        started = time.perf_counter()
        int8 = self._answers(made.files)
        elapsed = time.perf_counter() - started
        found = self._judgement(fp32, int8)
        drop, values = found.pairing.drop(), found.pairing.values()
        is_onnx = self.model_format is ModelFormat.ONNX_QDQ
        refused, placement = _for_tensorrt(made.files[0]) if is_onnx else ("", "")
        return msgspec.structs.replace(
            about,
            metric=found.metric,
            fp32=values[0],
            int8=values[1],
            drop=drop.mean,
            ci95=(drop.low, drop.high),
            samples=drop.samples,
            points=tuple(found.int8_points.tolist()),
            may_flip=isinstance(found.pairing, PairedPoints) and found.pairing.may_flip,
            sqnr_db=finite_or_none(found.sqnr_db),
            int8_share=_share(self.model_format, made.files),
            seconds=made.seconds,
            process_seconds=made.process_seconds,
            judging_seconds=elapsed,
            kernels=self._with_kernels(made.files) if is_onnx else None,
            refused=refused,
            placement=placement,
        )

    def _judgement(self, fp32: tuple[Prediction, ...], int8: tuple[Prediction, ...]) -> Judgement:
        facts = RuntimeFacts(runtime=RUNTIMES[self.model_format].value, version="")
        metric = self.model.description.metric
        return judge(self.inputs, fp32, int8, metric=metric, facts=facts)

    def _with_kernels(self, files: Sequence[Path]) -> Kernels | None:
        """Return what ONNX Runtime's own INT8 kernels make of the file, or None if it cannot."""
        with suppress(AsdicError), self._kernels_runner(files) as runner:
            found = self._judgement(self._fp32, answers_of(runner, self.inputs.cases))
            return Kernels(drop=found.pairing.drop().mean, sqnr_db=finite_or_none(found.sqnr_db))
        return None

    def _kernels_runner(self, files: Sequence[Path]) -> Runner:
        return Runner(
            OptimizedEngine(files),
            preprocessing=self._files.preprocessing,
            postprocessing=self._files.postprocessing,
        )


class OptimizedEngine(OnnxRuntimeEngine):
    """ONNX Runtime as its users run it: with all graph optimizations, in INT8 kernels."""

    def __init__(self, files: Sequence[Path]) -> None:
        import onnxruntime

        super().__init__(files, threads=1, execution_device="cpu")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session: Any = onnxruntime.InferenceSession(
            str(files[0]), options, providers=["CPUExecutionProvider"]
        )


def _output(command: Sequence[str], options: Sequence[str]) -> str:
    """Return what a command printed.

    Raises:
        ToolError: It failed, or took more than ``TIMEOUT_S``.
    """
    try:
        done = subprocess.run(
            [*command, *options],
            cwd=REPOSITORY,
            env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"took more than {TIMEOUT_S:.0f} s") from error
    if done.returncode:
        raise ToolError(_last_line(done.stderr) or f"exit status {done.returncode}, no words")
    return done.stdout.strip()


def _share(model_format: ModelFormat, files: Sequence[Path]) -> float | None:
    try:
        with open_graph(model_format, files) as graph:
            return int8_share(graph.layers)
    except AsdicError:
        return None


def _for_tensorrt(path: Path) -> tuple[str, str]:
    """Return why TensorRT-RTX refuses a file, or nothing, and what asdic's own rules say of it.

    What it accepts may still run slower than it could: asdic would not write it, but a peer may.
    """
    errors = try_rtx(path)
    try:
        check_placement(onnx.load(path))
    except QuantizationError as error:
        remark = _last_line(str(error))
        return ("" if errors is not None and not errors else remark), remark
    return (_last_line(errors[0]) if errors else ""), ""


def _climb(report: QuantizationReport) -> str:
    names = [one.recipe for one in report.tried]
    rung = names.index(report.recipe) + 1
    return f"{report.recipe}, {report.verdict.value}, rung {rung} of {len(names)} tried"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-_FAILURE_LIMIT:] if lines else ""
