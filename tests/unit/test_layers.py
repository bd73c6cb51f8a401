"""Figures of each layer, over all samples."""

from __future__ import annotations

import numpy as np
import pytest

from asdic.quantization.layers import LayerQuality, first_nan, layer_qualities
from tests.support.paper_graph import Answer, PaperGraph, codes_of

RAMP = np.linspace(-1, 1, 16, dtype=np.float32)


def quality(
    answer: Answer, *, scale: float = 0.01, scales: tuple[float, ...] = (1.0,)
) -> LayerQuality:
    """Return the quality of one layer that is rounded with ``scale``."""
    samples = [{"x": RAMP * np.float32(one)} for one in scales]
    int8 = PaperGraph({"a": answer}, codes={"a": codes_of(scale)})
    (found,) = layer_qualities(PaperGraph({"a": answer}), int8, samples)
    return found


def same(x):
    return x


def test_equal_answers_have_no_noise():
    found = layer_qualities(PaperGraph({"a": same}), PaperGraph({"a": same}), [{"x": RAMP}])[0]
    assert found.sqnr_db is None
    assert found.cosine == pytest.approx(1.0)
    assert found.saturation is None
    assert found.range_use is None


def test_rounding_is_noise_of_a_twelfth_of_a_step_squared():
    random = np.random.default_rng(0)
    samples = [{"x": random.uniform(-1, 1, 16).astype(np.float32)} for _ in range(500)]
    int8 = PaperGraph({"a": same}, codes={"a": codes_of(1 / 127)})
    (found,) = layer_qualities(PaperGraph({"a": same}), int8, samples)
    expected = 10 * np.log10((1 / 3) / ((1 / 127) ** 2 / 12))
    assert found.sqnr_db == pytest.approx(expected, abs=0.1)


def test_samples_are_one_sum_so_that_a_quiet_one_does_not_count_as_much():
    loud_only = quality(same, scales=(1.0,))
    both = quality(same, scales=(1.0, 0.001))
    assert both.sqnr_db == pytest.approx(loud_only.sqnr_db, abs=1.0)


def test_a_factor_alone_leaves_the_cosine_at_one():
    found = layer_qualities(
        PaperGraph({"a": same}), PaperGraph({"a": lambda x: x * np.float32(0.5)}), [{"x": RAMP}]
    )[0]
    assert found.cosine == pytest.approx(1.0)
    assert found.sqnr_db == pytest.approx(6.02, abs=0.01)


def test_what_lies_beyond_the_last_code_is_saturated():
    found = quality(same, scale=0.5 / 127)
    assert found.saturation == np.count_nonzero(np.abs(RAMP) > 0.51) / 16


def test_the_zeros_of_a_relu_are_not_saturated():
    int8 = PaperGraph({"a": lambda x: x.clip(0)}, codes={"a": codes_of(1 / 255, -128)})
    (found,) = layer_qualities(PaperGraph({"a": lambda x: x.clip(0)}), int8, [{"x": RAMP}])
    assert found.saturation == 0.0
    assert found.range_use == 1.0


def test_a_range_four_times_too_wide_uses_a_quarter_of_the_codes():
    assert quality(same, scale=4 / 127).range_use == pytest.approx(0.25, abs=0.02)


def test_range_use_is_that_of_all_samples_together():
    assert quality(same, scales=(0.1,)).range_use < quality(same, scales=(0.1, 1.0)).range_use


def test_weights_are_compared_where_both_have_them():
    exact = PaperGraph({"a": same, "b": same}, weights={"a": [1.0, -2.0, 3.0]})
    rounded = PaperGraph({"a": same, "b": same}, weights={"a": [1.1, -2.0, 3.0]})
    first, second = layer_qualities(exact, rounded, [{"x": RAMP}])
    assert first.weights_sqnr_db == pytest.approx(10 * np.log10(14 / 0.01), abs=0.01)
    assert second.weights_sqnr_db is None


def test_a_layer_that_only_one_file_has_is_left_out():
    exact = PaperGraph({"a": same, "b": same})
    rounded = PaperGraph({"b": same, "smooth": same})
    assert [one.name for one in layer_qualities(exact, rounded, [{"x": RAMP}])] == ["b"]


def test_the_first_layer_with_a_nan_is_named():
    graph = PaperGraph({"fine": same, "log": lambda x: x * np.float32(np.nan), "next": same})
    assert first_nan(graph, {"x": RAMP}) == "log"
    assert first_nan(PaperGraph({"fine": same}), {"x": RAMP}) is None
