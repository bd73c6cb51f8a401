"""The gate's statistics: the paired interval, and the verdict that follows from it."""

from __future__ import annotations

import numpy as np
import pytest

from asdic.contract.errors import DataError
from asdic.quantization.gate import (
    MORE_SAMPLES_LIMIT,
    Drop,
    Verdict,
    describe_verdict,
    more_samples_needed,
    paired_drop,
    verdict_of,
)

LIMIT = 0.5


def _drop(mean: float, half_width: float, samples: int = 100) -> Drop:
    return Drop(mean=mean, low=mean - half_width, high=mean + half_width, samples=samples)


def test_the_interval_is_that_of_the_mean_of_the_differences() -> None:
    random = np.random.default_rng(1)
    fp32 = random.uniform(0, 100, 400)
    drop = paired_drop(fp32, fp32 - random.normal(0.3, 2.0, 400))
    expected_half = 1.96 * 2.0 / np.sqrt(400)
    assert (drop.high - drop.low) / 2 == pytest.approx(expected_half, rel=0.15)


def test_the_samples_own_difficulty_cancels_out() -> None:
    fp32 = np.linspace(0.0, 100.0, 50)
    drop = paired_drop(fp32, fp32 - 0.2)
    assert (drop.low, drop.high) == pytest.approx((0.2, 0.2))


def test_the_interval_holds_the_true_drop_in_about_95_of_100_cases() -> None:
    random = np.random.default_rng(2)
    held = 0
    for seed in range(100):
        drop = paired_drop(np.zeros(60), -random.normal(1.0, 2.0, 60), seed=seed)
        held += drop.low <= 1.0 <= drop.high
    assert 88 <= held <= 99


def test_the_same_seed_gives_the_same_interval() -> None:
    random = np.random.default_rng(3)
    fp32, int8 = random.uniform(0, 100, (2, 40))
    assert paired_drop(fp32, int8, seed=5) == paired_drop(fp32, int8, seed=5)


def test_scores_that_do_not_pair_are_refused() -> None:
    with pytest.raises(DataError, match="cannot pair"):
        paired_drop(np.zeros(3), np.zeros(4))


@pytest.mark.parametrize(
    ("drop", "verdict"),
    [
        (_drop(0.1, 0.3), Verdict.PASS),
        (_drop(0.25, 0.25), Verdict.PASS),
        (_drop(-2.0, 0.5), Verdict.PASS),
        (_drop(0.4, 0.3), Verdict.UNDECIDED),
        (_drop(0.7, 0.3), Verdict.UNDECIDED),
        (_drop(0.9, 0.3), Verdict.FAIL),
    ],
)
def test_the_whole_interval_must_lie_on_one_side_of_the_limit(drop: Drop, verdict: Verdict) -> None:
    assert verdict_of(drop, limit=LIMIT) is verdict


def test_half_the_needed_width_takes_four_times_the_samples() -> None:
    assert more_samples_needed(_drop(0.3, 0.4, samples=100), limit=LIMIT) == 300


def test_a_decided_gate_needs_no_more_samples() -> None:
    assert more_samples_needed(_drop(0.1, 0.1), limit=LIMIT) == 0


def test_a_drop_at_the_very_limit_may_never_be_decided() -> None:
    drop = _drop(LIMIT, 0.3)
    assert more_samples_needed(drop, limit=LIMIT) == MORE_SAMPLES_LIMIT
    assert "more than 100000 more samples" in describe_verdict(drop, limit=LIMIT)


def test_an_undecided_verdict_says_how_many_samples_would_decide() -> None:
    text = describe_verdict(_drop(0.3, 0.4, samples=100), limit=LIMIT)
    assert text == (
        "undecided: the drop lies between -0.10 and 0.70 points, 0.5 are allowed; "
        "about 300 more samples would decide"
    )
