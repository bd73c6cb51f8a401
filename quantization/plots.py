"""Small plots as SVG, for a page without scripts. Pure functions: numbers in, markup out.

A row of a plot is stretched to the width that the page has, so lines and dots do not scale with
it and words stay outside, in HTML: on a telephone they are as large as elsewhere. Colours are
classes of the page's style.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup

ROW_HEIGHT: Final = 22
_ROW_MIDDLE: Final = ROW_HEIGHT / 2
_WIDTH: Final = 1000
CURVE: Final = (360, 170)
"""Width and height of a curve, near a telephone's: its words are readable there."""
_EDGE: Final = (44, 8, 26, 10)
"""Space left, right, below and above a curve."""
BARS_HEIGHT: Final = 150

_ROW: Final = Markup(
    '<svg class="row" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" '
    'aria-label="{}"><title>{}</title>{}</svg>'
)
_LINE: Final = Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>')


@dataclass(frozen=True, kw_only=True)
class Scale:
    """From values to a row's width: linear from ``low`` to ``high``."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Return where ``value`` lies, inside the row."""
        span = (self.high - self.low) or 1.0
        return min(max((value - self.low) / span, 0.0), 1.0) * _WIDTH


def scale_over(values: Sequence[float]) -> Scale:
    """Return a scale that shows all ``values``, with a margin to either side."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.5
    return Scale(low=low - margin, high=high + margin)


def interval(
    scale: Scale, value: float, ci95: tuple[float, float], *, limit: float, kind: str, label: str
) -> Markup:
    """Return a dot with its interval, beside a limit, and a line at 0 where that is shown.

    Args:
        scale: Shared by the rows that belong together.
        value: The estimate.
        ci95: Its 95 % interval.
        limit: What it is compared with.
        kind: The class of the dot: ``pass``, ``fail`` and others.
        label: The same in words, for who cannot see it.
    """
    low, high = (scale.at(one) for one in ci95)
    zero = _upright("zero", scale.at(0.0)) if scale.low <= 0.0 <= scale.high else Markup("")
    body = (
        zero
        + _upright("limit", scale.at(limit))
        + _LINE.format(f"whisker {kind}", low, high, _ROW_MIDDLE, _ROW_MIDDLE)
        + _LINE.format(f"dot {kind}", scale.at(value), scale.at(value), _ROW_MIDDLE, _ROW_MIDDLE)
    )
    return _row(label, body)


def bar(share: float, *, kind: str, label: str) -> Markup:
    """Return a bar over ``share`` (0 to 1) of the row."""
    width = min(max(share, 0.0), 1.0) * _WIDTH
    body = Markup('<rect class="track" width="{}" height="{}" y="{}"/>').format(_WIDTH, 12, 5)
    body += Markup('<rect class="{}" width="{:.1f}" height="12" y="5"/>').format(kind, width)
    return _row(label, body)


def bars(values: Sequence[float | None], *, names: Sequence[str], top: float, unit: str) -> Markup:
    """Return an upright bar a value, in their order; None is a value that is not known.

    Args:
        values: From 0 to ``top``.
        names: What each is, shown when a pointer rests on it.
        top: The end of the scale.
        unit: Of the values.
    """
    width, height = _WIDTH, BARS_HEIGHT
    step = width / max(len(values), 1)
    found = []
    for number, (value, name) in enumerate(zip(values, names, strict=True)):
        tall = height if value is None else max(1.0, min(value / top, 1.0) * height)
        words = name if value is None else f"{name}: {value:.1f} {unit}"
        found.append(
            Markup(
                '<rect class="{}" x="{:.2f}" y="{:.1f}" width="{:.2f}" height="{:.1f}">'
                "<title>{}</title></rect>"
            ).format(
                "unknown" if value is None else "bar",
                number * step,
                height - tall,
                step * 0.8,
                tall,
                words,
            )
        )
    return Markup(
        '<svg class="bars" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" '
        'aria-label="{} of {} layers">{}</svg>'
    ).format(width, height, unit, len(values), Markup("").join(found))


def curve(
    points: Sequence[tuple[float, float]], *, across: str, up: str, mark: float | None = None
) -> Markup:
    """Return a line through ``points`` with its axes.

    Args:
        points: Pairs of x and y, by growing x.
        across: What x is.
        up: What y is.
        mark: An x with an upright line.
    """
    (width, height), (left, right, below, above) = CURVE, _EDGE
    most_x = max(x for x, _ in points) or 1.0
    most_y = _rounded_up(max(y for _, y in points))

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + x / most_x * (width - left - right),
            height - below - y / most_y * (height - below - above),
        )

    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*one) for one in points))
    floor, ceiling = place(0.0, 0.0)[1], place(0.0, most_y)[1]
    body = _LINE.format("axis", left, width - right, floor, floor)
    for part in (0.0, 0.5, 1.0):
        x, y = place(part * most_x, part * most_y)
        body += _LINE.format("grid", left, width - right, y, y)
        body += _word(left - 5, y + 4, f"{part * most_y:.3g}", "end")
        body += _word(x, floor + 14, f"{part * most_x:.3g}", "end" if part == 1.0 else "middle")
    if mark is not None:
        x = place(mark, 0.0)[0]
        body += _LINE.format("limit", x, x, floor, ceiling)
    body += Markup('<polyline class="curve" points="{}"/>').format(line)
    body += _word(left + 4, ceiling + 9, up, "start")
    return Markup(
        '<svg class="plot" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>'
        '<span class="across">{}</span>'
    ).format(width, height, f"{up} over {across}", body, across)


def _row(label: str, body: Markup) -> Markup:
    return _ROW.format(_WIDTH, ROW_HEIGHT, label, label, body)


def _upright(kind: str, x: float) -> Markup:
    return _LINE.format(kind, x, x, 0, ROW_HEIGHT)


def _word(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(
        x, y, anchor, text
    )


def _rounded_up(value: float) -> float:
    """Return the next value of 1, 2 or 5 times a power of ten."""
    if value <= 0.0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if step * power >= value * 0.999)
