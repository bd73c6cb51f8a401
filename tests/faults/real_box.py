"""Boxes with real agents for the rows that need real processes, and how such a box is judged.

What runs is what the runner itself wrote when a release had answered; the agent's reports are
only compared with it.
"""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import psutil

from asdic.contract.errors import AsdicError
from tests.faults.oracle import Evidence, Signed, forbidden_in, pointer
from tests.faults.row import Forbidden, Outcome
from tests.faults.traced import Change, TracedProcess, traced
from tests.support.boxes import AGENT, Box
from tests.support.yard import JETSON, Yard

OLD: Final = "1.0.0"
NEW: Final = "1.1.0"
BAD: Final = "1.2.0"
ANSWERS: Final = re.compile(r"asdic\.runner: release (\S+) answers")
"""What the runner says when it has made the first inference with a release (``runner/live.py``)."""

INFERENCES_A_SECOND: Final = ("--fps", "50")
PATIENCE_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What all points share: a box that runs the old release, and sticks with others.

    Args:
        template: The state folder of the box, never used itself.
        sticks: A release folder with an offer, by version.
        signed: All releases, by the hex digits of their manifest's digest.
        names: The same digits, by version.
    """

    template: Path
    sticks: Mapping[str, Path]
    signed: Mapping[str, Signed]
    names: Mapping[str, str]

    @classmethod
    def build(cls, folder: Path) -> Stage:
        """Build, sign and install the releases in an empty folder."""
        yard = Yard(folder / "yard")
        yard.add(OLD)
        yard.add(NEW, offset=0.1, security_counter=2)
        yard.add(BAD, offset=0.2, golden_offset=0.0, security_counter=2)
        names = {one: yard.manifest(one).removeprefix("sha256:") for one in (OLD, NEW, BAD)}
        counters = {OLD: 1, NEW: 2, BAD: 2}
        box = Box.make(folder / "template" / "box1", roots=yard.roots)
        done = install(box, _stick(yard, OLD))
        if done.code != 0:
            raise RuntimeError(f"the box does not take its first release: {done.words}")
        return cls(
            template=box.state.path,
            sticks=MappingProxyType({one: _stick(yard, one) for one in (NEW, BAD)}),
            signed=MappingProxyType(
                {
                    name: Signed(
                        version=version,
                        security_counter=counters[version],
                        files=_files(yard.folder / "variants" / version / JETSON),
                        is_good=version != BAD,
                    )
                    for version, name in names.items()
                }
            ),
            names=MappingProxyType(names),
        )

    def name_of(self, version: str) -> str:
        """Return the name of a release by its version; an unknown one keeps its version."""
        return self.names.get(version, version)

    def copy_to(self, folder: Path) -> Box:
        """Return a new box that runs the old release."""
        shutil.copytree(self.template, folder / "box1", symlinks=True, ignore=_sockets)
        return Box(folder / "box1")


@dataclass(frozen=True)
class Ended:
    """How a run of the agent ended, all that it and its runner wrote, and all its reports."""

    code: int
    words: str
    reports: Sequence[Mapping[str, Any]]

    @property
    def ran(self) -> tuple[str, ...]:
        """The versions that the runner inferred with, in order, by its own word."""
        return tuple(ANSWERS.findall(self.words))


@dataclass(frozen=True, kw_only=True)
class Stopped:
    """An install that was ended by force.

    Args:
        before: The change of the state folder that was not made any more; empty if all were.
        run: What was written and reported until then; first the last report before the install.
        orphans: How many processes outlived the agent.
    """

    before: str
    run: Ended
    orphans: int


def count_changes(box: Box, stick: Path) -> int:
    """Install to the end and return how often the agent changed its state folder."""
    with _traced(box, stick) as process:
        return sum(1 for _ in process.changes())


def install_until(
    box: Box, stick: Path, number: int, *, fault: Callable[[], None] = lambda: None
) -> Stopped:
    """Install, and before change ``number`` do ``fault`` and kill the agent.

    Where there are fewer changes, it is done when the agent has ended: ``before`` is empty then.
    """
    reports = last_report(box)
    before, orphans = "", 0
    with _traced(box, stick) as process:
        for change in _followed(process, box, reports):
            if change.number == number:
                before = f"{change.call} {change.path}"
                fault()
                orphans = _kill(process)
        if not before:
            fault()
    run = Ended(process.status or 0, box.words, reports)
    return Stopped(before=before, run=run, orphans=orphans)


def install(box: Box, stick: Path) -> Ended:
    """Install to the end, as a person would; the runner may need a little longer than a refusal."""
    reports: list[Mapping[str, Any]] = []
    start = len(box.words)
    try:
        with _traced(box, stick) as process:
            deque(_followed(process, box, reports), maxlen=0)
    except TimeoutError:  # Its journal says where it is stuck.
        return Ended(-signal.SIGKILL, box.words[start:], reports)
    if not (reports and reports[-1]["loaded"]):
        _run_on(box)
        reports += last_report(box)
    return Ended(process.status or 0, box.words[start:], reports)


def last_report(box: Box) -> list[Mapping[str, Any]]:
    """Return the box's last report as the oracle wants it; nothing where none can be read."""
    try:
        report: Mapping[str, Any] = json.loads(box.state.last_report.read_bytes())
    except (OSError, ValueError):
        return []
    return [report]


def judge(stage: Stage, box: Box, point: str, *, stopped: Stopped, again: Ended) -> Outcome:
    """Return what came of a point once the install after the fault is over."""
    running = again.ran[-1] if again.ran else None
    name = stage.name_of(running) if running else None
    evidence = Evidence(
        folder=box.state.path,
        signed=stage.signed,
        running=name,
        ran=[stage.name_of(version) for version in (*stopped.run.ran, *again.ran)],
        reports=[*stopped.run.reports, *again.reports],
    )
    forbidden = {*forbidden_in(evidence)}
    detail = f"stopped before {stopped.before or 'nothing: it had ended'}"
    if pointer(box.state.path, "current") != name:
        forbidden.add(Forbidden.MIXED)
        detail += "; what runs is not what current names"
    if stopped.orphans:
        forbidden.add(Forbidden.LEAK)
        detail += f"; {stopped.orphans} processes outlived the agent"
    return Outcome(
        point=point,
        end={OLD: "old", NEW: "new"}.get(running or "", "nothing"),
        forbidden=tuple(name for name in Forbidden if name in forbidden),
        detail=f"{detail}\n{_facts(box)}{again.words}" if forbidden else detail,
        runs=2,
    )


def _followed(
    process: TracedProcess, box: Box, reports: list[Mapping[str, Any]]
) -> Iterator[Change]:
    """Yield the changes and keep every report on the way; there may be one more at the end."""
    folder = box.state.last_report.parent.name
    for change in process.changes():
        if change.path.startswith(folder):
            reports += last_report(box)
        yield change
    reports += last_report(box)


def _run_on(box: Box) -> None:
    """Let the box run until its program has said what it runs, and stop it."""
    with box, suppress(AssertionError, AsdicError):  # It runs nothing, and the judge says so.
        box.start(*INFERENCES_A_SECOND)
        box.wait_for(
            lambda status: status.report is not None and status.report.loaded is not None,
            patience_s=PATIENCE_S / 4,
        )
        box.stop()


@contextmanager
def _traced(box: Box, stick: Path) -> Iterator[TracedProcess]:
    command = [*AGENT, "install", str(stick), *INFERENCES_A_SECOND, "--state", str(box.state.path)]
    with traced(command, folder=box.state.path, log=box.log, patience_s=PATIENCE_S) as process:
        yield process


def _kill(process: TracedProcess) -> int:
    """Kill the agent alone, and return how many of its children outlive it (and end them)."""
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_S / 4)
    for child in alive:
        child.kill()
    return len(alive)


def _stick(yard: Yard, version: str) -> Path:
    """Return a stick of its own for a version: a yard's folder holds one offer at a time."""
    folder = yard.folder / "sticks" / version
    return Path(shutil.copytree(yard.stick(version), folder))


def _files(folder: Path) -> Mapping[str, str]:
    return {path.name: sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def _sockets(_folder: str, names: list[str]) -> set[str]:
    return {name for name in names if name.endswith(".sock")}


def _facts(box: Box) -> str:
    """Return what lies in the state folder, for whoever has to find out what happened."""
    folder = box.state.path
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
    journal = box.state.journal.read_text("utf-8") if box.state.journal.exists() else "none"
    return f"files: {' '.join(names)}\njournal: {journal}\n"
