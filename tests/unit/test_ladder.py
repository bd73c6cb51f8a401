"""When a climb goes on, and when only more samples would help. No I/O."""

from __future__ import annotations

import pytest

from asdic.quantization.drop import Drop, flips_interval
from asdic.quantization.gate import Verdict, fewest_to_pass, verdict_of
from asdic.quantization.ladder import samples_to_decide

LIMIT = 0.5


def flips(lost: int, gained: int, samples: int) -> Drop:
    low, high = flips_interval(lost, gained, samples)
    mean = 100.0 * (lost - gained) / samples
    return Drop(mean=mean, low=low, high=high, samples=samples, flips=(lost, gained))


def test_with_few_samples_and_no_flip_only_samples_help() -> None:
    drop = flips(0, 0, 64)
    assert verdict_of(drop, limit=LIMIT) is Verdict.UNDECIDED
    assert samples_to_decide(drop, limit=LIMIT) == fewest_to_pass(LIMIT)


def test_a_drop_beyond_the_limit_asks_for_a_better_recipe_however_few_samples() -> None:
    assert samples_to_decide(flips(2, 0, 64), limit=LIMIT) == 0


def test_with_enough_samples_a_better_recipe_may_pass() -> None:
    assert samples_to_decide(flips(4, 0, 1000), limit=LIMIT) == 0


def test_a_drop_on_a_scale_shrinks_with_a_better_recipe() -> None:
    assert samples_to_decide(Drop(mean=0.3, low=0.1, high=0.7, samples=32), limit=LIMIT) == 0


@pytest.mark.parametrize("limit", [0.0, -100.0])
def test_where_nothing_may_be_lost_samples_do_not_help(limit: float) -> None:
    assert samples_to_decide(flips(0, 0, 64), limit=limit) == 0
