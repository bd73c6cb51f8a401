"""The gate's verdict, and what it asks for where it has none."""

from __future__ import annotations

import numpy as np
import pytest

from asdic.contract.errors import ConfigError
from asdic.quantization.drop import Drop, PairedPoints
from asdic.quantization.gate import (
    INT8_SHARE_AT_LEAST,
    MORE_SAMPLES_LIMIT,
    Verdict,
    describe_verdict,
    fewest_to_pass,
    more_samples_needed,
    verdict_of,
)

LIMIT = 0.5


def _drop(mean: float, half_width: float, samples: int = 100) -> Drop:
    return Drop(mean=mean, low=mean - half_width, high=mean + half_width, samples=samples)


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


def _right_and_wrong(samples: int, *, lost: int = 0, gained: int = 0) -> Drop:
    fp32, int8 = np.full((2, samples), 100.0)
    int8[:lost] = 0.0
    fp32[lost : lost + gained] = 0.0
    return PairedPoints(fp32, int8, may_flip=True).drop()


@pytest.mark.parametrize("samples", [32, 256])
def test_few_samples_of_which_none_flipped_do_not_pass(samples: int) -> None:
    assert verdict_of(_right_and_wrong(samples), limit=LIMIT) is Verdict.UNDECIDED


def test_as_many_samples_as_it_asks_for_pass_if_none_of_them_flips() -> None:
    more = more_samples_needed(_right_and_wrong(256), limit=LIMIT)
    assert verdict_of(_right_and_wrong(256 + more), limit=LIMIT) is Verdict.PASS
    assert verdict_of(_right_and_wrong(255 + more), limit=LIMIT) is Verdict.UNDECIDED
    assert 256 + more == 765


def test_it_is_known_beforehand_how_few_samples_cannot_pass() -> None:
    fewest = fewest_to_pass(LIMIT)
    assert verdict_of(_right_and_wrong(fewest), limit=LIMIT) is Verdict.PASS
    assert verdict_of(_right_and_wrong(fewest - 1), limit=LIMIT) is Verdict.UNDECIDED
    assert fewest_to_pass(100.0) == 1


def test_no_samples_show_a_drop_of_nothing() -> None:
    with pytest.raises(ConfigError, match="allow more"):
        fewest_to_pass(0.0)


def test_with_flips_it_asks_for_what_such_flips_need() -> None:
    more = more_samples_needed(_right_and_wrong(400, lost=2, gained=1), limit=1.0)
    times = (400 + more) / 400
    scaled = _right_and_wrong(400 + more, lost=round(2 * times), gained=round(times))
    assert scaled.high == pytest.approx(1.0, abs=0.1)  # flips are whole


def test_flips_at_the_very_limit_may_never_be_decided() -> None:
    assert more_samples_needed(_right_and_wrong(200, lost=1), limit=LIMIT) == MORE_SAMPLES_LIMIT


@pytest.mark.parametrize(
    ("drop", "share", "verdict"),
    [
        (_drop(0.1, 0.1), INT8_SHARE_AT_LEAST, Verdict.PASS),
        (_drop(0.1, 0.1), 0.499, Verdict.NOT_QUANTIZED),
        (_drop(0.4, 0.3), 0.499, Verdict.NOT_QUANTIZED),
        (_drop(0.9, 0.3), 0.499, Verdict.FAIL),
    ],
)
def test_what_is_mostly_float_neither_passes_nor_stays_undecided(
    drop: Drop, share: float, verdict: Verdict
) -> None:
    assert verdict_of(drop, limit=LIMIT, int8_share=share) is verdict


def test_a_model_that_is_not_quantized_says_how_much_is_int8() -> None:
    assert describe_verdict(_drop(0.1, 0.1), limit=LIMIT, int8_share=0.4999) == (
        "not quantized: 49.9 % of the multiply-accumulates are INT8, at least 50 % must be"
    )
