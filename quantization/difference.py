"""Two reports beside each other: what went in differently, and what came out differently."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal, TypeAlias

import msgspec

from asdic.quantization import text
from asdic.quantization.layers import LayerQuality
from asdic.quantization.report import QuantizationReport
from asdic.quantization.speed import Speed

DIFFERENCE_FORMAT: Final = "asdic-report-difference/1"

Better: TypeAlias = Literal["higher", "lower"] | None
Interval: TypeAlias = tuple[float, float] | None


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """Something that went in and is not the same in both; empty where a report lacks it."""

    what: str
    before: str
    after: str


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure in both reports, None where it is not known.

    ``change`` is ``after`` less ``before``. ``better`` says whether the change is one to the
    better, None where there is none or it is neither; ``certain`` that the 95 % intervals do not
    overlap, None where there are none.
    """

    name: str
    unit: str
    before: float | None
    after: float | None
    change: float | None
    better: bool | None
    certain: bool | None


class LayerChange(msgspec.Struct, frozen=True, kw_only=True):
    """A layer's SQNR in both reports, in dB; None where it is not known, or there is no layer.

    ``int8_before`` and ``int8_after`` are None where the report has no layer of this name.
    """

    name: str
    before: float | None
    after: float | None
    change: float | None
    int8_before: bool | None
    int8_after: bool | None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Report B against report A: ``before`` and ``after`` are their verdicts.

    ``layers`` are paired by name, those that lost most first.
    """

    format: str = DIFFERENCE_FORMAT
    before: str
    after: str
    conditions: tuple[Condition, ...]
    figures: tuple[Figure, ...]
    layers: tuple[LayerChange, ...]


def difference(before: QuantizationReport, after: QuantizationReport) -> Difference:
    """Return what is different in ``after``.

    Figures of different metrics are not compared: they come without a change.
    """
    return Difference(
        before=text.headline(before),
        after=text.headline(after),
        conditions=tuple(_conditions(before, after)),
        figures=(*_figures(before, after), *_times(before, after)),
        layers=_layers(before, after),
    )


def describe_layer(one: LayerChange) -> tuple[str, str, str, str]:
    """Return a layer as cells for a person: its name, both SQNR and the change."""
    words = "" if one.change is None else f"{one.change:+.1f} dB"
    return one.name, _layer(one.before, one.int8_before), _layer(one.after, one.int8_after), words


def describe(figure: Figure) -> tuple[str, str, str, str]:
    """Return a figure as cells for a person: its name, both values and the change."""
    if not figure.change:
        words = "" if figure.change is None else "same"
        return figure.name, _value(figure, figure.before), _value(figure, figure.after), words
    words = f"{figure.change:+.4g} {figure.unit}".rstrip()
    if figure.better is not None:
        words += ", better" if figure.better else ", worse"
    if figure.certain is False:
        words += " (intervals overlap)"
    return figure.name, _value(figure, figure.before), _value(figure, figure.after), words


_Value: TypeAlias = Callable[[QuantizationReport], float | None]
_Ends: TypeAlias = Callable[[QuantizationReport], Interval]

_CONDITIONS: Final[tuple[tuple[str, Callable[[QuantizationReport], str]], ...]] = (
    ("model", lambda one: f"{one.model} {one.model_digest}"),
    ("data", lambda one: one.data_digest),
    ("target", lambda one: one.target),
    ("recipe", lambda one: one.recipe),
    ("metric", lambda one: one.metric),
    ("limit", lambda one: f"{one.limit:g} points"),
    ("samples", lambda one: str(one.samples)),
    ("calibration samples", lambda one: str(one.calibration_samples)),
    ("runtime", lambda one: f"{one.environment.runtime} {one.environment.version}"),
    ("delegate", lambda one: one.environment.delegate or "unknown"),
    ("machine", lambda one: one.environment.machine),
    ("processor features", lambda one: " ".join(one.environment.cpu_features)),
)

# name, unit, which end is better, the value, its interval; points need the same metric.
_POINTS: Final[tuple[tuple[str, Better, _Value, _Ends], ...]] = (
    ("FP32", "higher", lambda one: one.fp32, lambda _: None),
    ("INT8", "higher", lambda one: one.int8, lambda _: None),
    ("drop", "lower", lambda one: one.drop, lambda one: one.ci95),
)
_OTHERS: Final[tuple[tuple[str, str, Better, _Value], ...]] = (
    ("SQNR", "dB", "higher", lambda one: one.sqnr_db),
    ("in INT8", "%", "higher", lambda one: 100 * one.int8_share),
    ("size of INT8", "kB", "lower", lambda one: one.bytes_int8 / 1000),
)
_TIMES: Final[
    tuple[tuple[str, str, Callable[[Speed], float], Callable[[Speed], Interval]], ...]
] = (
    ("INT8", "ms", lambda one: one.int8_ms_p50, lambda _: None),
    ("INT8 : FP32", "", lambda one: one.ratio, lambda one: one.ratio_ci95),
)


def _conditions(before: QuantizationReport, after: QuantizationReport) -> Iterator[Condition]:
    for what, value in _CONDITIONS:
        if value(before) != value(after):
            yield Condition(what=what, before=value(before), after=value(after))
    old, new = before.environment.tools, after.environment.tools
    for tool in sorted(old.keys() | new.keys()):
        if old.get(tool) != new.get(tool):
            yield Condition(what=tool, before=old.get(tool, ""), after=new.get(tool, ""))


def _figures(before: QuantizationReport, after: QuantizationReport) -> Iterator[Figure]:
    same = before.metric == after.metric
    for name, better, value, ends in _POINTS:
        yield _figure(
            f"{name}, {before.metric}" if same else name,
            "points",
            (value(before), value(after)),
            better=better,
            intervals=(ends(before), ends(after)),
            comparable=same,
        )
    for name, unit, better, value in _OTHERS:
        yield _figure(name, unit, (value(before), value(after)), better=better)


def _times(before: QuantizationReport, after: QuantizationReport) -> Iterator[Figure]:
    """Yield the times with each number of threads that both were measured with."""
    old = {one.threads: one for one in before.speed or ()}
    new = {one.threads: one for one in after.speed or ()}
    for threads in sorted(old.keys() & new.keys()):
        words = text.threads_words(threads)
        for name, unit, value, ends in _TIMES:
            yield _figure(
                f"{name} with {words}",
                unit,
                (value(old[threads]), value(new[threads])),
                better="lower",
                intervals=(ends(old[threads]), ends(new[threads])),
            )


def _layers(before: QuantizationReport, after: QuantizationReport) -> tuple[LayerChange, ...]:
    old, new = ({one.name: one for one in report.layers} for report in (before, after))
    changes = [_layer_change(name, old.get(name), new.get(name)) for name in {**old, **new}]
    return tuple(sorted(changes, key=lambda one: one.change or 0.0))


def _layer_change(name: str, old: LayerQuality | None, new: LayerQuality | None) -> LayerChange:
    before, after = (None if one is None else one.sqnr_db for one in (old, new))
    return LayerChange(
        name=name,
        before=before,
        after=after,
        change=None if before is None or after is None else after - before,
        int8_before=None if old is None else old.int8,
        int8_after=None if new is None else new.int8,
    )


def _layer(sqnr_db: float | None, is_int8: bool | None) -> str:
    if is_int8 is None:
        return "no such layer"
    words = "unknown" if sqnr_db is None else f"{sqnr_db:.1f} dB"
    return words if is_int8 else f"{words}, float"


def _figure(
    name: str,
    unit: str,
    values: tuple[float | None, float | None],
    *,
    better: Better,
    intervals: tuple[Interval, Interval] = (None, None),
    comparable: bool = True,
) -> Figure:
    before, after = values
    change = None
    if comparable and before is not None and after is not None:
        change = after - before
    return Figure(
        name=name,
        unit=unit,
        before=before,
        after=after,
        change=change,
        better=(change > 0) == (better == "higher") if change and better else None,
        certain=_are_apart(*intervals) if comparable else None,
    )


def _are_apart(one: Interval, other: Interval) -> bool | None:
    if one is None or other is None:
        return None
    return one[1] < other[0] or other[1] < one[0]


def _value(figure: Figure, value: float | None) -> str:
    if value is None:
        return text.EQUAL if figure.unit == "dB" else "unknown"
    return f"{value:.4g} {figure.unit}".rstrip()
