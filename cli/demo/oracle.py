"""A judge who counts what must never happen, from evidence and not from anyone's word.

It reads the signed reports as they came in, the boxes' own disks and processes, and the signed
release folder. It shares no code with the agent's store or the manager's rollouts.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import msgspec

from asdic.cli.demo.models import BROKEN, Place
from asdic.contract.messages import REPORT_TYPE, Report, UpdateState
from asdic.contract.trust import open_envelope

MEANINGS: Final = MappingProxyType(
    {
        "brick": "a box whose last signed report names no loaded model, or a process that is gone",
        "mixed": "a box whose files are not, byte for byte, those of one signed release",
        "unverified_ran": "a report with a loaded model that is unsigned, or that a gate refused",
        "downgraded": "a report with an older model than before, without a rollout that ordered it",
        "stuck": "a box whose update has not come to an end",
        "lied": "a box that the manager believes to run something else than its process has loaded",
    }
)
_SETTLED: Final = frozenset({UpdateState.COMMITTED, UpdateState.FAILED, UpdateState.REJECTED})


class Oracle:
    """Looks at the fleet whenever asked, and keeps the worst that it ever saw of each kind."""

    def __init__(self, place: Place, boxes: Sequence[str]) -> None:
        self._place = place
        self._boxes = boxes
        self._worst = dict.fromkeys(MEANINGS, 0)

    def look(self, believed: Mapping[str, str | None]) -> dict[str, int]:
        """Return the counts, the worst of this and all earlier looks.

        ``believed`` is the manifest that the manager takes each box to run.
        """
        reports = _reports(self._place.fleet / "fleet.db")
        last = {box: reports[box][-1] for box in self._boxes}
        seen = {
            "brick": sum(not _infers(report) for report in last.values()),
            "mixed": sum(not self._is_whole(box) for box in self._boxes),
            "unverified_ran": sum(
                self._is_unverified(report) for box in self._boxes for report in reports[box]
            ),
            "downgraded": sum(self._downgrades(reports[box]) for box in self._boxes),
            "stuck": sum(report.state not in _SETTLED for report in last.values()),
            "lied": sum(self._runs(box, last[box]) != believed[box] for box in self._boxes),
        }
        self._worst = {name: max(self._worst[name], count) for name, count in seen.items()}
        return self._worst

    def _is_whole(self, box: str) -> bool:
        """Return whether ``current`` holds exactly the files of one manifest in the layout."""
        folder = (self._place.box(box) / "current").resolve()
        manifest = self._place.releases / "blobs" / "sha256" / folder.name
        if not manifest.is_file() or _sha256(manifest) != folder.name:
            return False
        document = json.loads(manifest.read_bytes())
        wanted = {
            layer["annotations"]["org.opencontainers.image.title"]: layer["digest"]
            for layer in document["layers"]
        }
        wanted["variant.json"] = document["config"]["digest"]
        found = {path.name: f"sha256:{_sha256(path)}" for path in folder.iterdir()}
        return found == wanted

    def _is_unverified(self, report: Report) -> bool:
        if report.loaded is None:
            return False
        version = self._signed_version(report.loaded.manifest)
        return version is None or version == BROKEN or version != report.loaded.version

    def _signed_version(self, manifest: str) -> str | None:
        """Return the version that the image repository's newest targets give to ``manifest``."""
        metadata = self._place.releases / "metadata"
        newest = max(metadata.glob("*.targets.json"), key=lambda p: int(p.name.split(".")[0]))
        targets = json.loads(newest.read_bytes())["signed"]["targets"]
        for path, entry in targets.items():
            if f"sha256:{entry['hashes']['sha256']}" == manifest:
                return str(path).split("/")[0]
        return None

    def _downgrades(self, reports: list[Report]) -> int:
        ordered = _ordered_versions(self._place.fleet / "fleet.db")
        loaded = [report for report in reports if report.loaded is not None]
        return sum(
            _numbers(after) < _numbers(before)
            and ordered.get(after.rollout or "") != _version(after)
            for before, after in itertools.pairwise(loaded)
        )

    def _runs(self, box: str, report: Report) -> str | None:
        """Return the manifest that the box's live process really has, as far as Linux can tell."""
        current = (self._place.box(box) / "current").resolve().name
        if report.loaded is None or not _infers(report):
            return None
        mapped = _mapped_releases(report.loaded.pid, self._place.box(box).resolve() / "releases")
        return f"sha256:{current}" if mapped <= {current} else None


def _reports(database: Path) -> dict[str, list[Report]]:
    """Return every report that the manager kept, checked again, by device and in order."""
    reports: dict[str, list[Report]] = {}
    with _rows(
        database,
        "select r.device, d.public_key, r.envelope from reports r "
        "join devices d on d.id = r.device order by r.device, r.number",
    ) as rows:
        for device, key, envelope in rows:
            payload = open_envelope(envelope.encode(), REPORT_TYPE, key)
            reports.setdefault(device, []).append(msgspec.json.decode(payload, type=Report))
    return reports


def _ordered_versions(database: Path) -> dict[str, str]:
    with _rows(database, "select id, version from rollouts") as rows:
        return {str(rollout): str(version) for rollout, version in rows}


@contextlib.contextmanager
def _rows(database: Path, query: str) -> Iterator[list[Any]]:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        yield connection.execute(query).fetchall()
    finally:
        connection.close()


def _infers(report: Report) -> bool:
    """Return whether the process that the report names is alive and is a runner."""
    if report.loaded is None or report.loaded.inferences < 1:
        return False
    try:
        command = Path(f"/proc/{report.loaded.pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"runner" in command


def _mapped_releases(pid: int, releases: Path) -> set[str]:
    """Return which releases' files the process has mapped; not every runtime maps its files."""
    prefix = f"{releases}/"
    paths = [
        line.split(maxsplit=5)[5]
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines()
        if prefix in line
    ]
    return {path.removeprefix(prefix).split("/")[0] for path in paths}


def _version(report: Report) -> str:
    return report.loaded.version if report.loaded is not None else ""


def _numbers(report: Report) -> tuple[int, ...]:
    return tuple(int(part) for part in _version(report).split("."))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
