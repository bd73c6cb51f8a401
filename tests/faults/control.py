"""The control of the table: would the rows notice a device that is worse?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.faults.mutants import court_in, mutants
from tests.faults.row import Outcome, Row

REASONS: Final = MappingProxyType(
    {
        "device.update.steps._accept_documents": "The offer's own signatures say the same.",
        "contract.release.variant_of": "On a device its caller has just checked those bytes.",
    }
)
"""Why a survivor is no hole, by the function that it was taken from."""


@contextmanager
def court(folder: Path) -> Iterator[Callable[[str], Outcome]]:
    """Yield what tries one mutant."""
    with court_in(folder) as sitting:
        by_name = {f"{mutant.kind}: {mutant.name}": mutant for mutant in mutants()}

        def try_point(point: str) -> Outcome:
            witness = sitting.caught_by(by_name[point])
            reason = next((why for where, why in REASONS.items() if where in point), "")
            return Outcome(
                point=point,
                end="caught" if witness else "survived",
                detail=f"by {witness}" if witness else reason,
            )

        yield try_point


ROW: Final = Row(
    name="control",
    number=0,
    fault="each fsync, digest check and row of the transition table taken away in turn",
    points=lambda: [f"{mutant.kind}: {mutant.name}" for mutant in mutants()],
    open=court,
    sample=6,
)
