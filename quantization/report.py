"""What quantization did to a model, as data. It lies beside the variant as ``report.json``.

Published as a JSON schema in ``docs/report.schema.json``; what each figure means is in
``docs/quantize.md``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from asdic.contract.errors import ConfigError
from asdic.contract.files import parse_json, read_bounded
from asdic.quantization.audit import CalibrationAudit
from asdic.quantization.calibration import DataAudit
from asdic.quantization.examples import Example
from asdic.quantization.gate import Verdict
from asdic.quantization.judge import EmptyCases
from asdic.quantization.ladder import Tried
from asdic.quantization.layers import LayerQuality
from asdic.quantization.provenance import Environment
from asdic.quantization.slices import Slice
from asdic.quantization.speed import Speed

REPORT_FORMAT: Final = "asdic-report/1"
REPORT_FILE: Final = "report.json"
REPORT_LIMIT_BYTES: Final = 4 << 20


class Simulation(msgspec.Struct, frozen=True, kw_only=True):
    """The same INT8 file judged without this processor's INT8 kernels, in points and dB.

    ``kernels_*`` are what the kernels made of the same ``samples``.
    """

    judged_by: str
    samples: int
    drop: float
    ci95: tuple[float, float]
    sqnr_db: float | None
    kernels_drop: float
    kernels_ci95: tuple[float, float]
    kernels_sqnr_db: float | None


class QuantizationReport(msgspec.Struct, frozen=True, kw_only=True):
    """What quantization did to a model for one target.

    ``fp32``, ``int8``, ``drop`` and ``ci95`` are points of ``metric`` (0 to 100), paired image by
    image over ``samples`` images with something to find; without labels the metric is
    ``agreement``, FP32's is 100 by definition, and nothing is said about accuracy. ``limit`` is
    the drop that was allowed. ``slices`` are the drop within each class and each value of the
    user's columns, ``worst_slice`` the one that lost most. ``empty`` counts the other images.
    ``sqnr_db`` compares the model's own outputs, None where they are equal. ``bytes_*`` are the
    model files'.

    ``speed`` is INT8 beside float on the same runtime, with one thread and with all; None where
    the target does not run here, and ``measure_with`` is then the command for the device.
    ``latency_ratio`` is the ratio with all threads. ``int8_share`` is the share of the
    multiply-accumulates that are INT8. ``simulation`` tells saturation in this processor's kernels
    apart. ``environment`` is what judged and what made the variant.

    ``layers`` are those of the INT8 file, in their order. ``data`` says what became of the
    samples that were given, ``audit`` what those that calibrate are worth.
    ``examples`` are samples to look at, the worst first. ``model_digest`` and ``data_digest`` are
    those of the float model and of all samples; ``fingerprint`` stands for all that went in:
    equal fingerprints, equal variants.
    """

    format: str = REPORT_FORMAT
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
    slices: tuple[Slice, ...] = ()
    worst_slice: Slice | None = None
    empty: EmptyCases
    sqnr_db: float | None
    int8_share: float
    bytes_fp32: int
    bytes_int8: int
    latency_ratio: float | None
    latency_ratio_ci95: tuple[float, float] | None
    speed: tuple[Speed, ...] | None = None
    measure_with: str = ""
    simulation: Simulation | None = None
    judged_by: str
    simulated: bool
    environment: Environment
    remarks: tuple[str, ...]
    assumptions: tuple[str, ...]
    calibration_samples: int
    data: DataAudit | None = None
    audit: CalibrationAudit | None = None
    tried: tuple[Tried, ...]
    layers: tuple[LayerQuality, ...] = ()
    examples: tuple[Example, ...] = ()
    model_digest: str
    data_digest: str
    fingerprint: str

    @property
    def slower(self) -> Speed | None:
        """Where INT8 is slower than float beyond doubt, with the most threads; None nowhere."""
        found = [one for one in self.speed or () if one.is_slower]
        return max(found, key=lambda one: one.threads, default=None)


class _Head(msgspec.Struct):
    format: str = ""


def read_report(path: Path) -> QuantizationReport:
    """Return a report.

    Args:
        path: The folder of a variant, or a report's file.

    Raises:
        ConfigError: There is none, it is damaged, or of another version of asdic.
    """
    file = path / REPORT_FILE if path.is_dir() else path
    data = read_bounded(file, REPORT_LIMIT_BYTES)
    found = parse_json(data, _Head, what=str(file)).format
    if not found:
        raise ConfigError(f"{file} is of an older asdic; quantize again with --force")
    if found != REPORT_FORMAT:
        raise ConfigError(f"{file} has the format {found!r}; this asdic reads {REPORT_FORMAT}")
    return parse_json(data, QuantizationReport, what=str(file))


def report_folders(path: Path) -> tuple[Path, ...]:
    """Return where the reports are: ``path`` itself, or the folders of variants in it.

    Raises:
        ConfigError: There are none.
    """
    if path.is_file() or (path / REPORT_FILE).is_file():
        return (path,)
    found = tuple(sorted(file.parent for file in path.glob(f"*/{REPORT_FILE}")))
    if not found:
        raise ConfigError(f"there is no {REPORT_FILE} in {path}, nor in the folders in it")
    return found


def report_pairs(a: Path, b: Path) -> tuple[tuple[Path, Path], ...]:
    """Return which reports to compare: ``a`` and ``b``, or what they hold for the same targets.

    Raises:
        ConfigError: There are none.
    """
    before, after = report_folders(a), report_folders(b)
    if len(before) == len(after) == 1:
        return ((before[0], after[0]),)
    by_name = {folder.name: folder for folder in after}
    pairs = tuple((one, by_name[one.name]) for one in before if one.name in by_name)
    if not pairs:
        raise ConfigError(f"{a} and {b} have no target in common; name two variants")
    return pairs


def report_schema() -> dict[str, Any]:
    """Return the JSON schema of a report."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:asdic:report:1",
        "title": REPORT_FORMAT,
        **msgspec.json.schema(QuantizationReport),
    }
