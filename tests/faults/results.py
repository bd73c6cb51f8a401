"""What came of the points so far, on disk, so that a stopped command goes on.

Results are of one state of the code: with another ``device/``, ``contract/`` or ``tests/faults/``
they are begun anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from tests.faults.row import Outcome

ROOT = Path(__file__).resolve().parents[2]
CODE = ("device", "contract", "tests/faults")


class Results:
    """The outcomes of all rows, one JSON object a line."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{_fingerprint()}.jsonl"
        self._rows: dict[str, dict[str, Outcome]] = {}
        if self._path.exists():
            for line in self._path.read_bytes().splitlines():
                self._keep(line)

    def of(self, row: str) -> dict[str, Outcome]:
        """Return the outcomes of a row by point."""
        return self._rows.setdefault(row, {})

    def add(self, row: str, outcome: Outcome) -> None:
        """Keep an outcome."""
        self.of(row)[outcome.point] = outcome
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode({"row": row, "outcome": outcome}) + b"\n")

    def _keep(self, line: bytes) -> None:
        try:
            kept = msgspec.json.decode(line, type=_Kept)
        except msgspec.DecodeError:
            return  # The command was killed while it wrote.
        self.of(kept.row)[kept.outcome.point] = kept.outcome


class _Kept(msgspec.Struct):
    row: str
    outcome: Outcome


def _fingerprint() -> str:
    """Return a short digest of the code that the results are of."""
    digest = hashlib.sha256()
    for path in _sources():
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _sources() -> Iterable[Path]:
    return sorted(path for folder in CODE for path in (ROOT / folder).rglob("*.py"))
