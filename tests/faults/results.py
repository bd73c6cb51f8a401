"""What came of the points so far, on disk, so that a stopped command goes on.

Results are of one state of the code: with another ``device/``, ``contract/`` or ``tests/faults/``
they are begun anew. What only prints, or only serves the control, begins nothing but that anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from tests.faults.row import Outcome

ROOT = Path(__file__).resolve().parents[2]
CODE = ("device", "contract", "tests/faults")
PRINTING = frozenset({"__main__.py", "pool.py", "results.py", "rows.py", "table.py"})
CONTROL = "control"
CONTROLLING = frozenset({"control.py", "every_row.py", "mutants.py", "operations.py", "surgery.py"})


class Results:
    """The outcomes, one JSON object a line: a file for the rows, and one for their control."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = {name: _fingerprint(is_control=name == CONTROL) for name in ("", CONTROL)}
        self._rows: dict[str, dict[str, Outcome]] = {}
        for path in {self._path(name) for name in self._names}:
            for line in path.read_bytes().splitlines() if path.exists() else ():
                self._keep(line)

    def of(self, row: str) -> dict[str, Outcome]:
        """Return the outcomes of a row by point."""
        return self._rows.setdefault(row, {})

    def add(self, row: str, outcome: Outcome) -> None:
        """Keep an outcome."""
        self.of(row)[outcome.point] = outcome
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._path(row).open("ab") as file:
            file.write(msgspec.json.encode({"row": row, "outcome": outcome}) + b"\n")

    def _path(self, row: str) -> Path:
        name = self._names.get(row, self._names[""])
        return self._folder / f"{name}.jsonl"

    def _keep(self, line: bytes) -> None:
        try:
            kept = msgspec.json.decode(line, type=_Kept)
        except msgspec.DecodeError:
            return  # The command was killed while it wrote.
        self.of(kept.row)[kept.outcome.point] = kept.outcome


class _Kept(msgspec.Struct):
    row: str
    outcome: Outcome


def _fingerprint(*, is_control: bool) -> str:
    """Return a short digest of the code that the results are of."""
    digest = hashlib.sha256()
    for path in _sources(is_control=is_control):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _sources(*, is_control: bool) -> Iterable[Path]:
    spared = PRINTING if is_control else PRINTING | CONTROLLING
    return sorted(
        path
        for folder in CODE
        for path in (ROOT / folder).rglob("*.py")
        if folder != "tests/faults" or path.name not in spared
    )
