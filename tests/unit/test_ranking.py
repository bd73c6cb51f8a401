"""ROC area and average precision against definitions written out pair by pair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from asdic.contract.errors import DataError
from asdic.device.metrics import auc, mean_average_precision
from asdic.device.ranking import Ranking


def _pairwise_area(scores, members):
    """Return the share of pairs that are in order, a tie being half a pair."""
    own, others = scores[members], scores[~members]
    return np.mean([(a > b) + 0.5 * (a == b) for a in own for b in others])


def _stepwise_precision(scores, members):
    """Return the sum over thresholds of precision times the recall that each threshold adds."""
    area, recall = 0.0, 0.0
    for threshold in sorted(set(scores.tolist()), reverse=True):
        found = scores >= threshold
        hits = (found & members).sum()
        area += hits / found.sum() * (hits / members.sum() - recall)
        recall = hits / members.sum()
    return area


def _sample(seed, *, classes=4, samples=60, levels=9):
    random = np.random.default_rng(seed)
    scores = random.integers(0, levels, (samples, classes)) / (levels - 1)
    return scores, random.integers(0, classes, samples)


@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_the_mean_over_classes_of_the_share_of_pairs_in_order(seed):
    scores, labels = _sample(seed)
    by_hand = np.mean([_pairwise_area(scores[:, one], labels == one) for one in range(4)])
    assert auc(scores, labels) == pytest.approx(100 * by_hand)


def test_the_area_is_mann_whitneys_u():
    scores, labels = _sample(7, classes=2)
    positive = scores[:, 1]
    u = mannwhitneyu(positive[labels == 1], positive[labels == 0]).statistic
    pairs = (labels == 1).sum() * (labels == 0).sum()
    assert auc(positive[:, None], labels) == pytest.approx(100 * u / pairs)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_the_area_under_the_steps(seed):
    scores, labels = _sample(seed)
    by_hand = np.mean([_stepwise_precision(scores[:, one], labels == one) for one in range(4)])
    assert mean_average_precision(scores, labels) == pytest.approx(100 * by_hand)


@pytest.mark.parametrize("seed", range(3))
def test_a_sample_may_have_several_classes_or_none(seed):
    scores, _ = _sample(seed)
    labels = np.random.default_rng(seed + 100).integers(0, 2, (60, 4))
    members = labels.astype(bool)
    area = np.mean([_pairwise_area(scores[:, one], members[:, one]) for one in range(4)])
    precision = np.mean([_stepwise_precision(scores[:, one], members[:, one]) for one in range(4)])
    assert auc(scores, labels) == pytest.approx(100 * area)
    assert mean_average_precision(scores, labels) == pytest.approx(100 * precision)


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(3, 30))
def test_a_weight_is_the_same_as_a_repeated_sample(seed, classes, samples):
    scores, labels = _sample(seed, classes=classes, samples=samples)
    weights = np.random.default_rng(seed).integers(0, 4, samples)
    weights[np.unique(labels, return_index=True)[1]] += 1  # so that no class is lost
    repeated = np.repeat(np.arange(samples), weights)
    table = weights[:, None].astype(np.float32)
    ranking, expected = Ranking.of(scores, labels), (scores[repeated], labels[repeated])
    if len(set(labels.tolist())) > 1:
        assert ranking.macro_roc_area(table)[0] == pytest.approx(auc(*expected))
    assert ranking.macro_average_precision(table)[0] == pytest.approx(
        mean_average_precision(*expected)
    )


def test_a_class_that_a_resample_lacks_is_left_out_of_its_mean():
    scores, labels = _sample(3, classes=3)
    weights = (labels != 2).astype(np.float32)[:, None]
    kept = labels != 2
    by_hand = [_pairwise_area(scores[kept][:, one], labels[kept] == one) for one in (0, 1)]
    found = Ranking.of(scores, labels).macro_roc_area(weights)
    assert found == pytest.approx(100 * np.mean(by_hand))


def test_one_class_alone_has_no_area():
    scores, labels = _sample(4, classes=2)
    one_class = (labels == 0).astype(np.float32)[:, None]
    assert np.isnan(Ranking.of(scores, labels).macro_roc_area(one_class)).all()
    assert np.isnan(auc(scores, np.zeros(60, int)))


def test_logits_of_one_class_a_sample_are_compared_as_probabilities():
    labels = np.array([0, 1, 0, 1])
    shares = np.array([[0.8, 0.2], [0.3, 0.7], [0.6, 0.4], [0.45, 0.55]])
    shifted = np.log(shares) + np.array([[5.0], [-3.0], [0.0], [9.0]])
    assert auc(shares, labels) == 100.0
    assert auc(shifted, labels) == 100.0


def test_any_growing_function_of_a_single_score_gives_the_same_area():
    scores, labels = _sample(5, classes=2)
    positive = scores[:, 1:]
    assert auc(np.exp(4 * positive), labels) == auc(positive, labels)


@pytest.mark.parametrize(
    ("scores", "references"),
    [
        (np.ones((3, 2)), np.array([0, 1, 2])),
        (np.ones((3, 2)), np.array([0, 1])),
        (np.ones((3, 2)), np.array([0.0, 1.0, 0.0])),
        (np.ones((3, 2)), np.ones((3, 3), int)),
        (np.full((3, 2), np.nan), np.array([0, 1, 0])),
        (np.ones(3), np.array([0, 1, 0])),
    ],
)
def test_what_is_no_set_of_scored_samples_is_refused(scores, references):
    with pytest.raises(DataError):
        auc(scores, references)
