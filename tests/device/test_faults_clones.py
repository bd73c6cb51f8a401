"""A sample of row 10 of the table of faults; all of it is ``make faults``."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.faults.clones import DETECTED, NOT_DETECTED, REFUSED, ROW
from tests.faults.row import Outcome


@pytest.fixture(scope="module")
def try_point(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Outcome]]:
    with ROW.open(tmp_path_factory.mktemp("clones")) as try_point:
        yield try_point


@pytest.mark.parametrize(
    ("point", "end"),
    [
        ("restored", DETECTED),
        ("copied", DETECTED),
        ("reports-withheld", REFUSED),
        ("old-offer-floor-kept", DETECTED),
        ("old-offer-31-days-later", DETECTED),
        ("old-offer-clock-behind", NOT_DETECTED),
    ],
)
def test_a_copy_of_a_folder_is_noticed_or_said_to_go_unnoticed(
    try_point: Callable[[str], Outcome], point: str, end: str
) -> None:
    outcome = try_point(point)
    assert (outcome.end, outcome.forbidden) == (end, ()), outcome
