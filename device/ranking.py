"""Scores ranked once, so that ROC area and average precision of many resamples cost only sums.

A resample is a weight a sample: how often it was drawn. Sorting does not depend on it; all that
follows are cumulative sums of weights. numpy only, as ``metrics.py``, which gives the metrics
their names.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import DataError

_ROUNDING = 0.01  # an INT8 probability may be this far outside of 0 to 1


@dataclass(frozen=True, eq=False)
class ClassRanking:
    """The samples ordered by one class's score, highest first, and where its members stand.

    ``order`` holds all n samples' numbers, ``members`` the places in it of the class's P members.
    ``cuts`` are the places that begin or end a run of equal scores with a member in it, from 0.
    For each member, ``above`` is the cut that all higher scores lie before, and ``until`` the one
    that all scores at least as high lie before; ``members_above`` and ``members_until`` are how
    many members these are.
    """

    order: NDArray[np.intp]
    members: NDArray[np.intp]
    cuts: NDArray[np.intp]
    above: NDArray[np.intp]
    until: NDArray[np.intp]
    members_above: NDArray[np.intp]
    members_until: NDArray[np.intp]

    @classmethod
    def of(cls, scores: NDArray[np.floating[Any]], is_member: NDArray[np.bool_]) -> ClassRanking:
        """Return the ranking of n scores, n true where the sample belongs to the class."""
        order = np.argsort(-scores, kind="stable")
        ranked = -scores[order]
        members = np.flatnonzero(is_member[order])
        own = ranked[members]
        above = np.searchsorted(ranked, own, side="left")
        until = np.searchsorted(ranked, own, side="right")
        cuts = np.unique(np.concatenate([[0], above, until]))
        return cls(
            order=order,
            members=members,
            cuts=cuts,
            above=np.searchsorted(cuts, above),
            until=np.searchsorted(cuts, until),
            members_above=np.searchsorted(own, own, side="left"),
            members_until=np.searchsorted(own, own, side="right"),
        )

    def roc_area(self, weights: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the area under the ROC curve, 0 to 1, for each of R resamples.

        It is the probability that a member scores higher than another sample, ties counted half
        (Mann-Whitney's U; Hanley and McNeil, Radiology 143:29, 1982). NaN where a resample holds
        no member, or nothing else.

        Args:
            weights: (n, R), how often each resample holds each sample.
        """
        own, total, among = self._sums(weights)
        higher = total[self.above] - among[self.members_above]
        at_least = total[self.until] - among[self.members_until]
        pairs = among[-1] * (weights.sum(axis=0) - among[-1])
        return 1.0 - _ratio((own * (higher + at_least)).sum(axis=0) / 2, pairs)

    def average_precision(self, weights: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the average precision, 0 to 1, for each of R resamples.

        It is the mean, over the members, of the share of members among all samples that score at
        least as high: the area under the precision-recall curve as steps, ties being one step.
        NaN where a resample holds no member. ``weights`` as in ``roc_area``.
        """
        own, total, among = self._sums(weights)
        precision = among[self.members_until] / np.maximum(total[self.until], 1.0)
        return _ratio((own * precision).sum(axis=0), among[-1])

    def _sums(
        self, weights: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the members' weights (P, R), sums of all before each cut, and of the members.

        Row k of the last is the sum of the k highest members. All are sums of whole numbers,
        exact in float32 up to 2^24. Summing between cuts is six times as fast as a running sum
        over all samples.
        """
        ranked = weights[self.order]
        inner = self.cuts[self.cuts < len(ranked)]
        between = np.add.reduceat(ranked, inner, axis=0)
        own = ranked[self.members]
        return own.astype(np.float64), _running(between), _running(own)


@dataclass(frozen=True, eq=False)
class Ranking:
    """All classes' rankings of the same n samples; classes without a member are left out."""

    samples: int
    classes: tuple[ClassRanking, ...]

    @classmethod
    def of(
        cls,
        scores: NDArray[np.floating[Any]],
        references: NDArray[Any],
        *,
        only: int | None = None,
    ) -> Ranking:
        """Return the samples ranked.

        Args:
            scores: (n, C), one row a sample, C scores. Where each sample has one class and a
                score lies outside of 0 to 1, they are logits and are compared as softmax
                probabilities: two samples' logits have no common scale.
            references: (n,) class numbers; or (n, C) of 0 and 1 where a sample may have several
                classes or none; or (n,) of 0 and 1 where there is one score.
            only: The class that counts, against the rest; None for all.

        Raises:
            DataError: The shapes do not fit, a class number is unknown, a score is not a number.
        """
        table = np.asarray(scores, np.float64)
        if table.ndim != 2 or not table.size or not np.isfinite(table).all():
            raise DataError(f"scores must be numbers, (samples, classes), not {table.shape}")
        members = memberships(references, classes=table.shape[1])
        if len(members) != len(table):
            raise DataError(f"{len(table)} scored samples have {len(members)} references")
        if np.ndim(references) == 1 and table.shape[1] > 1:
            table = _probabilities(table)
        occurring = np.flatnonzero(members.any(axis=0))
        return cls(
            samples=len(table),
            classes=tuple(
                ClassRanking.of(table[:, number], members[:, number])
                for number in occurring
                if only is None or number == only
            ),
        )

    @property
    def class_size(self) -> float:
        """The harmonic mean of the classes' sizes, or of what lies outside of a larger class.

        So many samples a class say as much about a mean over classes; 0 without classes.
        """
        members = [len(one.members) for one in self.classes]
        sizes = [min(size, self.samples - size) or size for size in members]
        return statistics.harmonic_mean(sizes) if sizes else 0.0

    def macro_roc_area(self, weights: NDArray[np.float32] | None = None) -> NDArray[np.float64]:
        """Return the mean ROC area of the classes, each against the rest, in points, (R,).

        A class that a resample lacks, or that is all it has, is left out of that resample's
        mean; NaN where none is left. ``weights``: (n, R), None for every sample once.
        """
        return _mean([one.roc_area(self._weights(weights)) for one in self.classes])

    def macro_average_precision(
        self, weights: NDArray[np.float32] | None = None
    ) -> NDArray[np.float64]:
        """Return the mean average precision of the classes, in points, (R,).

        Absent classes and ``weights`` as in ``macro_roc_area``.
        """
        return _mean([one.average_precision(self._weights(weights)) for one in self.classes])

    def _weights(self, weights: NDArray[np.float32] | None) -> NDArray[np.float32]:
        return np.ones((self.samples, 1), np.float32) if weights is None else weights


def memberships(references: NDArray[Any], *, classes: int) -> NDArray[np.bool_]:
    """Return which sample belongs to which class, (n, ``classes``).

    ``references`` as in ``Ranking.of``.

    Raises:
        DataError: They are neither class numbers below ``classes`` nor rows of 0 and 1.
    """
    given = np.asarray(references)
    whole = given.dtype == np.bool_ or np.issubdtype(given.dtype, np.integer)
    limit = classes if given.ndim == 1 and classes > 1 else 2
    if not whole or not given.size or not 0 <= int(given.min()) <= int(given.max()) < limit:
        raise DataError(f"references must be whole numbers from 0 to {limit - 1}")
    if given.ndim == 1:
        numbers = np.arange(classes) if classes > 1 else np.ones(1)
        return np.asarray(given[:, None] == numbers)
    if given.ndim != 2 or given.shape[1] != classes:
        raise DataError(f"references of shape {given.shape} do not fit {classes} classes")
    return given.astype(np.bool_)


def _probabilities(table: NDArray[np.float64]) -> NDArray[np.float64]:
    if table.min() >= -_ROUNDING and table.max() <= 1.0 + _ROUNDING:
        return table
    powers = np.exp(table - table.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def _running(weights: NDArray[np.float32]) -> NDArray[Any]:
    sums = np.zeros((len(weights) + 1, weights.shape[1]), np.float32)
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums


def _ratio(part: NDArray[np.float64], whole: NDArray[Any]) -> NDArray[np.float64]:
    """Return ``part / whole``, NaN where the whole is nothing."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(points: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return the mean of the classes that each resample has, in points."""
    table = np.stack(points) if points else np.full((1, 1), np.nan)
    known = ~np.isnan(table)
    return 100.0 * _ratio(np.where(known, table, 0.0).sum(axis=0), known.sum(axis=0))
