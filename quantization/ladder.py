"""Climbing a ladder of recipes until the gate passes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from asdic.contract.errors import AccuracyDropError, QuantizationError, UnsupportedModelError
from asdic.contract.target import ModelFormat, Runtime
from asdic.device.runner.postprocess import Prediction
from asdic.quantization.backends.backend import QuantizedFiles
from asdic.quantization.calibration import Inputs
from asdic.quantization.gate import Drop, Verdict, paired_drop, verdict_of
from asdic.quantization.job import run_job
from asdic.quantization.judge import Judgement, answers_of, check_conversion, judge, open_runner
from asdic.quantization.recipe import Recipe
from asdic.quantization.source import FloatModel

Stage = Callable[[str, str], None]
"""Told what happens now: of which format or target, and in words."""


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """A rung that was tried: its recipe and the verdict, or why it could not be judged."""

    recipe: str
    verdict: Verdict | None
    drop: float | None = None
    ci95: tuple[float, float] | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Rung:
    """A recipe carried out: its files in ``folder``, judged."""

    recipe: Recipe
    folder: Path
    files: QuantizedFiles
    judgement: Judgement
    drop: Drop
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Climb:
    """The best rung, and all that were tried on the way."""

    best: Rung
    tried: tuple[Tried, ...]


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """What is climbed: the recipes of one format, and what judges them.

    ``material`` is the folder that ``job.write_material`` filled; ``limit`` the drop in points
    that is allowed; ``runtime`` the one that answers here.
    """

    model: FloatModel
    inputs: Inputs
    model_format: ModelFormat
    runtime: Runtime
    recipes: Sequence[Recipe]
    limit: float
    seed: int
    material: Path
    folder: Path

    def climb(self, stage: Stage) -> Climb:
        """Try the recipes in order and stop at the first that passes.

        Without one that passes, the best is the one with the lowest upper bound of the drop.

        Raises:
            UnsupportedModelError: The format cannot express the model, whatever the recipe.
            QuantizationError: No recipe could be carried out; the last one's reason.
        """
        rungs: list[Rung] = []
        tried: list[Tried] = []
        reason: QuantizationError | None = None
        fp32: tuple[Prediction, ...] | None = None
        for number, recipe in enumerate(self.recipes):
            try:
                rung = self._rung(number, recipe, fp32, rungs, stage)
            except UnsupportedModelError:
                raise
            except QuantizationError as error:
                reason = error
                tried.append(Tried(recipe=recipe.name, verdict=None, reason=str(error)))
                continue
            fp32 = rung.judgement.fp32
            rungs.append(rung)
            tried.append(_tried(rung))
            if rung.verdict is Verdict.PASS:
                break
        if not rungs:
            raise reason or QuantizationError("there is no recipe to try")
        best = min(rungs, key=lambda rung: (rung.verdict is not Verdict.PASS, rung.drop.high))
        return Climb(best=best, tried=tuple(tried))

    def _rung(
        self,
        number: int,
        recipe: Recipe,
        fp32: tuple[Prediction, ...] | None,
        before: Sequence[Rung],
        stage: Stage,
    ) -> Rung:
        folder = self.folder / str(number)
        folder.mkdir(parents=True)
        if before:  # the float model is the same for every recipe
            for name in before[-1].files.float_files:
                shutil.copy(before[-1].folder / name, folder / name)
        stage(self.model_format.value, f"quantizing, {recipe.name}")
        files = run_job(
            self.model, self.model_format, recipe, material=self.material, folder=folder
        )
        stage(self.model_format.value, f"judging {len(self.inputs.cases)} images, {recipe.name}")
        judgement = self._judged(folder, files, fp32)
        drop = paired_drop(judgement.fp32_points, judgement.int8_points, seed=self.seed)
        return Rung(
            recipe=recipe,
            folder=folder,
            files=files,
            judgement=judgement,
            drop=drop,
            verdict=verdict_of(drop, limit=self.limit),
        )

    def _judged(
        self, folder: Path, files: QuantizedFiles, fp32: tuple[Prediction, ...] | None
    ) -> Judgement:
        if fp32 is None:
            with open_runner(folder, files, self.runtime, as_float=True) as runner:
                fp32 = answers_of(runner, self.inputs.cases)
            check_conversion(self.model, self.inputs.cases[0], fp32[0])
        with open_runner(folder, files, self.runtime) as runner:
            int8 = answers_of(runner, self.inputs.cases)
            facts = runner.facts()
        metric = self.model.description.metric
        return judge(self.inputs, fp32, int8, metric=metric, facts=facts)


def accuracy_drop(target: str, rung: Rung, *, limit: float) -> AccuracyDropError:
    """Return the error for a target whose best rung still lost too much."""
    return AccuracyDropError(
        target=target, limit=limit, measured=rung.drop.mean, bound=rung.drop.high
    )


def _tried(rung: Rung) -> Tried:
    return Tried(
        recipe=rung.recipe.name,
        verdict=rung.verdict,
        drop=rung.drop.mean,
        ci95=(rung.drop.low, rung.drop.high),
    )
