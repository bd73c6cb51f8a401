"""A sample of row 6 of the table of faults; all of it is ``make faults``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.link import ROW
from tests.faults.row import Outcome

POINTS = tuple(ROW.points())
SPREAD = tuple(POINTS[at * (len(POINTS) - 1) // (ROW.sample - 1)] for at in range(ROW.sample))


@pytest.fixture(scope="module")
def try_point(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Outcome]]:
    with ROW.open(tmp_path_factory.mktemp("link")) as try_point:
        yield try_point


def test_a_transfer_without_a_fault_fetches_nothing_twice(
    try_point: Callable[[str], Outcome],
) -> None:
    outcome = try_point("whole")
    assert (outcome.end, outcome.forbidden) == ("new", ())
    assert outcome.detail.endswith(", 0 bytes of chunks came twice")


@pytest.mark.parametrize("point", [*SPREAD, "stale-offer-unseen", "stale-chunks"])
def test_a_fault_of_the_link_ends_with_the_new_release(
    try_point: Callable[[str], Outcome], point: str
) -> None:
    outcome = try_point(point)
    assert (outcome.end, outcome.forbidden) == ("new", ()), outcome
