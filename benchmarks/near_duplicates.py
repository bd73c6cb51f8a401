"""Which samples count as showing the same: the limits against marked pairs of real images.

    python benchmarks/near_duplicates.py ../shared/data

Takes the folder with ``busi/`` (its column ``dup_group`` marks images that show the same),
``timtrack/`` and ``keywords/``. Prints, for limits of the thumbnails' correlation and of
their detail's, the share of the pairs found that are marked (precision) and of the marked pairs
that are found (recall); then the pairs that are marked nowhere and found all the same, to be
looked at; then how alike synthetic images are that all differ; then what it takes.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asdic.training.data import Sample, read_dataset
from asdic.training.duplicates import (
    IMAGE_LEVELS,
    Likeness,
    Signature,
    resembling_groups,
    signature_of,
)
from asdic.training.phantom import make_phantoms
from asdic.training.samples import Look

WHOLE: Final = (0.90, 0.93, 0.95, 0.96, 0.97, 0.98)
DETAIL: Final = (0.0, 0.3, 0.5, 0.7)
PHANTOMS: Final = 200
MANY: Final = (600, 5_000)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    data: Path = parser.parse_args().data
    busi = read_dataset(data / "busi")
    print_limits(busi.samples, busi.looks)
    print_unmarked(busi.samples, busi.looks)
    print_different(data)
    print_cost(busi.looks)


def print_limits(samples: Sequence[Sample], looks: Sequence[Look]) -> None:
    """Print precision and recall for each pair of limits; the two in use have a name."""
    whole, detail, marked = pairs_of(samples, looks)
    names = {(level.whole, level.detail): one.value for one, level in IMAGE_LEVELS.items()}
    print(f"BUSI: {len(samples)} images, {int(marked.sum())} marked pairs of {marked.size}\n")
    print("| whole | detail | pairs found | precision | recall | used as |")
    print("|---|---|---|---|---|---|")
    for limits in itertools.product(WHOLE, DETAIL):
        found = (whole >= limits[0]) & (detail >= limits[1])
        right = int((found & marked).sum())
        print(
            f"| {limits[0]:.2f} | {limits[1]:.1f} | {int(found.sum())} "
            f"| {right / max(int(found.sum()), 1):.3f} | {right / int(marked.sum()):.3f} "
            f"| {names.get(limits, '')} |"
        )


def print_unmarked(samples: Sequence[Sample], looks: Sequence[Look]) -> None:
    """Print the pairs that are found and marked nowhere."""
    whole, detail, marked = pairs_of(samples, looks)
    level = IMAGE_LEVELS[Likeness.ALIKE]
    found = np.flatnonzero((whole >= level.whole) & (detail >= level.detail) & ~marked)
    first, second = np.triu_indices(len(samples), 1)
    print("\n| not marked, but alike | and | splits | whole | detail |\n|---|---|---|---|---|")
    for pair in found[np.argsort(-whole[found])]:
        one, other = samples[first[pair]], samples[second[pair]]
        print(
            f"| {one.name} | {other.name} | {one.split}, {other.split} "
            f"| {whole[pair]:.3f} | {detail[pair]:.3f} |"
        )


def print_different(data: Path) -> None:
    """Print how alike samples are that all differ, and how many groups real ones make."""
    print("\n| samples | number | most alike (whole) | groups |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        phantoms = make_phantoms(Path(folder) / "phantoms", count=PHANTOMS, seed=0)
    words = np.load(data / "keywords" / "inputs_int8.npz", allow_pickle=False)["x"]
    rows = {
        "synthetic phantoms": [look.signature for look in phantoms.looks],
        "TimTrack (frames of clips)": [
            look.signature for look in read_dataset(data / "timtrack").looks
        ],
        "keywords (spectrograms, 994 differ)": [signature_of({"x": word}) for word in words],
    }
    for name, signatures in rows.items():
        vectors = stacked(signatures)
        most = float(np.triu(vectors @ vectors.T, 1).max())
        groups = len(set(resembling_groups(signatures).tolist()))
        print(f"| {name} | {len(signatures)} | {most:.3f} | {groups} |")


def print_cost(looks: Sequence[Look]) -> None:
    """Print how long it takes to compare many images with one another."""
    print("\n| images | seconds for all pairs |\n|---|---|")
    for count in MANY:
        many = list(itertools.islice(itertools.cycle([look.signature for look in looks]), count))
        started = time.perf_counter()
        resembling_groups(many)
        print(f"| {count} | {time.perf_counter() - started:.2f} |")


def pairs_of(
    samples: Sequence[Sample], looks: Sequence[Look]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Return, for each pair, both correlations and whether it is marked; all (pairs,)."""
    first, second = np.triu_indices(len(samples), 1)
    signatures = [look.signature for look in looks]
    whole, detail = stacked(signatures), stacked(signatures, detail=True)
    groups = np.array([sample.group for sample in samples])
    return (
        (whole @ whole.T)[first, second],
        (detail @ detail.T)[first, second],
        groups[first] == groups[second],
    )


def stacked(signatures: Sequence[Signature | None], *, detail: bool = False) -> NDArray[np.float32]:
    """Return the vectors of the samples that have any, (N, D)."""
    known = [one for one in signatures if one is not None]
    return np.stack([one.detail if detail else one.whole for one in known])


if __name__ == "__main__":
    main()
