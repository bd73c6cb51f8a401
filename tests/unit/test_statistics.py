from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from asdic.contract.errors import DataError
from asdic.device.bench.statistics import (
    median_interval,
    median_ratio,
    percentile,
    percentile_or_none,
    samples_needed,
)
from asdic.device.runner.golden import detectable_loss


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0.01, 0.999))
def test_a_percentile_is_the_first_sample_that_enough_do_not_exceed(samples, q):
    found = percentile(samples, q)
    assert found in samples
    assert np.mean(np.array(samples) <= found) >= q - 1e-12
    assert np.mean(np.array(samples) < found) <= q + 1e-12


def test_no_samples_have_no_percentile():
    with pytest.raises(DataError, match="no samples"):
        percentile([], 0.5)


@pytest.mark.parametrize(("q", "needed"), [(0.5, 5), (0.9, 29), (0.99, 299), (0.999, 2995)])
def test_a_tail_needs_its_samples(q, needed):
    samples = np.arange(needed, dtype=float)
    assert samples_needed(q) == needed
    assert percentile_or_none(samples, q) is not None
    assert percentile_or_none(samples[1:], q) is None


@pytest.mark.parametrize("count", [6, 7, 20, 101, 1_000, 20_000])
def test_the_medians_interval_covers_95_percent_and_no_rank_more(count):
    low, high = median_interval(np.arange(1.0, count + 1))
    rank = int(low)
    assert high == count + 1 - rank
    assert 2 * binom.cdf(rank - 1, count, 0.5) <= 0.05
    assert 2 * binom.cdf(rank, count, 0.5) > 0.05


def test_five_samples_have_no_interval():
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]) is None


def test_a_ratio_is_found_with_its_interval():
    random = np.random.default_rng(1)
    b = random.lognormal(0.0, 0.2, 400)
    ratio, low, high = median_ratio(0.5 * b, b, seed=0)
    assert ratio == pytest.approx(0.5)
    assert low == pytest.approx(0.5)
    assert high == pytest.approx(0.5)


def test_the_interval_of_a_ratio_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(2)
    hits = 0
    for seed in range(60):
        a, b = random.lognormal(0.0, 0.3, (2, 60))
        _, low, high = median_ratio(1.2 * a, b, seed=seed)
        hits += low <= 1.2 <= high
    assert hits >= 50


def test_the_same_seed_gives_the_same_interval():
    a, b = np.random.default_rng(3).lognormal(0.0, 0.3, (2, 50))
    assert median_ratio(a, b, seed=4) == median_ratio(a, b, seed=4)


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([], [])])
def test_what_is_no_pair_has_no_ratio(a, b):
    with pytest.raises(DataError, match="pairs"):
        median_ratio(a, b, seed=0)


def test_the_detectable_loss_shrinks_with_the_root_of_the_samples():
    differences = np.tile([-1.0, 1.0], 50)
    assert detectable_loss(differences) == pytest.approx(
        (1.644854 + 0.841621) * differences.std(ddof=1) / 10, rel=1e-5
    )


def test_a_loss_of_the_detectable_size_is_found_with_the_promised_power():
    random = np.random.default_rng(5)
    draws = random.normal(0.0, 3.0, (4_000, 40))
    loss = detectable_loss(draws[0]) * 3.0 / draws[0].std(ddof=1)
    z = (draws - loss).mean(axis=1) / (3.0 / np.sqrt(40))
    assert np.mean(z < -1.6449) == pytest.approx(0.8, abs=0.03)


def test_samples_that_never_differ_do_not_prove_that_nothing_can():
    assert detectable_loss(np.zeros(32)) == pytest.approx(8.94, abs=0.01)


def test_one_sample_detects_nothing():
    with pytest.raises(DataError, match="1 labelled"):
        detectable_loss(np.zeros(1))
