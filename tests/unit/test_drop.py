"""The drop and its interval, against definitions written out and published figures."""

from __future__ import annotations

import time
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import t as student

from asdic.contract.errors import DataError
from asdic.device.metrics import auc, mean_average_precision
from asdic.quantization import drop as module
from asdic.quantization.drop import (
    PairedPoints,
    PairedScores,
    flips_interval,
    unseen_share,
)

BY_HAND = {"auc": auc, "map": mean_average_precision}


def test_the_interval_is_that_of_the_mean_of_the_differences() -> None:
    random = np.random.default_rng(1)
    fp32 = random.uniform(0, 100, 400)
    drop = PairedPoints(fp32, fp32 - random.normal(0.3, 2.0, 400)).drop()
    expected_half = 1.96 * 2.0 / np.sqrt(400)
    assert (drop.high - drop.low) / 2 == pytest.approx(expected_half, rel=0.15)


def test_the_samples_own_difficulty_cancels_out() -> None:
    fp32 = np.linspace(0.0, 100.0, 50)
    drop = PairedPoints(fp32, fp32 - 0.2).drop()
    assert (drop.low, drop.high) == pytest.approx((0.2, 0.2))


def _held(draw: Any, true: float, *, may_flip: bool = False, sets: int = 200) -> float:
    """Return the share of sets of samples whose interval holds the true drop."""
    held = 0
    for seed in range(sets):
        differences = draw(np.random.default_rng(seed))
        pairing = PairedPoints(np.zeros(differences.size), -differences, may_flip=may_flip)
        drop = pairing.drop(seed=seed)
        held += drop.low <= true <= drop.high
    return held / sets


def test_the_interval_holds_the_true_drop_in_about_95_of_100_cases() -> None:
    assert 0.91 <= _held(lambda random: random.normal(1.0, 2.0, 60), 1.0) <= 0.99


def test_it_holds_it_also_where_few_samples_lose_much() -> None:
    assert _held(lambda random: random.exponential(1.0, 64) ** 2 / 2, 1.0) >= 0.9


def test_it_holds_it_also_where_samples_seldom_flip() -> None:
    assert _held(lambda random: 100.0 * (random.random(32) < 0.01), 1.0, may_flip=True) >= 0.95


def test_the_same_seed_gives_the_same_interval() -> None:
    random = np.random.default_rng(3)
    fp32, int8 = random.uniform(0, 100, (2, 40))
    assert PairedPoints(fp32, int8).drop(seed=5) == PairedPoints(fp32, int8).drop(seed=5)
    assert PairedPoints(fp32, int8).drop(seed=5) != PairedPoints(fp32, int8).drop(seed=6)


@pytest.mark.parametrize(
    ("fp32", "int8"),
    [
        (np.zeros(3), np.zeros(4)),
        (np.zeros(0), np.zeros(0)),
        (np.zeros((2, 2)), np.zeros((2, 2))),
        (np.zeros(2), np.array([0.0, np.nan])),
    ],
)
def test_points_that_do_not_pair_are_refused(fp32: Any, int8: Any) -> None:
    with pytest.raises(DataError, match=r"cannot pair|not a number"):
        PairedPoints(fp32, int8)


def test_chosen_samples_drop_by_themselves() -> None:
    fp32, int8 = np.random.default_rng(4).uniform(0, 100, (2, 40))
    chosen = np.arange(5, 25)
    pairing = PairedPoints(fp32, int8)
    assert pairing.drop(chosen) == PairedPoints(fp32[chosen], int8[chosen]).drop()
    assert pairing.values(chosen) == (fp32[chosen].mean(), int8[chosen].mean())


# ---- right or wrong ------------------------------------------------------------------------


def test_flips_are_counted() -> None:
    fp32 = np.array([100.0, 100.0, 0.0, 100.0, 0.0])
    drop = PairedPoints(fp32, np.array([0.0, 0.0, 100.0, 100.0, 0.0]), may_flip=True).drop()
    assert drop.flips == (2, 1)
    assert drop.mean == pytest.approx(20.0)


def test_points_on_a_scale_have_no_flips() -> None:
    assert PairedPoints(np.array([100.0, 50.0]), np.array([0.0, 50.0])).drop().flips is None


def test_no_flips_leave_room_for_those_not_seen() -> None:
    drop = PairedPoints(*np.full((2, 32), 100.0), may_flip=True).drop()
    z = 1.959964
    assert drop.mean == 0.0
    assert drop.high == pytest.approx(100 * z**2 / (32 + z**2), abs=1e-3)
    assert drop.low == pytest.approx(-drop.high)


def test_equal_points_on_a_scale_have_no_drop_however_few() -> None:
    """Else a model that keeps all masks would be judged worse than one that changes them a bit."""
    drop = PairedPoints(*np.full((2, 32), 87.5)).drop()
    assert (drop.low, drop.high, drop.flips) == (0.0, 0.0, None)


def test_where_points_may_flip_and_change_gradually_both_are_in_the_interval() -> None:
    random = np.random.default_rng(1)
    gradual = random.normal(0.5, 0.2, 64)
    gradual[:2] = 100.0
    drop = PairedPoints(np.full(64, 100.0), 100.0 - gradual, may_flip=True).drop()
    flips = flips_interval(2, 0, 64)
    assert drop.flips is None
    assert drop.low == pytest.approx(flips[0] + 0.5, abs=0.2)
    assert drop.high == pytest.approx(flips[1] + 0.5, abs=0.2)


def test_the_interval_of_flips_is_the_published_one() -> None:
    """Fagerland, Lydersen, Laake, Statistics in Medicine 33:2850 (2014), table of 21 patients."""
    assert flips_interval(1, 7, 21) == pytest.approx((-51.7, -2.6), abs=0.05)


@pytest.mark.parametrize(("lost", "gained", "samples"), [(3, 1, 32), (0, 4, 64), (12, 9, 256)])
def test_the_interval_of_flips_is_what_a_score_test_does_not_reject(
    lost: int, gained: int, samples: int
) -> None:
    def score(difference: float) -> float:
        def surprise(share: float) -> float:
            same = 1.0 - difference - 2 * share
            terms = ((lost, share + difference), (gained, share), (samples - lost - gained, same))
            return -sum(count * np.log(max(value, 1e-300)) for count, value in terms if count)

        bounds = (max(0.0, -difference), (1.0 - difference) / 2)
        share = minimize_scalar(
            surprise, bounds=bounds, method="bounded", options={"xatol": 1e-12}
        ).x
        error = np.sqrt(samples * (2 * share + difference - difference**2))
        return float((lost - gained - samples * difference) / error)

    estimate = (lost - gained) / samples
    low = brentq(lambda value: score(value) - 1.959964, -0.6, estimate)
    high = brentq(lambda value: score(value) + 1.959964, estimate, 0.6)
    assert flips_interval(lost, gained, samples) == pytest.approx((100 * low, 100 * high), abs=0.01)


def test_a_failure_that_no_sample_showed_may_be_3_in_n() -> None:
    assert unseen_share(300) == pytest.approx(3 / 300, rel=0.01)


@pytest.mark.parametrize("freedom", [7, 15, 31, 255])
def test_the_t_quantile_is_students(freedom: int) -> None:
    assert module._t_quantile(freedom) == pytest.approx(student.ppf(0.975, freedom), rel=1e-3)


# ---- metrics of a set ----------------------------------------------------------------------


def _scored(seed: int, *, samples: int = 80, classes: int = 3) -> tuple[NDArray[Any], ...]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, samples)
    scores = random.normal(size=(samples, classes))
    scores[np.arange(samples), labels] += 1.5
    return scores, scores + random.normal(scale=0.5, size=scores.shape), labels


@pytest.mark.parametrize("metric", ["auc", "map"])
def test_the_drop_of_a_set_is_the_difference_of_its_metrics(metric: str) -> None:
    fp32, int8, labels = _scored(1)
    pairing = PairedScores(metric=metric, fp32=fp32, int8=int8, references=labels)
    expected = BY_HAND[metric](fp32, labels), BY_HAND[metric](int8, labels)
    assert pairing.values() == pytest.approx(expected)
    assert pairing.drop().mean == pytest.approx(expected[0] - expected[1])


@pytest.mark.parametrize("metric", ["auc", "map"])
def test_its_interval_is_that_of_resamples_drawn_one_by_one(metric: str) -> None:
    fp32, int8, labels = _scored(2)
    measure, random, drops = BY_HAND[metric], np.random.default_rng(9), []
    for _ in range(600):
        drawn = random.integers(labels.size, size=labels.size)
        drops.append(measure(fp32[drawn], labels[drawn]) - measure(int8[drawn], labels[drawn]))
    low, high = np.quantile(drops, [0.025, 0.975])
    drop = PairedScores(metric=metric, fp32=fp32, int8=int8, references=labels).drop()
    assert drop.low == pytest.approx(low, abs=0.25 * (high - low))
    assert drop.high == pytest.approx(high, abs=0.25 * (high - low))


def test_a_class_of_one_sample_is_left_out_where_a_resample_lacks_it() -> None:
    fp32, int8, labels = _scored(3, samples=40, classes=2)
    labels = np.append(labels, 2)
    fp32, int8 = (np.pad(one, ((0, 1), (0, 1))) for one in (fp32, int8))
    drop = PairedScores(metric="auc", fp32=fp32, int8=int8, references=labels).drop()
    assert np.isfinite([drop.mean, drop.low, drop.high]).all()


def test_equal_rankings_leave_room_for_flips_within_a_class() -> None:
    fp32, _, labels = _scored(4, samples=60, classes=2)
    rarer = int(np.bincount(labels).min())
    drop = PairedScores(metric="auc", fp32=fp32, int8=2 * fp32, references=labels).drop()
    assert drop.mean == 0.0
    assert (drop.low, drop.high) == pytest.approx(flips_interval(0, 0, rarer))


def test_two_samples_say_nothing_about_a_set() -> None:
    scores = np.array([[0.2], [0.9]])
    drop = PairedScores(
        metric="auc", fp32=scores, int8=scores[::-1], references=np.array([0, 1])
    ).drop()
    assert drop.mean == 100.0
    assert drop.low < 25.0


def _area_held(count: int, *, distance: float, share: float, sets: int) -> float:
    """Return the share of sets whose interval holds the true drop of a ROC area."""
    area, held = NormalDist().cdf, []
    true = 100 * (area(distance / np.sqrt(2)) - area(distance / np.sqrt(2.5)))
    for seed in range(sets):
        random = np.random.default_rng(seed)
        labels = (random.random(count) < share).astype(int)
        fp32 = random.normal(distance * labels, 1.0)[:, None]
        int8 = random.normal(fp32, 0.5)
        drop = PairedScores(metric="auc", fp32=fp32, int8=int8, references=labels).drop(seed=seed)
        held.append(drop.low <= true <= drop.high)
    return float(np.mean(held))


def test_a_rare_class_widens_the_interval_of_its_area() -> None:
    assert _area_held(48, distance=2.5, share=0.2, sets=60) >= 0.9


def test_one_class_alone_drops_by_its_own_ranking() -> None:
    fp32, int8, labels = _scored(5)
    shares = [np.exp(one) / np.exp(one).sum(axis=1, keepdims=True) for one in (fp32, int8)]
    expected = [auc(one[:, 1:2], (labels == 1).astype(int)) for one in shares]
    pairing = PairedScores(metric="auc", fp32=fp32, int8=int8, references=labels, only=1)
    assert pairing.values() == pytest.approx(tuple(expected))


def test_chosen_samples_of_a_set_drop_by_themselves() -> None:
    fp32, int8, labels = _scored(6)
    chosen = np.arange(40)
    pairing = PairedScores(metric="map", fp32=fp32, int8=int8, references=labels)
    part = PairedScores(
        metric="map", fp32=fp32[chosen], int8=int8[chosen], references=labels[chosen]
    )
    assert pairing.drop(chosen) == part.drop()


def test_a_set_of_one_class_has_no_area_to_lose() -> None:
    fp32, int8, _ = _scored(7, classes=2)
    pairing = PairedScores(metric="auc", fp32=fp32, int8=int8, references=np.zeros(80, int))
    with pytest.raises(DataError, match="auc compares classes"):
        pairing.drop()


def test_a_thousand_samples_of_12_classes_take_seconds_at_most() -> None:
    fp32, int8, labels = _scored(8, samples=1_000, classes=12)
    started = time.process_time()
    PairedScores(metric="auc", fp32=fp32, int8=int8, references=labels).drop()
    assert time.process_time() - started < 4.0
