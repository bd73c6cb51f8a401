"""What the demo leaves behind: ``summary.json`` and a report that opens without a network."""

from __future__ import annotations

import base64
import json
import platform
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from asdic.cli.demo.boxes import FleetOutcome
from asdic.cli.demo.models import BETTER, FIRST, TARGETS, Place
from asdic.cli.demo.oracle import MEANINGS
from asdic.contract.files import canonical_json, write_file

TARGET_FIELDS: Final = (
    "fp32",
    "int8",
    "drop",
    "ci95",
    "sqnr_db",
    "bytes_fp32",
    "bytes_int8",
    "latency_ratio",
    "judged_by",
    "simulated",
    "verdict",
    "recipe",
)
PICTURES_PER_TARGET: Final = 3


def write_reports(place: Place, outcome: FleetOutcome, *, seconds: float) -> dict[str, Any]:
    """Write ``summary.json`` and ``report.html`` and return the summary."""
    summary = _summary(place, outcome, seconds=seconds)
    write_file(place.folder / "summary.json", canonical_json(summary) + b"\n")
    environment = Environment(
        loader=PackageLoader("asdic.cli.demo"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("report.html").render(
        summary=summary,
        worst_drop=max(target["drop"] for target in summary["targets"].values()),
        exposed=max(rollout["failed"] for rollout in summary["rollouts"]),
        pictures=_pictures(place),
        timeline=timeline(outcome.rollouts),
        meanings=MEANINGS,
    )
    write_file(place.folder / "report.html", page.encode())
    return summary


def _summary(place: Place, outcome: FleetOutcome, *, seconds: float) -> dict[str, Any]:
    return {
        "seconds": round(seconds, 1),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "training": {version: _training(place, version) for version in (FIRST, BETTER)},
        "targets": {target: _target(place, FIRST, target) for target in TARGETS},
        "targets_of_1_1_0": {target: _target(place, BETTER, target) for target in TARGETS},
        "rollouts": outcome.rollouts,
        "devices": outcome.devices,
        "devices_before_rollback": outcome.devices_before_rollback,
        "forbidden": outcome.forbidden,
    }


def _training(place: Place, version: str) -> dict[str, Any]:
    return dict(json.loads((place.run(version) / "metrics.json").read_text()))


def _target(place: Place, version: str, target: str) -> dict[str, Any]:
    report = json.loads((place.variants(version) / target / "report.json").read_text())
    return {field: report[field] for field in TARGET_FIELDS}


def _pictures(place: Place) -> list[dict[str, str]]:
    pictures = []
    for target in TARGETS:
        folder = place.variants(FIRST) / target / "examples"
        for path in sorted(folder.glob("*.png"))[:PICTURES_PER_TARGET]:
            png = base64.b64encode(path.read_bytes()).decode()
            pictures.append({"target": target, "name": path.stem, "png": png})
    return pictures


def timeline(rollouts: list[dict[str, Any]]) -> Markup:
    """Return the rollouts over time as an SVG: a bar a rollout, a dot an event."""
    times = [event["time_s"] for rollout in rollouts for event in rollout["events"]]
    start, length = min(times), max(max(times) - min(times), 1.0)
    rows = [_row(number, rollout, start, length) for number, rollout in enumerate(rollouts)]
    height = 34 * len(rollouts) + 24
    label = Markup('<text x="130" y="{}">{:.0f} s in all; each dot is a decision or report</text>')
    return Markup('<svg viewBox="0 0 1000 {}" width="100%" role="img">{}{}</svg>').format(
        height, Markup("").join(rows), label.format(height - 6, length)
    )


def _row(number: int, rollout: dict[str, Any], start: float, length: float) -> Markup:
    times = [130 + 850 * (event["time_s"] - start) / length for event in rollout["events"]]
    y = 34 * number + 20
    color = "var(--bad)" if rollout["state"] == "halted" else "var(--good)"
    bar = Markup(
        '<text x="0" y="{}">{} {}</text>'
        '<rect x="{:.1f}" y="{}" width="{:.1f}" height="12" rx="6" fill="{}" opacity="0.35"/>'
    ).format(
        y + 4,
        rollout["release"],
        rollout["state"],
        min(times),
        y - 6,
        max(max(times) - min(times), 4),
        color,
    )
    dots = [
        Markup('<circle cx="{:.1f}" cy="{}" r="4" fill="{}"><title>{}</title></circle>').format(
            x, y, color, f"{event['kind']} {event.get('detail') or ''}"
        )
        for x, event in zip(times, rollout["events"], strict=True)
    ]
    return bar + Markup("").join(dots)
