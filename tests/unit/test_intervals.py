"""The statistics of the benchmark against distributions whose truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.signal import lfilter
from scipy.stats import beta, binom, norm

from asdic.contract.errors import DataError
from asdic.device.bench.intervals import (
    binomial_cdf,
    effective_size,
    estimate,
    proportion_bound,
    proportion_interval,
)
from asdic.device.bench.statistics import percentile

RUNS = 2_000
ENOUGH = 0.93
MS = 5.0

SLOW_SHARE = 0.2


def lognormal(z: np.ndarray) -> np.ndarray:
    return MS * np.exp(0.3 * z)


def exponential(z: np.ndarray) -> np.ndarray:
    return MS - np.log(norm.sf(z))


def smooth(shape: Callable[[np.ndarray], np.ndarray], correlation: float) -> Process:
    """Latencies that drift: normal noise whose neighbours are correlated, bent into ``shape``."""

    def draw(count: int, q: float, seed: int) -> tuple[np.ndarray, float]:
        noise = autocorrelated(RUNS, count, correlation, seed=seed)
        return shape(noise), float(shape(norm.ppf(q)))

    return draw


def switching(stay: float) -> Process:
    """Latencies of a clock with two speeds, which is slow for ``stay`` samples on end."""

    def draw(count: int, q: float, seed: int) -> tuple[np.ndarray, float]:
        random = np.random.default_rng(seed)
        slow = np.empty((RUNS, count), bool)
        slow[:, 0] = random.random(RUNS) < SLOW_SHARE
        to_slow = SLOW_SHARE / (1 - SLOW_SHARE) / stay
        for column, chance in enumerate(random.random((count - 1, RUNS)), start=1):
            before = slow[:, column - 1]
            slow[:, column] = np.where(before, chance >= 1 / stay, chance < to_slow)
        spread = np.exp(0.1 * random.standard_normal((RUNS, count)))
        truth = brentq(lambda x: _mixture(x) - q, 0.1, 100)
        return np.where(slow, 2 * MS, MS) * spread, float(truth)

    return draw


def _mixture(x: float) -> float:
    fast, slow = (norm.cdf(np.log(x / middle) / 0.1) for middle in (MS, 2 * MS))
    return float((1 - SLOW_SHARE) * fast + SLOW_SHARE * slow)


Process = Callable[[int, float, int], tuple[np.ndarray, float]]
CASES = (
    ("lognormal, independent", smooth(lognormal, 0.0), 400, 0.5),
    ("lognormal, correlation 0.8", smooth(lognormal, 0.8), 2_000, 0.5),
    ("lognormal, correlation 0.9", smooth(lognormal, 0.9), 3_000, 0.9),
    ("exponential, correlation 0.5", smooth(exponential, 0.5), 1_000, 0.9),
    ("exponential, independent", smooth(exponential, 0.0), 1_000, 0.99),
    ("exponential, correlation 0.5", smooth(exponential, 0.5), 4_000, 0.99),
    ("two speeds, 10 samples each", switching(10.0), 2_000, 0.5),
    ("two speeds, 10 samples each", switching(10.0), 2_000, 0.9),
)


@pytest.mark.parametrize(("name", "process", "count", "q"), CASES)
def test_the_95_percent_interval_covers_the_truth(
    name: str, process: Process, count: int, q: float, capsys: pytest.CaptureFixture[str]
) -> None:
    runs, truth = process(count, q, 20_000 + count)
    found = [estimate(row, q) for row in runs]
    known = [one for one in found if one.low_ms is not None]
    hits = sum(one.low_ms <= truth <= one.high_ms for one in known)
    exact = np.mean([one.coverage for one in known])
    low, high = proportion_interval(hits, len(known))
    with capsys.disabled():
        print(  # noqa: T201 - the acceptance asks for the coverage in the test's output
            f"\n  {name}, {count} samples, p{q * 100:g}: the truth is covered in {hits} of "
            f"{len(known)} runs, {hits / len(known):.1%} ({low:.1%} to {high:.1%}); exact binomial "
            f"coverage {exact:.1%}",
            end="",
        )
    assert len(known) >= 0.99 * RUNS
    assert hits >= ENOUGH * len(known)


def test_correlated_samples_taken_as_independent_would_not_cover() -> None:
    """The control: without the effective size, the same runs fail the test above."""
    values = lognormal(autocorrelated(500, 2_000, 0.8, seed=1))
    rank = int(binom.ppf(0.025, 2_000, 0.5))
    ordered = np.sort(values, axis=1)
    hits = int(((ordered[:, rank - 1] <= MS) & (ordered[:, -rank] >= MS)).sum())
    assert hits < 0.7 * 500


@pytest.mark.parametrize("q", [0.5, 0.9, 0.99, 0.999])
def test_percentiles_are_those_of_numpys_inverted_cdf(q: float) -> None:
    random = np.random.default_rng(3)
    for count in (1, 2, 10, 299, 1_000, 2_995):
        samples = random.lognormal(1.0, 0.5, count)
        assert percentile(samples, q) == np.quantile(samples, q, method="inverted_cdf")
        assert percentile(samples, q) == np.sort(samples)[int(np.ceil(q * count)) - 1]


def test_a_percentile_without_enough_samples_is_null_with_the_number_needed() -> None:
    alternating = np.tile([1.0, 2.0], 150)[:298]
    found = estimate(alternating, 0.99)
    assert found.value_ms is None
    assert found.low_ms is None
    assert found.needed == 299


@pytest.mark.parametrize(("count", "has_interval"), [(367, False), (368, True)])
def test_p99_is_bounded_on_both_sides_from_368_independent_samples(
    count: int, has_interval: bool
) -> None:
    # Every hundredth is slow: as regular as this, no sample tells anything about the next.
    samples = np.where(np.arange(count) % 100 == 50, 9.0, 1.0) + np.arange(count) % 7 / 1e3
    found = estimate(samples, 0.99)
    assert found.effective == count
    assert found.value_ms is not None
    assert (found.low_ms is not None) is has_interval


def test_needed_grows_with_the_correlation() -> None:
    correlated = autocorrelated(1, 1_000, 0.9, seed=5)[0]
    found = estimate(MS + correlated, 0.5)
    assert found.effective < 250
    assert found.needed > 15


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
def test_the_effective_size_is_that_of_the_theory(correlation: float) -> None:
    noise = autocorrelated(200, 4_000, correlation, seed=6)
    found = np.median([effective_size(row) for row in noise])
    assert found == pytest.approx(4_000 * (1 - correlation) / (1 + correlation), rel=0.12)


def test_samples_that_never_differ_count_as_independent() -> None:
    assert effective_size(np.full(100, 3.0)) == 100
    found = estimate(np.full(1_000, 3.0), 0.5)
    assert (found.low_ms, found.value_ms, found.high_ms) == (3.0, 3.0, 3.0)


def test_no_samples_have_no_effective_size() -> None:
    with pytest.raises(DataError, match="no samples"):
        effective_size(np.array([]))


@pytest.mark.parametrize(("count", "q"), [(1, 0.5), (10, 0.01), (368, 0.99), (5_000, 0.999)])
def test_the_binomial_distribution_is_scipys(count: int, q: float) -> None:
    expected = binom.cdf(np.arange(count + 1), count, q)
    assert np.allclose(binomial_cdf(count, q), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("hits", "count"), [(0, 60), (1, 300), (17, 300), (299, 300), (300, 300)])
def test_bounds_of_a_share_are_exact(hits: int, count: int) -> None:
    """Clopper and Pearson's, as quantiles of the beta distribution."""
    upper = beta.ppf(0.95, hits + 1, count - hits) if hits < count else 1.0
    low = beta.ppf(0.025, hits, count - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, count - hits) if hits < count else 1.0
    assert proportion_bound(hits, count) == pytest.approx(upper, abs=1e-9)
    assert proportion_interval(hits, count) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(("hits", "count"), [(-1, 5), (6, 5), (0, 0)])
def test_what_is_no_share_has_no_bound(hits: int, count: int) -> None:
    with pytest.raises(DataError, match="no share"):
        proportion_bound(hits, count)


def autocorrelated(runs: int, count: int, correlation: float, *, seed: int) -> np.ndarray:
    """Return standard normal noise whose neighbours are correlated (AR(1)), one run a row."""
    fresh = np.random.default_rng(seed).standard_normal((runs, count + 200))
    return lfilter([np.sqrt(1 - correlation**2)], [1, -correlation], fresh, axis=1)[:, 200:]
