"""A report for people: the verdict on one line, the rows of its tables, and what else to know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Final

import msgspec

from asdic.quantization.audit import CalibrationAudit
from asdic.quantization.calibration import DataAudit
from asdic.quantization.gate import Verdict
from asdic.quantization.ladder import Tried
from asdic.quantization.report import QuantizationReport
from asdic.quantization.slices import Slice
from asdic.quantization.speed import Speed

EQUAL: Final = "equal"
"""Instead of an infinite signal-to-noise ratio."""

KERNELS_DB: Final = 3.0
"""A difference that is worth a word: half as much noise."""

Row = tuple[str, ...]

ACCURACY: Final = ("target", "FP32", "INT8", "drop (95 %)", "SQNR", "verdict")
COST: Final = ("target", "in INT8", "INT8", "FP32", "INT8 : FP32 in time (95 %)")

_SAMPLES: Final = MappingProxyType({True: "labelled samples", False: "samples without labels"})


def urgency(report: QuantizationReport) -> tuple[int, ...]:
    """Return a key that sorts first what a reader must not miss: slower INT8, then failures."""
    order = (Verdict.FAIL, Verdict.NOT_QUANTIZED, Verdict.UNDECIDED, Verdict.PASS)
    return int(report.slower is None), order.index(report.verdict)


def headline(report: QuantizationReport) -> str:
    """Return the verdict on one line; an INT8 model that is slower than float is said first."""
    slower = f"INT8 IS SLOWER than FP32, {ratio_words(report.slower)}; " if report.slower else ""
    return f"{report.target}: {slower}{report.summary}"


def title(reports: Sequence[QuantizationReport]) -> str:
    """Return what was measured, on how much."""
    first = reports[0]
    names = ", ".join(dict.fromkeys(one.model for one in reports))
    return f"{names}: {first.metric} in points, {first.samples} {_SAMPLES[first.labelled]}"


def accuracy_row(report: QuantizationReport) -> Row:
    """Return the cells of ``ACCURACY``."""
    return (
        report.target,
        points(report.fp32),
        points(report.int8),
        drop_words(report.drop, report.ci95),
        decibels(report.sqnr_db),
        report.verdict.value,
    )


def cost_row(report: QuantizationReport) -> Row:
    """Return the cells of ``COST``."""
    return (
        report.target,
        percent(report.int8_share),
        kilobytes(report.bytes_int8),
        kilobytes(report.bytes_fp32),
        "\n".join(map(_ratio, report.speed or ())) or f"measure: {report.measure_with}",
    )


def remarks(reports: Sequence[QuantizationReport]) -> Iterator[str]:
    """Yield what the tables have no room for; what holds for several targets is said once."""
    said: dict[str, list[str]] = {}
    for report in reports:
        for line in _remarks(report):
            said.setdefault(line, []).append(report.target)
    for line, targets in said.items():
        yield line if len(targets) == len(reports) else f"{', '.join(targets)}: {line}"
    for line in dict.fromkeys(line for one in reports for line in one.assumptions):
        yield f"assumed: {line}"


def _remarks(report: QuantizationReport) -> Iterator[str]:
    yield f"judged by {report.judged_by}; recipe {report.recipe}"
    for one in report.tried:
        if one.recipe != report.recipe:
            came_to = one.reason if one.drop is None else f"a drop of {tried_words(one)}"
            yield f"{one.recipe} was tried and came to {came_to}"
    if report.worst_slice is not None and report.worst_slice.drop > 0:
        yield f"worst part: {slice_words(report.worst_slice)}"
    if report.data is not None:
        yield data_words(report.data)
    if report.audit is not None:
        yield audit_words(report.audit)
    yield from simulation_words(report)
    yield from false_alarms(report)
    yield from report.remarks


def false_alarms(report: QuantizationReport) -> Iterator[str]:
    """Yield what was found in images with nothing to find, if there are any."""
    fp32, int8 = report.empty.fp32_false_alarms, report.empty.int8_false_alarms
    if report.empty.images and fp32 is not None and int8 is not None:
        yield (
            f"{report.empty.images} images with nothing to find, apart: something found in "
            f"{100 * fp32:.0f} % by FP32, in {100 * int8:.0f} % by INT8"
        )


_FATES: Final = MappingProxyType(
    {
        "overlapping": "left out of calibration because they resemble one that judges",
        "constant": "with nothing in them, which do not calibrate",
        "unlabelled": "without a label, which do not judge",
        "unreadable": "unreadable",
    }
)


def data_words(audit: DataAudit) -> str:
    """Return what became of the samples."""
    fates = msgspec.structs.asdict(audit)
    rest = [f"{fates[one]} {words}" for one, words in _FATES.items() if fates[one]]
    chosen = f"{audit.calibrating} calibrate, {audit.judging} judge"
    return f"{audit.seen} samples: {', '.join([chosen, *rest])}"


def simulation_words(report: QuantizationReport) -> Iterator[str]:
    """Yield that this processor's kernels, and not quantization, lost something; if they did."""
    simulation = report.simulation
    if simulation is None or None in {simulation.sqnr_db, simulation.kernels_sqnr_db}:
        return
    lost_db = (simulation.sqnr_db or 0.0) - (simulation.kernels_sqnr_db or 0.0)
    if abs(lost_db) < KERNELS_DB and simulation.ci95[0] <= simulation.kernels_ci95[1]:
        return
    yield (
        f"without this processor's INT8 kernels ({simulation.judged_by}) the drop of "
        f"{simulation.samples} samples is {drop_words(simulation.drop, simulation.ci95)} at "
        f"{decibels(simulation.sqnr_db)}, with them "
        f"{drop_words(simulation.kernels_drop, simulation.kernels_ci95)} at "
        f"{decibels(simulation.kernels_sqnr_db)}: the difference is the kernels', not "
        "quantization's"
    )


def audit_words(audit: CalibrationAudit) -> str:
    """Return whether the samples that calibrate are enough, and like those that judge."""
    enough = (
        f"the ranges are stable after {audit.stable_after} of {audit.samples} samples"
        if audit.stable_after is not None
        else f"the ranges still grew with the last of {audit.samples} samples; give more"
    )
    outside = audit.outside
    where = "" if outside.worst_layer is None else f", most in {outside.worst_layer}"
    return f"{enough}; {100 * outside.share:.3g} % of what judges lies outside of them{where}"


def tried_words(one: Tried) -> str:
    """Return what a rung lost, or why nobody knows."""
    if one.drop is None or one.ci95 is None:
        return one.reason
    return drop_words(one.drop, one.ci95)


def slice_words(one: Slice) -> str:
    """Return a slice's name and its drop."""
    return f"{one.column} {one.value}, {one.samples} samples, {drop_words(one.drop, one.ci95)}"


def ratio_words(speed: Speed) -> str:
    """Return INT8's time over float's, with its interval."""
    low, high = speed.ratio_ci95
    threads = threads_words(speed.threads)
    return f"{speed.ratio:.2f} times its time with {threads} ({low:.2f} to {high:.2f})"


def threads_words(threads: int) -> str:
    """Return a number of threads."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def drop_words(drop: float, ci95: tuple[float, float]) -> str:
    """Return a drop with its interval, in points."""
    return f"{drop:+.2f} ({ci95[0]:+.2f} to {ci95[1]:+.2f})"


def points(value: float) -> str:
    """Return points of a metric."""
    return f"{value:.2f}"


def decibels(value: float | None) -> str:
    """Return a signal-to-noise ratio; None is that of equal tensors."""
    return EQUAL if value is None else f"{value:.1f} dB"


def percent(share: float) -> str:
    """Return a share of 0 to 1 in percent."""
    return f"{100 * share:.1f} %"


def kilobytes(size_bytes: int) -> str:
    """Return a file's size."""
    return f"{size_bytes / 1000:,.0f} kB"


def milliseconds(value: float) -> str:
    """Return a time in milliseconds with three digits."""
    return f"{value:.3g} ms" if value < 1000 else f"{value:.0f} ms"


def seconds(value: float) -> str:
    """Return a duration."""
    return f"{value:.1f} s" if value < 60 else f"{value // 60:.0f} min {value % 60:.0f} s"


def _ratio(speed: Speed) -> str:
    low, high = speed.ratio_ci95
    return f"{threads_words(speed.threads)}: {speed.ratio:.2f} ({low:.2f} to {high:.2f})"
