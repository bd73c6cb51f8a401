"""Were the calibration inputs enough?"""

from __future__ import annotations

import numpy as np
import pytest

from asdic.contract.errors import ConfigError, QuantizationError
from asdic.quantization.audit import audit
from tests.support.paper_graph import PaperGraph

RAMP = np.linspace(0, 1, 16, dtype=np.float32)


def inputs(*scales: float) -> list[dict[str, np.ndarray]]:
    return [{"x": RAMP * np.float32(scale)} for scale in scales]


GRAPH = PaperGraph({"same": lambda x: x, "square": lambda x: x * x})


def test_the_curve_says_how_far_the_first_ranges_are_from_the_last():
    found = audit(GRAPH, inputs(0.5, 0.5, 1.0, 1.0), [])
    assert [one.samples for one in found.curve] == [1, 2, 4]
    assert found.curve[0].worst == pytest.approx(0.75)
    assert found.curve[0].median == pytest.approx((0.5 + 0.75) / 2)
    assert found.curve[-1].worst == 0.0


def test_ranges_are_stable_after_the_input_that_widened_them_last():
    assert audit(GRAPH, inputs(0.5, 1.0, 0.2, 1.001), []).stable_after == 2


def test_ranges_that_the_last_input_widened_are_not_stable():
    assert audit(GRAPH, inputs(0.5, 0.7, 1.0), []).stable_after is None


def test_one_input_proves_nothing():
    assert audit(GRAPH, inputs(1.0), []).stable_after is None


def test_one_layer_of_many_may_go_on_growing():
    answers = {str(number): (lambda _: RAMP) for number in range(40)}
    growing = PaperGraph({**answers, "growing": lambda x: x})
    found = audit(growing, inputs(0.5, 0.7, 1.0), [])
    assert found.stable_after == 1
    assert (found.curve[0].worst, found.curve[0].most) == (0.5, 0.0)


def test_a_range_without_width_does_not_change():
    found = audit(PaperGraph({"zero": lambda x: x * 0}), inputs(1.0, 2.0), [])
    assert found.curve[0].worst == 0.0
    assert found.stable_after == 1


def test_what_judges_and_lies_outside_is_counted_by_layer():
    found = audit(GRAPH, inputs(1.0), inputs(1.0, 1.1)).outside
    beyond = np.count_nonzero(RAMP * np.float32(1.1) > 1.0), np.count_nonzero((RAMP * 1.1) ** 2 > 1)
    assert found.share == pytest.approx(sum(beyond) / 64)
    assert found.worst_share == pytest.approx(max(beyond) / 32)
    assert found.worst_layer == "same"


def test_no_layer_is_worst_where_nothing_lies_outside():
    found = audit(GRAPH, inputs(1.0), inputs(0.9)).outside
    assert (found.share, found.worst_layer) == (0.0, None)


def test_names_of_constant_and_unreadable_inputs_are_kept():
    found = audit(GRAPH, inputs(1.0), [], constant=["black.png"], unreadable=["torn.png"])
    assert found.constant == ("black.png",)
    assert found.unreadable == ("torn.png",)


def test_nothing_to_calibrate_with_is_refused():
    with pytest.raises(ConfigError, match="at least 1"):
        audit(GRAPH, [], [])


def test_the_layer_and_the_input_with_infinity_are_named():
    graph = PaperGraph({"fine": lambda x: x, "wild": lambda x: np.where(x > 2, np.inf, x)})
    samples = inputs(1.0, 3.0)
    with pytest.raises(QuantizationError, match=r"layer 'wild' answers NaN .* input 2 of 2"):
        audit(graph, samples, [])
