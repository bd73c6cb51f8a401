"""Samples of any origin: a folder of images, an ``.npz``, or a person's own loader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from asdic.contract.errors import DataError
from asdic.training.arrays import read_npz
from asdic.training.data import SAMPLE_LIMIT, Sample, read_dataset, refuse_unreadable
from asdic.training.loader import LazySample, is_loader, load_samples
from asdic.training.samples import ArraySample, Look, chosen_facts, look_at_all
from asdic.training.splits import draw_splits

KnownSample: TypeAlias = Sample | ArraySample | LazySample


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples with their splits, and what a look at each told.

    ``where`` is what people call them. ``unreadable`` says what was left out, and why; ``drawn``
    is whether asdic decided the split of any.
    """

    where: str
    samples: tuple[KnownSample, ...]
    looks: tuple[Look, ...] = field(repr=False)
    unreadable: tuple[str, ...]
    drawn: bool

    def of_split(self, split: str) -> tuple[int, ...]:
        """Return the numbers of the samples of a split."""
        return tuple(n for n, sample in enumerate(self.samples) if sample.split == split)


def read_samples(
    data: Path | str,
    *,
    inputs: Sequence[str],
    columns: Sequence[str] = (),
    skip_unreadable: bool = False,
) -> Samples:
    """Return the samples that ``data`` names; nothing of them but a signature stays in memory.

    Args:
        data: A folder of images, an ``.npz``, or ``package.module:loader``.
        inputs: The names of the model's input tensors.
        columns: What becomes facts; none takes all that ``chosen_facts`` finds worth it.
        skip_unreadable: Leave out a few that cannot be used instead of failing.

    Raises:
        DataError: There are none, they cannot be read, or do not belong together.
    """
    path = Path(data)
    if path.is_dir():
        dataset = read_dataset(path, columns=columns, skip_unreadable=skip_unreadable)
        return Samples(
            where=str(path),
            samples=dataset.samples,
            looks=dataset.looks,
            unreadable=dataset.unreadable,
            drawn=dataset.drawn,
        )
    found: tuple[ArraySample | LazySample, ...]
    if path.is_file() and path.suffix == ".npz":
        found = read_npz(path, inputs)
        looks = look_at_all(found)
    elif is_loader(str(data)):
        found, looks = load_samples(str(data))
    else:
        raise DataError(f"{data} is {_no_data(path)}")
    return _checked(str(data), found, looks, columns, skip_unreadable=skip_unreadable)


def _no_data(path: Path) -> str:
    forms = "asdic reads a folder of images, an .npz, or package.module:loader"
    return f"no data: {forms}" if path.exists() else f"not there; {forms}"


def _checked(
    where: str,
    found: Sequence[ArraySample | LazySample],
    looks: Sequence[Look],
    columns: Sequence[str],
    *,
    skip_unreadable: bool,
) -> Samples:
    if not 0 < len(found) <= SAMPLE_LIMIT:
        raise DataError(f"{where} gives {len(found)} samples, 1 to {SAMPLE_LIMIT} are accepted")
    unreadable = refuse_unreadable(looks, where, skip=skip_unreadable)
    usable = [pair for pair in zip(found, looks, strict=True) if not pair[1].problem]
    facts = chosen_facts([one.facts for one, _ in usable], columns, where=where)
    drawn = any(not one.split for one, _ in usable)
    kept = tuple(look for _, look in usable)
    samples = tuple(
        replace(one, group=one.group or look.digest, facts=its)
        for (one, look), its in zip(usable, facts, strict=True)
    )
    splits = draw_splits(samples, kept)
    return Samples(
        where=where,
        samples=tuple(replace(one, split=its) for one, its in zip(samples, splits, strict=True)),
        looks=kept,
        unreadable=unreadable,
        drawn=drawn,
    )
