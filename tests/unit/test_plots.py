"""The plots of a report, as markup, and the steps of progress."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from markupsafe import Markup

from asdic.quantization.plots import Scale, bar, bars, curve, interval, scale_over
from asdic.quantization.progress import counted

MARKUP = '"><script>'


def lines(svg: Markup, kind: str) -> list[tuple[float, float]]:
    """Return the ends of the lines whose class begins with ``kind``."""
    found = ElementTree.fromstring(str(svg)).iter("line")  # noqa: S314 - our own markup
    return [
        (float(one.attrib["x1"]), float(one.attrib["x2"]))
        for one in found
        if one.attrib["class"].startswith(kind)
    ]


def plot(value: float, ci95: tuple[float, float], *, label: str = "") -> Markup:
    return interval(Scale(low=0.0, high=10.0), value, ci95, limit=5.0, kind="pass", label=label)


def test_an_interval_lies_on_its_scale() -> None:
    svg = plot(2.0, (1.0, 4.0))
    assert lines(svg, "dot") == [(200.0, 200.0)]
    assert lines(svg, "whisker") == [(100.0, 400.0)]
    assert lines(svg, "limit") == [(500.0, 500.0)]


def test_what_is_beyond_the_scale_ends_at_its_edge() -> None:
    assert lines(plot(2.0, (-50.0, 99.0)), "whisker") == [(0.0, 1000.0)]


def test_a_scale_holds_all_values_and_a_margin() -> None:
    scale = scale_over([0.0, 10.0])
    assert scale.low < 0.0
    assert scale.high > 10.0


def test_equal_values_have_a_scale_too() -> None:
    scale = scale_over([3.0, 3.0])
    assert scale.at(3.0) == pytest.approx(500.0)


@pytest.mark.parametrize(
    "svg",
    [
        plot(1.0, (0.0, 2.0), label=MARKUP),
        bar(0.5, kind="bar", label=MARKUP),
        bars([1.0], names=[MARKUP], top=2.0, unit="dB"),
    ],
)
def test_words_in_a_plot_stay_text(svg: Markup) -> None:
    assert "<script" not in svg


def test_a_value_that_is_not_known_has_a_bar_of_its_own() -> None:
    svg = bars([20.0, None], names=["a", "b"], top=40.0, unit="dB")
    assert re.findall(r'<rect class="(\w+)"', svg) == ["bar", "unknown"]


def test_a_curve_goes_through_its_points() -> None:
    svg = curve([(0.0, 1.0), (64.0, 0.0)], across="samples", up="ratio")
    found = re.search(r'points="([^"]*)"', svg)
    assert found is not None
    assert found[1] == "44.0,10.0 352.0,144.0"


def test_progress_is_told_before_each_step_and_after_the_last() -> None:
    told: list[tuple[int, int | None]] = []

    def stage(what: str, text: str, *, done: int = 0, total: int | None = None) -> None:
        told.append((done, total))

    assert list(counted("ab", stage, "images", "judging")) == ["a", "b"]
    assert told == [(0, 2), (1, 2), (2, 2)]
