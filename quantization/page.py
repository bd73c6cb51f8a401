"""Reports as one HTML page that stands by itself: no script, no network, no other file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from asdic.contract.errors import ConfigError
from asdic.contract.files import read_bounded
from asdic.quantization import plots, text
from asdic.quantization.audit import STABLE_LAYERS_PERCENT
from asdic.quantization.examples import EXAMPLES_FOLDER
from asdic.quantization.gate import Verdict
from asdic.quantization.layers import LayerQuality
from asdic.quantization.report import QuantizationReport, read_report
from asdic.quantization.slices import Slice
from asdic.quantization.speed import Speed

PICTURE_LIMIT_BYTES: Final = 8 << 20
WORST_SLICES: Final = 12
WORST_LAYERS: Final = 8

_FILTERS: Final = MappingProxyType(
    {
        "points": text.points,
        "decibels": text.decibels,
        "percent": text.percent,
        "kilobytes": text.kilobytes,
        "milliseconds": text.milliseconds,
        "seconds": text.seconds,
        "threads": text.threads_words,
        "data": text.data_words,
        "audit": text.audit_words,
    }
)


@dataclass(frozen=True, kw_only=True)
class Exhibit:
    """A report and its pictures: PNG files by the name that the report gives them."""

    report: QuantizationReport
    pictures: Mapping[str, bytes] = field(default_factory=dict)


def read_exhibit(path: Path) -> Exhibit:
    """Return a report and the pictures that lie beside it.

    Args:
        path: The folder of a variant, or a report's file.

    Raises:
        ConfigError: There is no report, it is damaged, or names a file outside its folder.
    """
    report = read_report(path)
    folder = path if path.is_dir() else path.parent
    names = [example.picture for example in report.examples if example.picture]
    found = {name: _picture_file(folder, name) for name in names}
    return Exhibit(
        report=report,
        pictures={
            name: read_bounded(file, PICTURE_LIMIT_BYTES)
            for name, file in found.items()
            if file.is_file()
        },
    )


def page(exhibits: Sequence[Exhibit]) -> str:
    """Return the page about ``exhibits``, the variants of one call, as HTML.

    Everything that comes from a report is escaped.
    """
    environment = Environment(
        loader=PackageLoader("asdic.quantization"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    ordered = sorted(exhibits, key=lambda one: text.urgency(one.report))
    reports = [one.report for one in ordered]
    return environment.get_template("report.html").render(
        title=text.title(reports),
        sections=[_Section(one) for one in ordered],
        overview=_overview(reports),
        limits=sorted({report.limit for report in reports}),
        limit_slices=WORST_SLICES,
        limit_layers=WORST_LAYERS,
    )


def _overview(reports: Sequence[QuantizationReport]) -> list[tuple[QuantizationReport, Markup]]:
    """Return each report with its drop as a plot, all to one scale."""
    scale = _drop_scale(reports)
    return [(report, _drop_plot(report, scale)) for report in reports]


@dataclass(frozen=True)
class _Section:
    """What the page says about one target."""

    exhibit: Exhibit

    @property
    def report(self) -> QuantizationReport:
        return self.exhibit.report

    @property
    def headline(self) -> str:
        return text.headline(self.report)

    @property
    def remarks(self) -> list[str]:
        simulation = text.simulation_words(self.report)
        return [*simulation, *text.false_alarms(self.report), *self.report.remarks]

    @property
    def calibration_curve(self) -> Markup:
        """How far the ranges are from the last ones, over the number of samples."""
        audit = self.report.audit
        if audit is None:
            return Markup("")
        return plots.curve(
            [(one.samples, 100 * one.most) for one in audit.curve],
            across="samples that calibrate",
            up=f"% of its range that a layer still lacks ({STABLE_LAYERS_PERCENT:g} % of layers)",
            mark=audit.stable_after,
        )

    @property
    def slices(self) -> list[tuple[Slice, Markup]]:
        """The slices with their plots, the worst first."""
        worst = sorted(self.report.slices, key=lambda one: -one.drop)
        if not worst:
            return []
        scale = plots.scale_over(
            [0.0, self.report.limit, *(end for one in worst for end in one.ci95)]
        )
        return [(one, _slice_plot(one, scale, self.report.limit)) for one in worst]

    @property
    def ladder(self) -> list[tuple[str, ...]]:
        """Each rung: recipe, verdict, drop or why there is none, SQNR, share of INT8, seconds."""
        return [
            (
                one.recipe,
                one.verdict.value if one.verdict else "not carried out",
                text.tried_words(one),
                "" if one.drop is None else text.decibels(one.sqnr_db),
                "" if one.int8_share is None else text.percent(one.int8_share),
                text.seconds(one.seconds),
            )
            for one in self.report.tried
        ]

    @property
    def worst_layers(self) -> list[LayerQuality]:
        """The layers whose SQNR is known, the worst first."""
        known = [one for one in self.report.layers if one.sqnr_db is not None]
        return sorted(known, key=lambda one: one.sqnr_db or 0.0)

    @property
    def layer_bars(self) -> Markup:
        """The SQNR of each layer, in their order."""
        layers = self.report.layers
        values = [one.sqnr_db for one in layers]
        return plots.bars(
            values,
            names=[f"{one.name}, {one.kind}" + ("" if one.int8 else ", float") for one in layers],
            top=max((one for one in values if one is not None), default=1.0),
            unit="dB",
        )

    @property
    def total_macs(self) -> int:
        """The multiply-accumulates of all layers."""
        return sum(one.macs for one in self.report.layers)

    @property
    def speed(self) -> list[tuple[Speed, str, Markup]]:
        """Each number of threads: the verdict in a word, and the ratio as a plot."""
        speeds = self.report.speed or ()
        ends = [end for one in speeds for end in one.ratio_ci95]
        scale = plots.scale_over([0.0, 1.0, *ends])
        return [(one, _speed_kind(one), _speed_plot(one, scale)) for one in speeds]

    @property
    def pictures(self) -> dict[str, str]:
        """The pictures as data URLs, by the name that the report gives them."""
        return {
            name: f"data:image/png;base64,{base64.b64encode(data).decode()}"
            for name, data in self.exhibit.pictures.items()
        }


def _picture_file(folder: Path, name: str) -> Path:
    """Return the file of a picture, which a damaged report could name anywhere."""
    parts = PurePosixPath(name).parts
    if len(parts) != 2 or parts[0] != EXAMPLES_FOLDER or parts[1] == "..":
        raise ConfigError(
            f"the report in {folder} names the picture {name!r} outside {EXAMPLES_FOLDER}/"
        )
    return folder / EXAMPLES_FOLDER / parts[1]


def _drop_scale(reports: Sequence[QuantizationReport]) -> plots.Scale:
    ends = [end for report in reports for end in (*report.ci95, report.limit)]
    return plots.scale_over([0.0, *ends])


def _drop_plot(report: QuantizationReport, scale: plots.Scale) -> Markup:
    words = f"a drop of {text.drop_words(report.drop, report.ci95)}, {report.limit:g} allowed"
    return plots.interval(
        scale,
        report.drop,
        report.ci95,
        limit=report.limit,
        kind=report.verdict.value,
        label=words,
    )


def _slice_plot(one: Slice, scale: plots.Scale, limit: float) -> Markup:
    kind = Verdict.FAIL if one.ci95[0] > limit else Verdict.UNDECIDED
    kind = Verdict.PASS if one.ci95[1] <= limit else kind
    return plots.interval(
        scale, one.drop, one.ci95, limit=limit, kind=kind.value, label=text.slice_words(one)
    )


def _speed_kind(speed: Speed) -> str:
    if speed.is_slower:
        return "slower"
    return "faster" if speed.ratio_ci95[1] < 1.0 else "no clear winner"


_SPEED_CLASSES: Final = MappingProxyType(
    {"slower": "fail", "faster": "pass", "no clear winner": "undecided"}
)


def _speed_plot(speed: Speed, scale: plots.Scale) -> Markup:
    return plots.interval(
        scale,
        speed.ratio,
        speed.ratio_ci95,
        limit=1.0,
        kind=_SPEED_CLASSES[_speed_kind(speed)],
        label=text.ratio_words(speed),
    )
