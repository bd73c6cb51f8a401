"""All that was found out about a climb's best rung, as a report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from asdic.contract.errors import QuantizationError
from asdic.contract.target import Target
from asdic.quantization.audit import CalibrationAudit
from asdic.quantization.calibration import Inputs
from asdic.quantization.examples import examples_of
from asdic.quantization.gate import describe_verdict
from asdic.quantization.insight import insight
from asdic.quantization.judge import finite_or_none, open_runner
from asdic.quantization.kernels import judge_without_kernels
from asdic.quantization.kinds import FloatModel
from asdic.quantization.ladder import Climb
from asdic.quantization.layers import LayerQuality
from asdic.quantization.progress import Stage
from asdic.quantization.provenance import environment_of, judged_by, remarks_for, runs_here
from asdic.quantization.report import QuantizationReport
from asdic.quantization.slices import worst_slice
from asdic.quantization.speed import Speed, measure_speed

DOUBTFUL_POINTS: Final = 10.0
"""A float model with fewer may be untrained, or get the wrong labels."""

_LOSS: Final = MappingProxyType(
    {True: "the drop", False: "the loss of agreement with FP32, which is not accuracy,"}
)


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What is the same for all targets of a call: the model, its samples, the limit in points."""

    model: FloatModel
    inputs: Inputs
    limit: float
    seed: int
    stage: Stage

    def report(
        self, target: Target, climb: Climb, *, remarks: Sequence[str], fingerprint: str
    ) -> QuantizationReport:
        """Return what there is to say of a climb's best rung for one target; takes a while.

        Args:
            target: What it is for. Targets of one format share a climb.
            climb: That of its format.
            remarks: What else a reader should know.
            fingerprint: Stands for all that went in.
        """
        speed = self._speed(target, climb)
        rung, judgement, drop = climb.best, climb.best.judgement, climb.best.drop
        losses = judgement.fp32_points - judgement.int8_points
        fp32, int8 = judgement.pairing.values()
        slices = judgement.slices(seed=self.seed)
        with_all = speed[-1] if speed else None
        layers, calibration, failed = self._insight(target, climb)
        self.stage(target.name, "judging without this processor's INT8 kernels")
        simulation = judge_without_kernels(target.model_format, rung, self.inputs, seed=self.seed)
        return QuantizationReport(
            model=self.model.name,
            target=target.name,
            recipe=rung.recipe.name,
            verdict=rung.verdict,
            summary=describe_verdict(
                drop,
                limit=self.limit,
                what=_LOSS[self.inputs.labelled],
                int8_share=rung.int8_share,
            ),
            metric=judgement.metric,
            labelled=self.inputs.labelled,
            limit=self.limit,
            fp32=fp32,
            int8=int8,
            drop=drop.mean,
            ci95=(drop.low, drop.high),
            samples=drop.samples,
            worst_sample=self.inputs.cases[judgement.worst].name,
            worst_drop=float(losses.max()),
            slices=slices,
            worst_slice=worst_slice(slices),
            empty=judgement.empty,
            sqnr_db=finite_or_none(judgement.sqnr_db),
            int8_share=rung.int8_share,
            bytes_fp32=_bytes(climb.float_paths),
            bytes_int8=_bytes(rung.paths),
            latency_ratio=with_all.ratio if with_all else None,
            latency_ratio_ci95=with_all.ratio_ci95 if with_all else None,
            speed=speed,
            measure_with="" if speed else f"asdic bench {target.name}",
            simulation=simulation,
            judged_by=judged_by(target, judgement.facts),
            simulated=target.simulator is not None,
            environment=environment_of(judgement.facts),
            remarks=(*self._remarks(target, climb), *remarks, *failed),
            assumptions=self.model.assumptions,
            calibration_samples=len(self.inputs.calibration),
            layers=layers,
            data=self.inputs.audit,
            audit=calibration,
            tried=climb.tried,
            examples=examples_of(judgement, self.inputs),
            model_digest=self.model.digest,
            data_digest=self.inputs.digest,
            fingerprint=fingerprint,
        )

    def _remarks(self, target: Target, climb: Climb) -> Iterator[str]:
        yield from self.inputs.notes
        yield from remarks_for(target, labelled=self.inputs.labelled)
        yield from climb.remarks
        yield from climb.best.files.notes
        fp32, _ = climb.best.judgement.pairing.values()
        if self.inputs.labelled and fp32 < DOUBTFUL_POINTS:
            yield (
                f"FP32 itself has {fp32:.2f} points here, so that INT8 can hardly lose any: is the "
                "model trained, and do labels and preprocessing fit it?"
            )

    def _speed(self, target: Target, climb: Climb) -> tuple[Speed, ...] | None:
        if not runs_here(target):
            return None
        self.stage(target.name, "timing INT8 and FP32 by turns")
        best = climb.best
        return measure_speed(
            lambda threads: open_runner(target.runtime, best.paths, best.model, threads=threads),
            lambda threads: open_runner(
                target.runtime, climb.float_paths, best.model, threads=threads
            ),
            self.inputs.cases[0],
            seed=self.seed,
        )

    def _insight(
        self, target: Target, climb: Climb
    ) -> tuple[tuple[LayerQuality, ...], CalibrationAudit | None, tuple[str, ...]]:
        """Return what the files show inside; where they cannot be looked into, a remark."""
        self.stage(target.name, "looking into the layers")
        try:
            return *insight(climb, self.inputs, target.model_format), ()
        except QuantizationError as error:
            return (), None, (f"no look into the layers: {error}",)


def _bytes(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths)
