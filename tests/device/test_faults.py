"""A sample of the simulated rows of the table of faults; all of them are ``make faults``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.row import Outcome, Row, sample_of
from tests.faults.rows import BY_NAME

SIMULATED = ("one-stop", "two-stops", "five-stops", "bad-disk", "flips", "clock", "control")
POINTS = [(name, point) for name in SIMULATED for point in sample_of(BY_NAME[name])]


@pytest.fixture(scope="module")
def attempt(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Outcome]]:
    """What tries a point of the row that the parameter names; it is set up once."""
    row: Row = BY_NAME[request.param]
    with row.open(tmp_path_factory.mktemp(row.name)) as tries:
        yield tries


@pytest.mark.parametrize(("attempt", "point"), POINTS, indirect=["attempt"], scope="module")
def test_no_fault_leads_to_what_is_forbidden(attempt: Callable[[str], Outcome], point: str) -> None:
    outcome = attempt(point)
    assert outcome.forbidden == (), outcome.detail
    assert outcome.cases > 0
    assert outcome.end != "survived", outcome.detail
