"""Ranges of activations, on tensors made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from asdic.contract.errors import QuantizationError
from asdic.contract.variant import TensorSpec
from asdic.quantization.backends.ranges import (
    BINS,
    CANDIDATES,
    FEWEST_JUDGES,
    JUDGES,
    RANGES,
    Observed,
    best_range,
    bounds_of,
    judges_for,
    observe,
)

SHARES = (0.25, 1.0, 0.5)


def samples(count: int = 3) -> list[dict[str, NDArray[np.float32]]]:
    """Normal values, the extremes of each sample ``SHARES`` of the largest."""
    random = np.random.default_rng(0)
    tensors = [random.normal(0, 1, 5000).astype(np.float32) for _ in range(count)]
    for tensor, share in zip(tensors, SHARES, strict=True):
        tensor[:2] = (-16.0 * share, 64.0 * share)
    return [{"x": tensor} for tensor in tensors]


def bounds(range_: str, *, symmetric: bool = False) -> tuple[float, float]:
    return bounds_of(observe(samples(), histograms=True), range_, symmetric=symmetric)["x"]


def test_minmax_keeps_the_extremes_of_all_samples() -> None:
    assert bounds("minmax") == (-16.0, 64.0)


def test_average_is_the_mean_of_each_samples_extremes() -> None:
    mean = sum(SHARES) / len(SHARES)
    assert bounds("average") == pytest.approx((-16.0 * mean, 64.0 * mean))


@pytest.mark.parametrize("range_", ["percentile", "mse"])
def test_a_rare_outlier_is_given_up(range_: str) -> None:
    low, high = bounds(range_)
    assert -16.0 <= low < -2.0
    assert 2.0 < high < 64.0


def test_clipping_counts_more_with_mse10() -> None:
    assert bounds("mse")[1] < bounds("mse10")[1] <= 64.0


def test_one_step_serves_both_ends_where_symmetric() -> None:
    low, high = bounds("mse", symmetric=True)
    assert low == max(-16.0, -high)


def test_the_least_error_is_that_of_rounding_and_clipping_itself() -> None:
    """The formula against quantizing the values: within a few percent of the best there is."""
    values = samples()[1]["x"].astype(np.float64)
    seen = Observed()
    seen.add(samples()[1]["x"], histogram=True)
    limits = np.linspace(2, 64, 200)
    errors = [_error(values, limit) for limit in limits]
    _, high = RANGES["mse"](seen, symmetric=True)
    assert _error(values, high) <= 1.05 * min(errors)


def _error(values: NDArray[np.float64], limit: float) -> float:
    step = limit / 127
    rounded = np.clip(np.rint(values / step), -127, 127) * step
    return float(np.square(values - rounded).sum())


@pytest.mark.parametrize("range_", sorted(RANGES))
def test_zero_is_always_inside(range_: str) -> None:
    seen = observe([{"x": np.linspace(3, 5, 4000, dtype=np.float32)}], histograms=True)
    low, high = bounds_of(seen, range_, symmetric=False)["x"]
    assert low == 0.0
    assert 3.0 < high <= 5.0


@pytest.mark.parametrize("range_", sorted(RANGES))
def test_a_silent_tensor_has_bounds_of_nothing(range_: str) -> None:
    seen = observe([{"x": np.zeros(100, np.float32)}], histograms=True)
    assert bounds_of(seen, range_, symmetric=True)["x"] == (0.0, 0.0)


def test_a_histogram_that_grew_is_as_one_that_knew() -> None:
    small, large = (np.array([value] * 3, np.float32) for value in (0.3, 5.0))
    grew, knew = Observed(), Observed()
    for tensor in (small, large):
        grew.add(tensor, histogram=True)
    for tensor in (large, small):
        knew.add(tensor, histogram=True)
    assert (grew.limit, grew.counts.tolist()) == (knew.limit, knew.counts.tolist())
    assert grew.counts.sum() == 6
    assert grew.counts.size == BINS


def test_nan_is_refused_with_the_tensors_name() -> None:
    with pytest.raises(QuantizationError, match="the tensor 'x' holds NaN or infinity"):
        observe([{"x": np.array([1.0, np.nan], np.float32)}], histograms=False)


def test_integers_have_no_range() -> None:
    assert observe([{"shape": np.array([1, 2])}], histograms=False) == {}


def test_the_best_range_is_the_one_whose_answers_are_nearest() -> None:
    exact = [{"y": np.ones(4, np.float32)}]
    off = dict(zip(CANDIDATES, (0.3, 0.1, 0.01, 0.2), strict=True))
    assert best_range(lambda one: [{"y": exact[0]["y"] + off[one]}], exact) == CANDIDATES[2]


def test_of_ranges_that_are_as_good_the_first_is_taken() -> None:
    exact = [{"y": np.ones(4, np.float32)}]
    assert best_range(lambda _: exact, exact) == CANDIDATES[0]


@pytest.mark.parametrize(
    ("shape", "count"), [((1, 12), JUDGES), ((1, 2, 256, 256), FEWEST_JUDGES), ((1, 4096), 16)]
)
def test_fewer_inputs_choose_where_an_answer_has_many_values(
    shape: tuple[int, ...], count: int
) -> None:
    assert judges_for([TensorSpec(name="y", shape=shape)]) == count
