"""Images, masks and labels in a folder: what a network learns from and what judges it.

The ``train`` split fits networks and calibrates quantizers; the ``calib`` split only judges.
Images that resemble one another share a ``group``, and a group is never split.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.files import read_bounded
from asdic.training.pixels import Pixels, binary_mask, read_mask_pixels, read_pixels
from asdic.training.samples import (
    ONLY_INPUT,
    SPLITS,
    Look,
    Reference,
    Split,
    Task,
    chosen_facts,
    look_at_all,
    some,
)
from asdic.training.splits import draw_splits

LABELS_FILE: Final = "labels.csv"
GROUP_COLUMNS: Final = ("dup_group", "group", "patient", "device")
"""The columns that may say what an image belongs to; the first one that exists counts."""

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
LABELS_LIMIT_BYTES: Final = 32 << 20
SAMPLE_LIMIT: Final = 200_000
UNREADABLE_PERCENT: Final = 5
"""Of so many in a hundred samples it is believed that they may be left out."""

_NO_FACTS: Final = frozenset({"file", "mask", "split"})


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image and what is known about it; ``name`` is its path inside the data folder.

    ``facts`` are further columns of the table by which a model can be judged.
    """

    name: str
    image: Path
    mask: Path | None = None
    label: str | None = None
    group: str = ""
    split: str = "train"
    facts: Mapping[str, str] = field(default_factory=dict)

    def read_image(self) -> Pixels:
        """Return the image, uint8, (H, W) if it is grey or (H, W, 3) in RGB order.

        Raises:
            DataError: The file is missing, too large, or not an 8-bit image.
        """
        return read_pixels(self.image)

    def read_mask(self) -> Pixels | None:
        """Return the mask, uint8 (H, W) of 0 and 1, or None if the image has none.

        Raises:
            DataError: The file is missing, too large, or not an 8-bit image, or holds more than
                two classes.
        """
        if self.mask is None:
            return None
        return binary_mask(read_mask_pixels(self.mask), self.name)

    def read_inputs(self) -> dict[str, Pixels]:
        """Return the image as the only input."""
        return {ONLY_INPUT: self.read_image()}

    def has_reference(self, task: Task, /) -> bool:
        """Return whether there is a mask to segment by, or a label to classify by."""
        return {"segmentation": self.mask, "classification": self.label}.get(task) is not None

    def read_reference(self, task: Task, /) -> Reference | None:
        """Return the mask as the file holds it, uint8 (H, W), or the label; None for arrays."""
        if task == "segmentation" and self.mask is not None:
            return read_mask_pixels(self.mask)
        return self.label if task == "classification" else None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The samples of one folder, in the order of its table or of their names.

    ``looks`` belong to ``samples``; ``unreadable`` says what was left out, and why; ``drawn`` is
    whether asdic decided the split of any.
    """

    folder: Path
    samples: tuple[Sample, ...]
    looks: tuple[Look, ...] = field(default=(), repr=False, compare=False)
    unreadable: tuple[str, ...] = ()
    drawn: bool = False

    def split(self, name: Split) -> tuple[Sample, ...]:
        """Return the samples of one split.

        Raises:
            DataError: There are none.
        """
        chosen = tuple(sample for sample in self.samples if sample.split == name)
        if not chosen:
            raise DataError(f"{self.folder} has no images in its split {name!r}")
        return chosen


def read_dataset(
    folder: Path, *, columns: Sequence[str] = (), skip_unreadable: bool = False
) -> Dataset:
    """Return the data set in ``folder``, every file of it decoded once, so that none fails later.

    With a ``labels.csv`` its column ``file`` names the images, and ``mask``, ``label``, a group
    (``GROUP_COLUMNS``) and ``split`` may follow; other columns may become facts. Without it every
    image below the folder counts, and those in ``masks/`` are the masks of the images of the same
    names. Where no split is given, it is drawn (``draw_splits``).

    Args:
        folder: Where the images are.
        columns: What becomes facts; none takes all that ``chosen_facts`` finds worth it.
        skip_unreadable: Leave out up to ``UNREADABLE_PERCENT`` of the samples instead of failing.

    Raises:
        DataError: The folder is missing or empty, the table is wrong or points out of the
            folder, files cannot be read (named, counted), or a mask has another size.
    """
    if not folder.is_dir():
        raise DataError(f"there is no data folder {folder}")
    has_table = (folder / LABELS_FILE).is_file()
    samples = _from_table(folder, columns) if has_table else _from_names(folder)
    if not samples:
        raise DataError(f"{folder} holds no images; expected {LABELS_FILE} or image files")
    if columns and not has_table:
        raise DataError(f"{folder} has no {LABELS_FILE}, so there is no column {some(columns)}")
    if len(samples) > SAMPLE_LIMIT:
        raise DataError(
            f"{folder} holds {len(samples)} images, at most {SAMPLE_LIMIT} are accepted"
        )
    looks = look_at_all(samples)
    unreadable = refuse_unreadable(looks, str(folder), skip=skip_unreadable)
    samples = tuple(one for one, look in zip(samples, looks, strict=True) if not look.problem)
    looks = tuple(look for look in looks if not look.problem)
    splits = draw_splits(samples, looks)
    return Dataset(
        folder=folder,
        samples=tuple(replace(one, split=its) for one, its in zip(samples, splits, strict=True)),
        looks=looks,
        unreadable=unreadable,
        drawn=any(not sample.split for sample in samples),
    )


def refuse_unreadable(looks: Sequence[Look], where: str, *, skip: bool) -> tuple[str, ...]:
    """Return what is wrong with samples that may be left out.

    Raises:
        DataError: There are some and they may not, or they are too many.
    """
    problems = tuple(look.problem for look in looks if look.problem)
    few = len(problems) * 100 <= UNREADABLE_PERCENT * len(looks)
    if not problems or (skip and few):
        return problems
    limit = f" (at most {UNREADABLE_PERCENT} % may be left out)" if skip else ""
    raise DataError(
        f"{len(problems)} of {len(looks)} samples in {where} cannot be used{limit}: "
        f"{some(problems, separator='; ')}"
    )


def _from_table(folder: Path, columns: Sequence[str]) -> tuple[Sample, ...]:
    path = folder / LABELS_FILE
    rows = _read_rows(path)
    if rows and "file" not in rows[0]:
        raise DataError(f"{path} has no column 'file'; it has {', '.join(rows[0])}")
    samples = tuple(
        _from_row(folder, row, f"{path} line {number}") for number, row in enumerate(rows, start=2)
    )
    counts = Counter(sample.name for sample in samples)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise DataError(f"{path} names {some(twice)} more than once")
    known = chosen_facts([_facts(row) for row in rows], columns, where=str(path))
    return tuple(replace(one, facts=its) for one, its in zip(samples, known, strict=True))


def _facts(row: Mapping[str, str | None]) -> dict[str, str]:
    return {
        column: value
        for column, value in row.items()
        if column not in _NO_FACTS and isinstance(value, str)
    }


def _read_rows(path: Path) -> list[dict[str, str | None]]:
    try:
        text = read_bounded(path, LABELS_LIMIT_BYTES).decode("utf-8-sig")
        return list(csv.DictReader(io.StringIO(text, newline=""), strict=True, restkey="(more)"))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is not a table: {error}") from error
    except ConfigError as error:
        raise DataError(str(error)) from error


def _from_row(folder: Path, row: dict[str, str | None], where: str) -> Sample:
    name = row.get("file") or ""
    split = row.get("split") or ""
    if split and split not in SPLITS:
        raise DataError(f"{where} has split {split!r}, expected {' or '.join(SPLITS)}")
    group = next((row[column] for column in GROUP_COLUMNS if row.get(column)), name)
    mask = row.get("mask")
    return Sample(
        name=name,
        image=_inside(folder, name, where),
        mask=_inside(folder, mask, where) if mask else None,
        label=row.get("label") or None,
        group=group or name,
        split=split,
    )


def _inside(folder: Path, name: str, where: str) -> Path:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name:
        raise DataError(f"{where} names the file {name!r}, which is not inside the data folder")
    return folder / path


def _from_names(folder: Path) -> tuple[Sample, ...]:
    masks = folder / "masks"
    images = [path for path in _images_below(folder) if not path.is_relative_to(masks)]
    mask_of = {path.relative_to(masks).with_suffix(""): path for path in _images_below(masks)}
    samples = []
    for path in images:
        name = path.relative_to(folder)
        key = name.relative_to("images") if name.is_relative_to("images") else name
        mask = mask_of.get(key.with_suffix(""))
        samples.append(
            Sample(name=name.as_posix(), image=path, mask=mask, group=name.as_posix(), split="")
        )
    without = [sample.name for sample in samples if sample.mask is None]
    if mask_of and without:
        raise DataError(
            f"{len(without)} of {len(samples)} images in {folder} have no mask in masks/: "
            f"{some(without)}; an image with nothing to find needs a black mask"
        )
    return tuple(samples)


def _images_below(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
