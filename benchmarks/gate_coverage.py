"""How often the gate's 95 % interval holds the true drop, for losses as quantization makes them.

    python benchmarks/gate_coverage.py [--sets 1000]

Prints, for each kind of loss and number of samples, in how many of 100 sets of samples the
interval holds the true drop, and in how many the drop is above it: a gate with its limit just
below the truth would pass these. 2.5 of 100 are meant to be above. Beside it the same for the
percentile bootstrap, which many tools use. The last rows are drops of the ROC area of two normal
distributions, of which INT8 sees one more noise.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from statistics import NormalDist
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asdic.quantization.drop import PairedPoints, PairedScores

Draw: TypeAlias = Callable[[np.random.Generator, int], NDArray[np.float64]]
SAMPLES: Final = (32, 64, 256)
PLAIN_RESAMPLES: Final = 2_000


def flips(lost: float, gained: float) -> Draw:
    """Return a loss of samples that are right or wrong, at these shares."""

    def draw(random: np.random.Generator, count: int) -> NDArray[np.float64]:
        chance = random.random(count)
        return 100.0 * (chance < lost) - 100.0 * (chance > 1.0 - gained)

    return draw


def rare(share: float, mean: float, noise: float) -> Draw:
    """Return a loss that ``share`` of the samples have, exponential, and noise for all."""

    def draw(random: np.random.Generator, count: int) -> NDArray[np.float64]:
        losses = random.exponential(mean, count) * (random.random(count) < share)
        return losses + random.normal(0.0, noise, count)

    return draw


LOSSES: Final[MappingProxyType[str, tuple[Draw, float]]] = MappingProxyType(
    {
        "1 % lost": (flips(0.01, 0.0), 1.0),
        "2 % lost, 1 % gained": (flips(0.02, 0.01), 1.0),
        "5 % lost, 3 % gained": (flips(0.05, 0.03), 2.0),
        "10 % lost, 8 % gained": (flips(0.10, 0.08), 2.0),
        "normal, 0.3 with sd 2": (lambda random, count: random.normal(0.3, 2.0, count), 0.3),
        "skewed, 1 point": (lambda random, count: random.exponential(1.0, count) ** 2 / 2, 1.0),
        "20 % lose 5 points": (rare(0.20, 5.0, 0.5), 1.0),
        "5 % lose 10 points": (rare(0.05, 10.0, 0.5), 0.5),
    }
)


# Distance of the two classes and noise of INT8, in standard deviations, and share of the class.
AREAS: Final = ((1.5, 0.5, 0.5), (2.5, 0.5, 0.2), (3.5, 0.7, 0.3))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=1_000)
    sets = parser.parse_args().sets
    print("| loss | samples | holds it | drop above | percentile: holds it | drop above |")
    print("|---|---|---|---|---|---|")
    for name, (draw, true) in LOSSES.items():
        for count in SAMPLES:
            ours, plain = _rates(draw, true, count, sets)
            figures = " | ".join(f"{value:.1f}" for value in (*ours, *plain))
            print(f"| {name} | {count} | {figures} |", flush=True)
    for distance, noise, share in AREAS:
        for count in SAMPLES:
            held, below = _area_rates(distance, noise, share, count, sets)
            name = f"ROC area, {100 * share:.0f} % positive, {distance} apart"
            print(f"| {name} | {count} | {held:.1f} | {below:.1f} | | |", flush=True)


def _area_rates(
    distance: float, noise: float, share: float, count: int, sets: int
) -> tuple[float, float]:
    """Return how many of 100 intervals hold the true drop of the ROC area, or lie below it."""
    area = NormalDist().cdf
    true = 100 * (area(distance / math.sqrt(2)) - area(distance / math.sqrt(2 + 2 * noise**2)))
    bounds = []
    for seed in range(sets):
        random = np.random.default_rng(seed)
        labels = (random.random(count) < share).astype(int)
        if 0 < labels.sum() < count:
            fp32 = random.normal(distance * labels, 1.0)
            int8 = random.normal(fp32, noise)
            pairing = PairedScores(
                metric="auc", fp32=fp32[:, None], int8=int8[:, None], references=labels
            )
            drop = pairing.drop(seed=seed)
            bounds.append((drop.low, drop.high))
    low, high = np.array(bounds).T
    return 100 * float(((low <= true) & (true <= high)).mean()), 100 * float((high < true).mean())


def _rates(
    draw: Draw, true: float, count: int, sets: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return, for our interval and the plain one, how many of 100 hold the drop or lie below."""
    bounds = []
    for seed in range(sets):
        random = np.random.default_rng(seed)
        differences = draw(random, count)
        whole = bool(np.isin(differences, (-100.0, 0.0, 100.0)).all())
        drop = PairedPoints(differences, np.zeros(count), may_flip=whole).drop(seed=seed)
        bounds.append(((drop.low, drop.high), _percentile_interval(differences, random)))
    low, high = np.moveaxis(np.array(bounds), -1, 0)
    held = 100 * ((low <= true + 1e-9) & (true - 1e-9 <= high)).mean(axis=0)
    below = 100 * (high < true - 1e-9).mean(axis=0)
    return (float(held[0]), float(below[0])), (float(held[1]), float(below[1]))


def _percentile_interval(
    differences: NDArray[np.float64], random: np.random.Generator
) -> tuple[float, float]:
    drawn = random.integers(differences.size, size=(PLAIN_RESAMPLES, differences.size))
    low, high = np.quantile(differences[drawn].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
