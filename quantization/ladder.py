"""Climbing a ladder of recipes until the gate passes.

Above the recipes of the table come rungs that leave the most sensitive layers float, fewest
first, until less than half of the model is INT8.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.errors import QuantizationError, UnsupportedModelError
from asdic.contract.messages import RuntimeFacts
from asdic.contract.target import ModelFormat, Runtime
from asdic.device.runner.postprocess import Prediction
from asdic.device.runner.preprocess import prepare
from asdic.quantization.backends.backend import FloatFiles, QuantizedFiles
from asdic.quantization.broken import broken_layer
from asdic.quantization.calibration import Inputs
from asdic.quantization.drop import Drop
from asdic.quantization.gate import INT8_SHARE_AT_LEAST, Verdict, fewest_to_pass, verdict_of
from asdic.quantization.graphs.graph import int8_share, open_graph
from asdic.quantization.job import ConvertJob, QuantizeJob, SensitivityJob, Workers
from asdic.quantization.judge import (
    Judgement,
    answers_of,
    finite_or_none,
    judge,
    open_runner,
    refuse_infinite,
)
from asdic.quantization.kinds import FloatModel
from asdic.quantization.progress import Stage, counted
from asdic.quantization.recipe import Recipe
from asdic.quantization.saturation import CLEARLY_DB, kernels_cost_db
from asdic.quantization.sensitivity import Sensitivities

_RANKS: Final = (Verdict.PASS, Verdict.UNDECIDED, Verdict.FAIL, Verdict.NOT_QUANTIZED)


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """A rung that was tried: its recipe, the verdict or why there is none, and what it took.

    ``floats`` are the layers that it leaves float, the most sensitive first; ``sqnr_db`` compares
    the model's outputs, None where they are equal; ``int8_share`` is that of the
    multiply-accumulates. ``notes`` say what else is to be known about it.
    """

    recipe: str
    verdict: Verdict | None
    drop: float | None = None
    ci95: tuple[float, float] | None = None
    reason: str = ""
    seconds: float = 0.0
    sqnr_db: float | None = None
    int8_share: float | None = None
    floats: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Rung:
    """A recipe carried out: its files in ``folder``, judged. ``model`` describes their tensors.

    ``int8_share`` is the share of the multiply-accumulates that are INT8, 0 to 1.
    """

    recipe: Recipe
    folder: Path
    model: FloatFiles
    files: QuantizedFiles
    judgement: Judgement
    drop: Drop
    verdict: Verdict
    int8_share: float
    floats: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[int, float, float]:
        """Where it stands among others, the best first: by verdict, drop at worst, and SQNR."""
        return _RANKS.index(self.verdict), self.drop.high, -self.judgement.sqnr_db

    @property
    def paths(self) -> tuple[Path, ...]:
        """The INT8 files, the one that a runtime opens first."""
        return tuple(self.folder / name for name in self.files.files)


@dataclass(frozen=True, kw_only=True)
class Climb:
    """The best rung, all that were tried on the way, and the float twin's files.

    ``sensitivities`` is None where the climb ended before any were measured; ``remarks`` say why
    it ended where it did, if that is not plain.
    """

    best: Rung
    tried: tuple[Tried, ...]
    float_paths: tuple[Path, ...]
    sensitivities: Sensitivities | None = None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Ladder:
    """What is climbed: the recipes of one format, and what judges them.

    ``calibration`` is the file that ``job.write_calibration`` wrote; ``limit`` the drop in points
    that is allowed; ``runtime`` the one that answers here. ``floats`` are the rungs above
    ``recipes``: the best so far with that many of the most sensitive layers in float. What is in
    ``folder`` already, from a climb that was interrupted, is used again.
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
    floats: Sequence[int] = ()
    max_rung: int | None = None

    def climb(self, stage: Stage) -> Climb:
        """Try the recipes in order and stop at the first that passes.

        Without one that passes, the best is by verdict (undecided, fail, not quantized), then by
        the upper bound of the drop. A recipe that cannot be carried out does not end the climb.
        It ends undecided where no recipe, however good, could pass with so few samples.

        Raises:
            UnsupportedModelError: The format cannot express the model, whatever the recipe.
            QuantizationError: The float model could not be converted, or no recipe could be
                carried out; the last one's reason.
        """
        stage(self.model_format.value, "converting")
        job = ConvertJob(
            model=self.model, model_format=self.model_format, calibration=self.calibration
        )
        model = self.workers.convert(job, self._source)
        paths = tuple(self._source / name for name in model.files)
        fp32 = self._float_answers(model, paths, stage)
        ascent = _Ascent(ladder=self, model=model, fp32=fp32, stage=stage)
        ascent.climb()
        if not ascent.rungs:
            raise ascent.reason or QuantizationError("there is no recipe to try")
        return Climb(
            best=min(ascent.rungs, key=lambda rung: rung.rank),
            tried=tuple(ascent.tried),
            float_paths=paths,
            sensitivities=ascent.sensitivities,
            remarks=tuple(ascent.remarks),
        )

    @property
    def _source(self) -> Path:
        return self.folder / "float"

    def sensitivities(self, recipe: Recipe, model: FloatFiles, stage: Stage) -> Sensitivities:
        """Return how sensitive the layers are to a recipe, measured in a worker."""
        stage(self.model_format.value, "measuring which layers are sensitive")
        plain = recipe.uncorrected  # which takes long, once a layer
        job = SensitivityJob(
            model=model,
            source=self._source,
            model_format=self.model_format,
            recipe=plain.name,
            calibration=self.calibration,
        )
        return self.workers.measure(job, self.folder / f"sensitivity-{plain.name}")

    def rung(
        self,
        recipe: Recipe,
        model: FloatFiles,
        fp32: tuple[Prediction, ...],
        stage: Stage,
        floats: tuple[str, ...] = (),
    ) -> Rung:
        """Return one recipe carried out and judged, with ``floats`` in float."""
        folder = self.folder / recipe.name
        stage(self.model_format.value, f"quantizing, {recipe.name}")
        job = QuantizeJob(
            model=model,
            source=self._source,
            model_format=self.model_format,
            recipe=recipe.name,
            calibration=self.calibration,
            floats=floats,
        )
        files = self.workers.quantize(job, folder)
        paths = [folder / name for name in files.files]
        int8, facts = self._answers(model, paths, stage, f"judging {recipe.name}")
        metric = self.model.description.metric
        judgement = judge(self.inputs, fp32, int8, metric=metric, facts=facts)
        drop = judgement.pairing.drop(seed=self.seed)
        with open_graph(self.model_format, paths) as graph:
            share = int8_share(graph.layers)
        return Rung(
            recipe=recipe,
            folder=folder,
            model=model,
            files=files,
            judgement=judgement,
            drop=drop,
            verdict=verdict_of(drop, limit=self.limit, int8_share=share),
            int8_share=share,
            floats=floats,
        )

    def _float_answers(
        self, model: FloatFiles, paths: Sequence[Path], stage: Stage
    ) -> tuple[Prediction, ...]:
        """Return the float model's answers; where they are no numbers, the layer is named."""
        try:
            fp32 = self._answers(model, paths, stage, "asking the float model")[0]
            refuse_infinite("the float model", self.inputs.cases, fp32)
        except QuantizationError as error:
            samples = (
                (case.name, prepare(case.inputs, model.preprocessing)) for case in self.inputs.cases
            )
            raise broken_layer(self.model_format, paths, samples) or error from error
        return fp32

    def _answers(
        self, model: FloatFiles, paths: Sequence[Path], stage: Stage, text: str
    ) -> tuple[tuple[Prediction, ...], RuntimeFacts]:
        cases = counted(self.inputs.cases, stage, self.model_format.value, text)
        with open_runner(self.runtime, paths, model) as runner:
            return answers_of(runner, cases), runner.facts()


@dataclass(kw_only=True)
class _Ascent:
    """One climb of a ladder, and how far it came."""

    ladder: Ladder
    model: FloatFiles
    fp32: tuple[Prediction, ...]
    stage: Stage
    rungs: list[Rung] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    reason: QuantizationError | None = None
    sensitivities: Sensitivities | None = None

    def climb(self) -> None:
        left = list(self.ladder.recipes)
        while left and not self._is_over():
            self._try(left.pop(0))
            if self._kernels_saturate():
                left.sort(key=lambda one: "overflow" not in one.options)
        if self.rungs and self.ladder.floats and not self._is_over():
            self._leave_layers_float()
        if self.rungs and (fewest := self._samples_to_decide()):
            self.remarks.append(
                f"no recipe can pass with so few samples, at least {fewest} are needed to show a "
                f"drop of at most {self.ladder.limit:g} points: the climb ended there"
            )

    def _kernels_saturate(self) -> bool:
        """Return whether the last rung lost too much by this processor's kernels."""
        last = self.rungs[-1] if self.rungs else None
        if last is None or last.verdict is Verdict.PASS or "overflow" in last.recipe.options:
            return False
        cost_db = kernels_cost_db(
            self.ladder.model_format,
            self.model,
            last.paths,
            self.ladder.inputs.cases,
            (self.fp32, last.judgement.int8),
        )
        if cost_db < CLEARLY_DB:
            return False
        self.remarks.append(
            f"{last.recipe.name}: this processor's INT8 kernels cost {cost_db:.1f} dB more than "
            "quantization itself (their sums saturate), so 7-bit weights are tried next"
        )
        return True

    def _leave_layers_float(self) -> None:
        """Try the best recipe with ever more layers in float, until too little is INT8."""
        best = min(self.rungs, key=lambda rung: rung.rank).recipe
        try:
            known = len(self._measured(best).measured)
        except QuantizationError as error:
            self.remarks.append(f"which layers are sensitive could not be measured: {error}")
            return
        for count in (one for one in self.ladder.floats if one <= known):
            if self._is_over():
                return
            self._try(best.with_floats(count))
            if self.rungs[-1].int8_share < INT8_SHARE_AT_LEAST:
                self.remarks.append(
                    f"with {count} layer(s) in float less than half of the multiply-accumulates "
                    "are INT8: the climb ended there"
                )
                return

    def _is_over(self) -> bool:
        bound = self.ladder.max_rung
        if bound is not None and len(self.tried) >= bound:
            return True
        if not self.rungs:
            return False
        return self.rungs[-1].verdict is Verdict.PASS or bool(self._samples_to_decide())

    def _samples_to_decide(self) -> int:
        return samples_to_decide(self.rungs[-1].drop, limit=self.ladder.limit)

    def _try(self, recipe: Recipe) -> None:
        started = time.monotonic()
        try:
            floats = self._most_sensitive(recipe) if recipe.floats else ()
            rung = self.ladder.rung(recipe, self.model, self.fp32, self.stage, floats)
        except UnsupportedModelError:
            raise
        except QuantizationError as error:
            self.reason = error
            self.tried.append(_failed(recipe, error, time.monotonic() - started))
            return
        self.rungs.append(rung)
        self.tried.append(_tried(rung, time.monotonic() - started))

    def _most_sensitive(self, recipe: Recipe) -> tuple[str, ...]:
        floats = self._measured(recipe).first(recipe.floats)
        if len(floats) < recipe.floats:
            raise QuantizationError(
                f"{recipe.name}: only {len(floats)} layer(s) were found to be sensitive; leave "
                "fewer float"
            )
        return floats

    def _measured(self, recipe: Recipe) -> Sensitivities:
        if self.sensitivities is None:
            self.sensitivities = self.ladder.sensitivities(recipe, self.model, self.stage)
        return self.sensitivities


def samples_to_decide(drop: Drop, *, limit: float) -> int:
    """Return how many samples are needed if only samples help, and no better recipe; else 0.

    So it is where the drop seems small enough, but even a recipe that flips no sample would leave
    it undecided. A drop on a scale (Dice) has no such floor: less loss, less doubt.
    """
    if drop.flips is None or drop.mean > limit or limit <= 0.0:
        return 0
    fewest = fewest_to_pass(limit)
    return fewest if drop.samples < fewest else 0


def _tried(rung: Rung, seconds: float) -> Tried:
    return Tried(
        seconds=round(seconds, 2),
        recipe=rung.recipe.name,
        verdict=rung.verdict,
        drop=rung.drop.mean,
        ci95=(rung.drop.low, rung.drop.high),
        sqnr_db=finite_or_none(rung.judgement.sqnr_db),
        int8_share=rung.int8_share,
        floats=rung.floats,
        notes=rung.files.notes,
    )


def _failed(recipe: Recipe, error: QuantizationError, seconds: float) -> Tried:
    return Tried(recipe=recipe.name, verdict=None, reason=str(error), seconds=round(seconds, 2))
