"""What quantization did to a model, as data. It lies beside the variant as ``report.json``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.files import parse_json, read_bounded
from asdic.quantization.gate import Verdict
from asdic.quantization.judge import EmptyCases
from asdic.quantization.ladder import Tried

REPORT_FILE: Final = "report.json"
REPORT_LIMIT_BYTES: Final = 4 << 20


class QuantizationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What quantization did to a model for one target.

    ``fp32``, ``int8``, ``drop`` and ``ci95`` are points of ``metric`` (0 to 100), paired image by
    image over ``samples`` images with something to find; without labels the metric is
    ``agreement``, FP32's is 100 by definition, and nothing is said about accuracy. ``limit`` is
    the drop that was allowed. ``empty`` counts the other images. ``sqnr_db`` compares the model's
    own outputs, None where they are equal. ``bytes_*`` are the model files'. ``latency_ratio`` is
    INT8's median over FP32's on the same runtime with its 95 % interval, None where the target
    does not run here. ``int8_share`` is the share of weights that are INT8. ``fingerprint``
    stands for all that went in: equal fingerprints, equal variants.
    """

    model: str
    target: str
    recipe: str
    verdict: Verdict
    summary: str
    metric: str
    labelled: bool
    limit: float
    fp32: float
    int8: float
    drop: float
    ci95: tuple[float, float]
    samples: int
    worst_sample: str
    worst_drop: float
    empty: EmptyCases
    sqnr_db: float | None
    int8_share: float
    bytes_fp32: int
    bytes_int8: int
    latency_ratio: float | None
    latency_ratio_ci95: tuple[float, float] | None
    judged_by: str
    simulated: bool
    remarks: tuple[str, ...]
    assumptions: tuple[str, ...]
    calibration_samples: int
    tried: tuple[Tried, ...]
    fingerprint: str


def read_report(folder: Path) -> QuantizationReport:
    """Return the report of the variant in ``folder``.

    Raises:
        ConfigError: There is none, or it is damaged.
    """
    path = folder / REPORT_FILE
    return parse_json(read_bounded(path, REPORT_LIMIT_BYTES), QuantizationReport, what=str(path))


def finite_or_none(value: float) -> float | None:
    """Return ``value`` as JSON can hold it: infinity (equal tensors) becomes None."""
    return value if math.isfinite(value) else None
