"""Whether this processor's INT8 kernels are to blame: the same file judged without them.

Kernels for processors without VNNI saturate where they add two products in 16 bits; that is no
fault of the quantization, and another box may not have it.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType
from typing import Final

from asdic.contract.errors import DataError
from asdic.contract.target import ModelFormat
from asdic.device.runner.postprocess import Prediction
from asdic.quantization.calibration import Inputs
from asdic.quantization.judge import Judgement, finite_or_none, judge
from asdic.quantization.ladder import Rung
from asdic.quantization.report import Simulation
from asdic.quantization.saturation import answers_without_kernels

SIMULATED: Final = MappingProxyType({ModelFormat.TFLITE: 8, ModelFormat.OPENVINO_IR: 64})
"""Samples in simulation. LiteRT's reference kernels are some 40 times slower than XNNPACK (2 s for
a U-Net), and no kernel of LiteRT's saturates. A Jetson's graph is judged in simulation anyway."""


def judge_without_kernels(
    model_format: ModelFormat, rung: Rung, inputs: Inputs, *, seed: int
) -> Simulation | None:
    """Return what the first judged samples say without INT8 kernels, and with them.

    None for a Jetson's graph, which nothing but the simulation judges here, and where so few
    samples do not suffice for the metric.

    Raises:
        MissingPackageError: The runtime is not installed.
        QuantizationError: An answer is not a number.
    """
    if model_format not in SIMULATED:
        return None
    chosen = rung.judgement.judged[: SIMULATED[model_format]]
    some = replace(inputs, cases=tuple(inputs.cases[one] for one in chosen))
    simulated, facts = answers_without_kernels(model_format, rung.model, rung.paths, some.cases)
    fp32 = tuple(rung.judgement.fp32[one] for one in chosen)
    kernels = tuple(rung.judgement.int8[one] for one in chosen)
    try:
        exact, real = (_judged(some, fp32, answers, rung) for answers in (simulated, kernels))
        drop, with_kernels = exact.pairing.drop(seed=seed), real.pairing.drop(seed=seed)
    except DataError:  # so few may lack a class that the metric needs
        return None
    return Simulation(
        judged_by=facts.delegate or facts.runtime,
        samples=drop.samples,
        drop=drop.mean,
        ci95=(drop.low, drop.high),
        sqnr_db=finite_or_none(exact.sqnr_db),
        kernels_drop=with_kernels.mean,
        kernels_ci95=(with_kernels.low, with_kernels.high),
        kernels_sqnr_db=finite_or_none(real.sqnr_db),
    )


def _judged(
    inputs: Inputs, fp32: tuple[Prediction, ...], int8: tuple[Prediction, ...], rung: Rung
) -> Judgement:
    metric, facts = rung.judgement.metric, rung.judgement.facts
    return judge(inputs, fp32, int8, metric=metric, facts=facts)
