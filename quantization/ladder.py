"""Climbing a ladder of recipes until the gate passes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from asdic.contract.errors import AccuracyDropError, QuantizationError, UnsupportedModelError
from asdic.contract.messages import RuntimeFacts
from asdic.contract.target import ModelFormat, Runtime
from asdic.device.runner.postprocess import Prediction
from asdic.quantization.backends.backend import FloatFiles, QuantizedFiles
from asdic.quantization.calibration import Inputs
from asdic.quantization.drop import Drop
from asdic.quantization.gate import Verdict, verdict_of
from asdic.quantization.job import ConvertJob, QuantizeJob, Workers
from asdic.quantization.judge import Judgement, answers_of, finite_or_none, judge, open_runner
from asdic.quantization.kinds import FloatModel
from asdic.quantization.progress import Stage, counted
from asdic.quantization.recipe import Recipe


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """A rung that was tried: its recipe, the verdict or why there is none, and what it took.

    ``sqnr_db`` is None also where INT8's answers equal FP32's. ``int8_share`` is 0 to 1.
    """

    recipe: str
    verdict: Verdict | None
    drop: float | None = None
    ci95: tuple[float, float] | None = None
    sqnr_db: float | None = None
    int8_share: float | None = None
    reason: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Rung:
    """A recipe carried out: its files in ``folder``, judged. ``model`` describes their tensors."""

    recipe: Recipe
    folder: Path
    model: FloatFiles
    files: QuantizedFiles
    judgement: Judgement
    drop: Drop
    verdict: Verdict

    @property
    def paths(self) -> tuple[Path, ...]:
        """The INT8 files, the one that a runtime opens first."""
        return tuple(self.folder / name for name in self.files.files)


@dataclass(frozen=True, kw_only=True)
class Climb:
    """The best rung, all that were tried on the way, and the float twin's files."""

    best: Rung
    tried: tuple[Tried, ...]
    float_paths: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """What is climbed: the recipes of one format, and what judges them.

    ``calibration`` is the file that ``job.write_calibration`` wrote; ``limit`` the drop in points
    that is allowed; ``runtime`` the one that answers here. What is in ``folder`` already, from a
    climb that was interrupted, is used again.
    """

    model: FloatModel
    inputs: Inputs
    model_format: ModelFormat
    runtime: Runtime
    recipes: Sequence[Recipe]
    limit: float
    seed: int
    calibration: Path
    folder: Path
    workers: Workers

    def climb(self, stage: Stage) -> Climb:
        """Try the recipes in order and stop at the first that passes.

        Without one that passes, the best is the one with the lowest upper bound of the drop.

        Raises:
            UnsupportedModelError: The format cannot express the model, whatever the recipe.
            QuantizationError: The float model could not be converted, or no recipe could be
                carried out; the last one's reason.
        """
        stage(self.model_format.value, "converting")
        source = self.folder / "float"
        job = ConvertJob(
            model=self.model, model_format=self.model_format, calibration=self.calibration
        )
        model = self.workers.convert(job, source)
        paths = [source / name for name in model.files]
        fp32 = self._answers(model, paths, stage, "asking the float model")[0]
        rungs: list[Rung] = []
        tried: list[Tried] = []
        reason: QuantizationError | None = None
        for recipe in self.recipes:
            started = time.monotonic()
            try:
                rung = self._rung(recipe, model, fp32, stage)
            except UnsupportedModelError:
                raise
            except QuantizationError as error:
                reason = error
                tried.append(_failed(recipe, error, time.monotonic() - started))
                continue
            rungs.append(rung)
            tried.append(_tried(rung, time.monotonic() - started))
            if rung.verdict is Verdict.PASS:
                break
        if not rungs:
            raise reason or QuantizationError("there is no recipe to try")
        best = min(rungs, key=lambda rung: (rung.verdict is not Verdict.PASS, rung.drop.high))
        return Climb(
            best=best,
            tried=tuple(tried),
            float_paths=tuple(paths),
        )

    def _rung(
        self, recipe: Recipe, model: FloatFiles, fp32: tuple[Prediction, ...], stage: Stage
    ) -> Rung:
        folder = self.folder / recipe.name
        stage(self.model_format.value, f"quantizing, {recipe.name}")
        job = QuantizeJob(
            model=model,
            source=self.folder / "float",
            model_format=self.model_format,
            recipe=recipe.name,
            calibration=self.calibration,
        )
        files = self.workers.quantize(job, folder)
        paths = [folder / name for name in files.files]
        int8, facts = self._answers(model, paths, stage, f"judging {recipe.name}")
        metric = self.model.description.metric
        judgement = judge(self.inputs, fp32, int8, metric=metric, facts=facts)
        drop = judgement.pairing.drop(seed=self.seed)
        return Rung(
            recipe=recipe,
            folder=folder,
            model=model,
            files=files,
            judgement=judgement,
            drop=drop,
            verdict=verdict_of(drop, limit=self.limit),
        )

    def _answers(
        self, model: FloatFiles, paths: Sequence[Path], stage: Stage, text: str
    ) -> tuple[tuple[Prediction, ...], RuntimeFacts]:
        cases = counted(self.inputs.cases, stage, self.model_format.value, text)
        with open_runner(self.runtime, paths, model) as runner:
            return answers_of(runner, cases), runner.facts()


def accuracy_drop(target: str, rung: Rung, *, limit: float) -> AccuracyDropError:
    """Return the error for a target whose best rung still lost too much."""
    return AccuracyDropError(
        target=target, limit=limit, measured=rung.drop.mean, bound=rung.drop.high
    )


def _tried(rung: Rung, seconds: float) -> Tried:
    return Tried(
        seconds=round(seconds, 2),
        recipe=rung.recipe.name,
        verdict=rung.verdict,
        drop=rung.drop.mean,
        ci95=(rung.drop.low, rung.drop.high),
        sqnr_db=finite_or_none(rung.judgement.sqnr_db),
        int8_share=rung.files.int8_share,
    )


def _failed(recipe: Recipe, error: QuantizationError, seconds: float) -> Tried:
    return Tried(recipe=recipe.name, verdict=None, reason=str(error), seconds=round(seconds, 2))
