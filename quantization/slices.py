"""The drop within parts of the samples: of one class, one device, one site.

A mean over all samples hides the kind that is ruined. Each part has its own interval, and with
many parts one in twenty of these misses its drop by chance: they show where to look, the verdict
is that of all samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from asdic.quantization.drop import Chosen, Pairing

SAMPLES_AT_LEAST: Final = 8
SLICES_LIMIT: Final = 200
"""A column with a value of its own for each few samples says nothing; this bounds the report."""


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """The drop within the samples that have ``value`` in ``column``, all in points.

    ``column`` is ``class`` for the reference's class, or one of the user's table. With a metric
    of a set (``auc``, ``map``) a class is judged against all others, and ``samples`` counts its
    own.
    """

    column: str
    value: str
    samples: int
    fp32: float
    int8: float
    drop: float
    ci95: tuple[float, float]


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """Some samples and what they are compared by: ``chosen`` are the numbers in ``pairing``."""

    column: str
    value: str
    samples: int
    pairing: Pairing
    chosen: Chosen = None


def slices_of(parts: Iterable[Part], *, seed: int = 0) -> tuple[Slice, ...]:
    """Return the drop within each part, in their order.

    Parts of fewer than ``SAMPLES_AT_LEAST`` samples, and those on which the metric is not
    defined, are left out; of more than ``SLICES_LIMIT`` the largest are kept.
    """
    large = [part for part in parts if part.samples >= SAMPLES_AT_LEAST]
    order = sorted(range(len(large)), key=lambda number: -large[number].samples)
    kept = set(order[:SLICES_LIMIT])
    found = (_slice(part, seed) for number, part in enumerate(large) if number in kept)
    return tuple(one for one in found if one is not None)


def worst_slice(slices: Sequence[Slice]) -> Slice | None:
    """Return the slice that lost most, the first of equals; None without slices."""
    return max(slices, key=lambda one: one.drop, default=None)


def group_parts(pairing: Pairing, facts: Sequence[Mapping[str, str]]) -> Iterator[Part]:
    """Yield the samples of each value of each column, by their names.

    ``facts`` holds what is known about each sample of ``pairing``. An empty value is none; a
    column with one value alone tells nothing apart.
    """
    for column in sorted({name for one in facts for name in one}):
        groups: dict[str, list[int]] = {}
        for number, one in enumerate(facts):
            if value := one.get(column, ""):
                groups.setdefault(value, []).append(number)
        if len(groups) < 2:
            continue
        for value, numbers in sorted(groups.items()):
            yield Part(
                column=column,
                value=value,
                samples=len(numbers),
                pairing=pairing,
                chosen=np.array(numbers),
            )


def _slice(part: Part, seed: int) -> Slice | None:
    fp32, int8 = part.pairing.values(part.chosen)
    if math.isnan(fp32) or math.isnan(int8):
        return None
    drop = part.pairing.drop(part.chosen, seed=seed)
    return Slice(
        column=part.column,
        value=part.value,
        samples=part.samples,
        fp32=fp32,
        int8=int8,
        drop=drop.mean,
        ci95=(drop.low, drop.high),
    )
