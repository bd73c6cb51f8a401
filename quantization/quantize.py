"""From a float model to one variant a target, each with a report and a verdict."""

from __future__ import annotations

import hashlib
import platform
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.errors import AccuracyDropError, AsdicError, ConfigError
from asdic.contract.files import canonical_json
from asdic.contract.target import ModelFormat, Target, target_named
from asdic.contract.variant import read_variant
from asdic.device.metrics import check_metric
from asdic.device.runner.engine import cpu_features, usable_threads
from asdic.quantization.calibration import SAMPLES, DataRules, Inputs, read_inputs
from asdic.quantization.findings import Findings
from asdic.quantization.gate import Verdict
from asdic.quantization.job import CALIBRATION_FILE, Workers, write_calibration
from asdic.quantization.kinds import FloatModel
from asdic.quantization.ladder import Climb, Ladder
from asdic.quantization.progress import Stage, silent
from asdic.quantization.provenance import (
    check_runtime,
    judge_of,
    parser_remark,
    tool_versions,
)
from asdic.quantization.recipe import FLOATS, LADDERS, Recipe, parse_recipe
from asdic.quantization.report import QuantizationReport, read_report
from asdic.quantization.source import Reading, read_source
from asdic.quantization.variant import write_refusal, write_variant
from asdic.quantization.workspace import open_workspace

MAX_DROP: Final = 0.5
MIN_AGREEMENT: Final = 80.0
"""Without labels. A choice and no finding, made after a carotid network on images of muscle came
to 84 points: Dice with FP32's own masks says little about accuracy, and a network that is unsure
of an image disagrees with itself easily. Who knows the use should ask for more."""

REFUSED: Final = frozenset({Verdict.FAIL, Verdict.NOT_QUANTIZED})
"""Verdicts with which a variant is not written without ``Options.allow_fail``."""

_MATERIAL_DIGITS: Final = 16
_AT_ONCE: Final = 2


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a person may choose; the defaults are for a model with labels.

    ``max_drop`` is in points of the model's metric, ``min_agreement`` in points of agreement
    with FP32 and counts where there are no labels. ``metric`` replaces the model's own.
    ``recipe`` pins one for all targets; of a ladder, the first ``max_rung`` recipes are tried,
    None for all. ``samples`` is how many images calibrate, ``rules`` what else was said about
    the samples. ``force`` replaces variants that exist, and ``allow_fail`` writes those that
    lost too much.
    """

    max_drop: float = MAX_DROP
    min_agreement: float = MIN_AGREEMENT
    metric: str | None = None
    recipe: str | None = None
    max_rung: int | None = None
    samples: int = SAMPLES
    rules: DataRules = field(default_factory=DataRules)
    seed: int = 0
    force: bool = False
    allow_fail: bool = False

    def limit(self, *, labelled: bool) -> float:
        """Return the drop in points that is allowed."""
        return self.max_drop if labelled else 100.0 - self.min_agreement


def quantize_model(
    source: Path | str,
    targets: Sequence[str],
    out: Path,
    *,
    data: Path | str | None = None,
    reading: Reading | None = None,
    options: Options | None = None,
    stage: Stage = silent,
) -> list[QuantizationReport]:
    """Quantize a model for ``targets`` and write each as a folder ``out/<target>/``.

    Targets that share a format share its conversion. A folder that was made from the very same
    inputs is kept. A target that lost too much gets no variant: its report lies in
    ``out/<target>.refused/``.

    Args:
        source: A run's folder, a model's file, or ``package.module:factory``.
        targets: Names from ``asdic.contract.target.TARGETS``.
        out: Where the variants go.
        data: A folder of images, an ``.npz``, or ``package.module:loader``; None takes what the
            run remembers.
        reading: What the model does not say itself.
        options: What a person may choose.
        stage: Told what happens now.

    Returns:
        One report a target, in the order of ``targets``.

    Raises:
        ConfigError: An unknown target, a variant in the way, a source that is none, and others
            that a person at the keyboard can mend.
        DataError: The images or labels cannot be used.
        MissingPackageError: A runtime or tool is not installed.
        UnsupportedModelError: The model holds something that a target cannot run.
        AccuracyDropError: INT8 lost too much for a target by every recipe. All else is written.
    """
    chosen = [target_named(name) for name in dict.fromkeys(targets)]
    choice = options or Options()
    recipes = {target.model_format: _recipes(target.model_format, choice) for target in chosen}
    for target in chosen:
        check_runtime(judge_of(target))
    with open_workspace(out) as workspace:
        stage("model", f"reading {source}")
        model = read_source(source, workspace, data=data, reading=reading)
        model = _judged_by(choice.metric, model)
        stage("model", f"{model.name}, read", done=1, total=1)
        stage("samples", f"reading {model.data or ''}")
        inputs = read_inputs(
            model.data,
            model.description,
            samples=choice.samples,
            seed=choice.seed,
            rules=choice.rules,
        )
        stage("samples", f"{len(inputs.cases)} judge", done=1, total=1)
        run = _Run(
            model=model,
            inputs=inputs,
            out=out,
            options=choice,
            recipes=recipes,
            stage=stage,
            workspace=workspace,
        )
        return run.reports(chosen)


@dataclass(frozen=True, kw_only=True)
class _Run:
    """One call of ``quantize_model``, after all that can be checked first was checked."""

    model: FloatModel
    inputs: Inputs
    out: Path
    options: Options
    recipes: Mapping[ModelFormat, tuple[Recipe, ...]]
    stage: Stage
    workspace: Path

    @property
    def limit(self) -> float:
        return self.options.limit(labelled=self.inputs.labelled)

    def reports(self, targets: Sequence[Target]) -> list[QuantizationReport]:
        kept = {target.name: self._kept(target) for target in targets}
        wanted = [target for target in targets if kept[target.name] is None]
        made = self._made(wanted) if wanted else {}
        reports = [kept[target.name] or made[target.name] for target in targets]
        refused = [one for one in reports if self._is_refused(one)]
        if refused:
            raise AccuracyDropError(
                "; ".join(f"{one.target}: {one.summary}" for one in refused)
                + f". The reports: {', '.join(str(self._folder(one)) for one in refused)}",
                tuple(self._folder(one) for one in reports),
            )
        return reports

    def _kept(self, target: Target) -> QuantizationReport | None:
        """Return the report of a variant that was made from the same inputs, or was refused."""
        folder = self.out / target.name
        if self.options.force:
            return None
        if not folder.exists():
            return self._kept_refusal(target)
        if (
            _is_whole(folder)
            and (report := read_report(folder)).fingerprint == self._fingerprint(target)
            and not self._is_refused(report)
        ):
            self.stage(target.name, "unchanged, kept", done=1, total=1)
            return report
        raise ConfigError(
            f"{folder} is damaged, or was made from other inputs or options; "
            "use --force to replace it"
        )

    def _kept_refusal(self, target: Target) -> QuantizationReport | None:
        folder = _refused_folder(self.out, target.name)
        with suppress(ConfigError, OSError):
            report = read_report(folder)
            if report.fingerprint == self._fingerprint(target) and self._is_refused(report):
                self.stage(target.name, "unchanged, refused as before", done=1, total=1)
                return report
        return None

    def _is_refused(self, report: QuantizationReport) -> bool:
        return report.verdict in REFUSED and not self.options.allow_fail

    def _folder(self, report: QuantizationReport) -> Path:
        """Return where the report of a target lies."""
        if self._is_refused(report):
            return _refused_folder(self.out, report.target)
        return self.out / report.target

    @property
    def _material(self) -> str:
        """What all rungs are made from, as a name for the folder with what was done so far."""
        parts = {
            "model": self.model.digest,
            "description": self.model.description,
            "inputs": self.inputs.digest,
            "seed": self.options.seed,
            "tools": tool_versions(),
            "processor": [platform.machine(), *cpu_features()],
        }
        return hashlib.sha256(canonical_json(parts)).hexdigest()[:_MATERIAL_DIGITS]

    def _fingerprint(self, target: Target) -> str:
        parts = {
            "material": self._material,
            "target": target,
            "recipes": [one.name for one in self.recipes[target.model_format]],
            "max_rung": self.options.max_rung,
            "limit": self.limit,
            "max_drop": self.options.max_drop,
        }
        return f"sha256:{hashlib.sha256(canonical_json(parts)).hexdigest()}"

    def _made(self, targets: Sequence[Target]) -> dict[str, QuantizationReport]:
        climbs = self._climbed(targets)
        parsed: dict[ModelFormat, tuple[str, ...]] = {
            model_format: (parser_remark(climb.best.paths[0]),)
            for model_format, climb in climbs.items()
            if model_format is ModelFormat.ONNX_QDQ
        }
        return {
            target.name: self._written(
                target, climbs[target.model_format], parsed.get(target.model_format, ())
            )
            for target in targets
        }

    def _climbed(self, targets: Sequence[Target]) -> dict[ModelFormat, Climb]:
        workers = Workers()
        ladders = self._ladders(targets, workers)
        with ThreadPoolExecutor(max_workers=min(_AT_ONCE, usable_threads())) as pool:
            climbing = {
                one: pool.submit(ladder.climb, self.stage) for one, ladder in ladders.items()
            }
            try:
                return {model_format: future.result() for model_format, future in climbing.items()}
            except BaseException:
                workers.stop()
                raise

    def _ladders(self, targets: Sequence[Target], workers: Workers) -> dict[ModelFormat, Ladder]:
        folder = self.workspace / self._material
        folder.mkdir(exist_ok=True)
        calibration = folder / CALIBRATION_FILE
        if not calibration.is_file():
            write_calibration(self.inputs.calibration, calibration)
        return {
            target.model_format: Ladder(
                model=self.model,
                inputs=self.inputs,
                model_format=target.model_format,
                runtime=judge_of(target),
                recipes=self.recipes[target.model_format],
                limit=self.limit,
                seed=self.options.seed,
                calibration=calibration,
                folder=folder / target.model_format.value,
                workers=workers,
                floats=FLOATS if self.options.recipe is None else (),
                max_rung=self.options.max_rung,
            )
            for target in targets
        }

    def _written(self, target: Target, climb: Climb, remarks: Sequence[str]) -> QuantizationReport:
        report = self._findings.report(
            target, climb, remarks=remarks, fingerprint=self._fingerprint(target)
        )
        self.stage(target.name, "writing")
        refused = _refused_folder(self.out, target.name)
        if self._is_refused(report):
            write_refusal(refused, rung=climb.best, inputs=self.inputs, report=report)
            self.stage(target.name, report.summary, done=1, total=1)
            return report
        write_variant(
            self.out / target.name,
            target=target,
            rung=climb.best,
            inputs=self.inputs,
            description=self.model.description,
            report=report,
            max_drop=self.options.max_drop,
            replace=self.options.force,
        )
        shutil.rmtree(refused, ignore_errors=True)
        self.stage(target.name, report.summary, done=1, total=1)
        return report

    @property
    def _findings(self) -> Findings:
        return Findings(
            model=self.model,
            inputs=self.inputs,
            limit=self.limit,
            seed=self.options.seed,
            stage=self.stage,
        )


def _is_whole(folder: Path) -> bool:
    try:
        read_variant(folder)
        read_report(folder)
    except AsdicError:
        return False
    return True


def _judged_by(metric: str | None, model: FloatModel) -> FloatModel:
    """Return ``model`` with the metric that a person chose, if it fits what the model answers."""
    if metric is None:
        return model
    check_metric(metric, model.description.postprocessing)
    description = msgspec.structs.replace(model.description, metric=metric)
    return msgspec.structs.replace(model, description=description)


def _recipes(model_format: ModelFormat, options: Options) -> tuple[Recipe, ...]:
    if options.recipe is None:
        return LADDERS[model_format]
    return (parse_recipe(options.recipe, model_format),)


def _refused_folder(out: Path, target: str) -> Path:
    return out / f"{target}.refused"
