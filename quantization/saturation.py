"""Whether this processor's INT8 kernels are to blame for a rung that lost too much.

A ladder asks it before it climbs on: kernels that saturate want 7-bit weights, and nothing else
helps. (``kernels.py`` judges the best rung without kernels, for the report; here few
samples are enough.)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from asdic.contract.errors import AsdicError
from asdic.contract.messages import RuntimeFacts
from asdic.contract.target import ModelFormat
from asdic.device.metrics import decibel
from asdic.device.runner.postprocess import Prediction
from asdic.device.runner.runner import Runner
from asdic.quantization.backends.backend import FloatFiles
from asdic.quantization.calibration import Case
from asdic.quantization.judge import answers_of
from asdic.quantization.simulation import open_simulation

CLEARLY_DB: Final = 3.0
"""The kernels are to blame for at least half of the noise."""

_CASES: Final = 8
_SATURATING: Final = frozenset({ModelFormat.OPENVINO_IR})
"""LiteRT's kernels sum in 32 bits on every processor, and ONNX is judged in simulation anyway."""


def answers_without_kernels(
    model_format: ModelFormat, model: FloatFiles, paths: Sequence[Path], cases: Sequence[Case]
) -> tuple[tuple[Prediction, ...], RuntimeFacts]:
    """Return what the INT8 files say about each case in simulation, and what that is.

    Raises:
        MissingPackageError: The runtime is not installed.
        QuantizationError: An answer is not a number.
        ReleaseError: A file is damaged, or holds a model that the runtime cannot load.
    """
    with Runner(
        open_simulation(model_format, paths),
        preprocessing=model.preprocessing,
        postprocessing=model.postprocessing,
    ) as runner:
        return answers_of(runner, cases), runner.facts()


def kernels_cost_db(
    model_format: ModelFormat,
    model: FloatFiles,
    paths: Sequence[Path],
    cases: Sequence[Case],
    answers: tuple[Sequence[Prediction], Sequence[Prediction]],
) -> float:
    """Return how many dB of SQNR the outputs lose by the kernels; 0 where they cannot saturate.

    Args:
        model_format: How the model is stored.
        model: Says what the tensors mean.
        paths: The INT8 files.
        cases: Those that judge; the first few are asked.
        answers: What float and the INT8 kernels answered to them.
    """
    if model_format not in _SATURATING:
        return 0.0
    try:
        simulated = answers_without_kernels(model_format, model, paths, cases[:_CASES])[0]
    except AsdicError:  # a hint for the climb, which can do without
        return 0.0
    fp32, int8 = (one[: len(simulated)] for one in answers)
    signal = sum(_power(one, None) for one in fp32)
    noises = [sum(map(_power, fp32, other)) for other in (simulated, int8)]
    by_itself, by_kernels = (decibel(signal, noise) for noise in noises)
    return by_itself - by_kernels if by_itself != by_kernels else 0.0


def _power(one: Prediction, other: Prediction | None) -> float:
    """Return the power of the tensors' difference, or with None that of the tensors."""
    return sum(
        float(np.square(tensor.astype(np.float64) - (other.tensors[name] if other else 0.0)).sum())
        for name, tensor in one.tensors.items()
    )
