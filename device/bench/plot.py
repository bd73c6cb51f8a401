"""A result as one HTML page: conditions, latency over time, distribution. No script, no network."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asdic.contract.bench import BenchReport, Latency, Run
from asdic.device.bench.samples import unpack_ms
from asdic.device.bench.text import NAMES, lines_of

WIDTH: Final = 760
HEIGHT: Final = 220
LEFT: Final = 60
BOTTOM: Final = 28
TOP: Final = 10
BINS: Final = 120
STYLE: Final = """
:root{color-scheme:light dark;--ink:#222;--quiet:#888;--line:#1769aa;--band:#1769aa44;
--mark:#b3261e}
@media(prefers-color-scheme:dark){:root{--ink:#ddd;--quiet:#999;--line:#6cb6ff;--band:#6cb6ff44;
--mark:#ff8a80}}
body{font:15px/1.5 system-ui,sans-serif;max-width:800px;margin:2rem auto;padding:0 1rem;
color:var(--ink)}
th{text-align:left;vertical-align:top;padding-right:1.5rem;font-weight:600}
svg{width:100%;height:auto}text{font:11px system-ui,sans-serif;fill:var(--quiet)}
.axis{stroke:var(--quiet);stroke-width:1}.line{fill:none;stroke:var(--line);stroke-width:1.2}
.band{fill:var(--band);stroke:none}.mark{stroke:var(--mark);stroke-dasharray:4 3}
.mark-text{fill:var(--mark)}
"""

_Axis: TypeAlias = tuple[float, float, str]
"""Least and most value, and the unit."""


def page(report: BenchReport) -> str:
    """Return the result as a page that stands by itself."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in lines_of(report)
    )
    title = html.escape(f"{report.measured.model} for {report.measured.target}")
    charts = "".join(chart for run in report.runs for chart in _charts(run))
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>asdic bench: {title}'
        f"</title><style>{STYLE}</style></head><body><h1>{title}</h1><table>{rows}</table>"
        f"{charts}</body></html>\n"
    )


def over_time(samples_ms: NDArray[np.float64], at_s: NDArray[np.float64]) -> str:
    """Return an SVG of latency over time: the median of each column, and its least and most."""
    columns = np.array_split(np.arange(samples_ms.size), min(WIDTH - LEFT, samples_ms.size))
    x = np.array([float(at_s[column[0]]) for column in columns])
    low, middle, high = (
        np.array([float(take(samples_ms[column])) for column in columns])
        for take in (np.min, np.median, np.max)
    )
    top = float(np.quantile(high, 0.99)) * 1.1
    across = _scale(x, 0.0, max(float(at_s[-1]), 1e-9), LEFT, WIDTH - 5)
    upper, line, lower = (
        _scale(np.minimum(one, top), 0.0, top, HEIGHT - BOTTOM, TOP) for one in (high, middle, low)
    )
    band = [*zip(across, upper, strict=True), *reversed([*zip(across, lower, strict=True)])]
    body = (
        f'<polygon class="band" points="{_points(band)}"/>'
        f'<polyline class="line" points="{_points([*zip(across, line, strict=True)])}"/>'
        + _axes((0.0, float(at_s[-1]), "s"), (0.0, top, "ms"))
    )
    return _svg(body, "latency over time")


def distribution(samples_ms: NDArray[np.float64], latency: Latency) -> str:
    """Return an SVG histogram over a logarithmic axis, with the percentiles that are known."""
    low = max(float(samples_ms.min()), 1e-6)
    high = max(float(samples_ms.max()), low * 1.01)
    counts, _ = np.histogram(
        np.log10(np.maximum(samples_ms, low)), BINS, (math.log10(low), math.log10(high))
    )
    width = (WIDTH - 5 - LEFT) / BINS
    tops = _scale(counts.astype(np.float64), 0.0, float(counts.max()), HEIGHT - BOTTOM, TOP)
    bars = "".join(
        f'<rect class="band" x="{LEFT + number * width:.1f}" y="{y:.1f}" width="{width:.2f}" '
        f'height="{HEIGHT - BOTTOM - y:.1f}"/>'
        for number, y in enumerate(tops)
        if counts[number]
    )
    marks = "".join(_marks(latency, low, high))
    return _svg(
        bars + marks + _axes((low, high, "ms"), (0.0, float(counts.max()), ""), logarithmic=True),
        "distribution of latencies",
    )


def _charts(run: Run) -> Iterator[str]:
    found = (
        ("burst", run.burst.latency if run.burst else None, None),
        ("paced, from when a frame was due", *_paced(run)),
        ("sustained", run.sustained.latency if run.sustained else None, None),
    )
    for name, latency, period_s in found:
        if latency is None:
            continue
        samples_ms = unpack_ms(latency.samples)
        every = latency.samples.every
        steps_s = np.full(samples_ms.size, period_s) if period_s else samples_ms / 1e3
        yield f"<h2>{name}, {run.threads} threads</h2>"
        yield f"<h3>over time</h3>{over_time(samples_ms, np.cumsum(steps_s) * every)}"
        yield f"<h3>distribution</h3>{distribution(samples_ms, latency)}"


def _paced(run: Run) -> tuple[Latency | None, float | None]:
    return (run.paced.latency, 1 / run.paced.fps) if run.paced else (None, None)


def _marks(latency: Latency, low: float, high: float) -> Iterator[str]:
    for number, one in enumerate(latency.percentiles):
        if one.value_ms is None:
            continue
        span = math.log10(low), math.log10(high)
        x = float(_scale(np.log10(np.array([one.value_ms])), *span, LEFT, WIDTH - 5)[0])
        yield f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        yield (
            f'<text class="mark-text" x="{x + 3:.1f}" y="{TOP + 12 + 13 * number}">'
            f"{NAMES.get(one.q, '')} {one.value_ms:.3g}</text>"
        )


def _axes(across: _Axis, up: _Axis, *, logarithmic: bool = False) -> str:
    x_low, x_high, x_unit = across
    y_low, y_high, y_unit = up
    floor = HEIGHT - BOTTOM
    parts = [
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - 5}" y1="{floor}" y2="{floor}"/>',
        f'<line class="axis" x1="{LEFT}" x2="{LEFT}" y1="{TOP}" y2="{floor}"/>',
    ]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        value = (
            x_low * (x_high / x_low) ** share if logarithmic else x_low + share * (x_high - x_low)
        )
        x = LEFT + share * (WIDTH - 5 - LEFT)
        anchor = "end" if share == 1.0 else "middle"
        parts.append(
            f'<text x="{x:.0f}" y="{HEIGHT - 8}" text-anchor="{anchor}">{value:.3g} {x_unit}</text>'
        )
        y = floor - share * (floor - TOP)
        height = y_low + share * (y_high - y_low)
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{height:.3g} {y_unit}</text>'
        )
    return "".join(parts)


def _scale(
    values: NDArray[np.float64], low: float, high: float, start: float, end: float
) -> NDArray[np.float64]:
    span = (high - low) or 1.0
    return start + (values - low) / span * (end - start)


def _points(pairs: list[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in pairs)


def _svg(body: str, label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{body}</svg>'
