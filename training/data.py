"""Images, masks and labels in a folder: what a network learns from and what judges it.

The ``train`` split fits networks and calibrates quantizers; the ``calib`` split only judges.
Images that resemble one another share a ``group``, and a group is never split.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Final, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.files import read_bounded

LABELS_FILE: Final = "labels.csv"
SPLITS: Final = ("train", "calib")
GROUP_COLUMNS: Final = ("dup_group", "group", "patient", "device")
"""The columns that may say what an image belongs to; the first one that exists counts."""

SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
LABELS_LIMIT_BYTES: Final = 32 << 20
IMAGE_LIMIT_BYTES: Final = 64 << 20
PIXEL_LIMIT: Final = 32 << 20
SAMPLE_LIMIT: Final = 200_000
_NAMED_AT_MOST: Final = 3
_CALIB_SHARE: Final = 1 / 3

Split: TypeAlias = Literal["train", "calib"]
Pixels: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One image and what is known about it; ``name`` is its path inside the data folder."""

    name: str
    image: Path
    mask: Path | None = None
    label: str | None = None
    group: str = ""
    split: str = "train"

    def read_image(self) -> Pixels:
        """Return the image, uint8, (H, W) if it is grey or (H, W, 3) in RGB order.

        Raises:
            DataError: The file is missing, too large, or not an 8-bit image.
        """
        return _read_pixels(self.image)

    def read_mask(self) -> Pixels | None:
        """Return the mask, uint8 (H, W) of 0 and 1, or None if the image has none.

        Raises:
            DataError: The file is missing, too large, or not an 8-bit image.
        """
        if self.mask is None:
            return None
        pixels = _read_pixels(self.mask)
        grey = pixels if pixels.ndim == 2 else pixels.max(axis=2)
        threshold = 127 if grey.max() > 1 else 0
        return (grey > threshold).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The samples of one folder, in the order of its table or of their names."""

    folder: Path
    samples: tuple[Sample, ...]

    def split(self, name: Split) -> tuple[Sample, ...]:
        """Return the samples of one split.

        Raises:
            DataError: There are none.
        """
        chosen = tuple(sample for sample in self.samples if sample.split == name)
        if not chosen:
            raise DataError(f"{self.folder} has no images in its split {name!r}")
        return chosen


def read_dataset(folder: Path) -> Dataset:
    """Return the data set in ``folder``, every file of it decoded once, so that none fails later.

    With a ``labels.csv`` its column ``file`` names the images, and ``mask``, ``label``, a group
    (``GROUP_COLUMNS``) and ``split`` may follow. Without it every image below the folder counts,
    and those in ``masks/`` are the masks of the images of the same names. Where no split is
    given, about a third of the groups becomes ``calib`` by the hash of their names, so an image
    does not change sides when others are added.

    Raises:
        DataError: The folder is missing or empty, the table is wrong or points out of the
            folder, files cannot be read (named, counted), or a mask has another size.
    """
    if not folder.is_dir():
        raise DataError(f"there is no data folder {folder}")
    has_table = (folder / LABELS_FILE).is_file()
    samples = _from_table(folder) if has_table else _from_names(folder)
    if not samples:
        raise DataError(f"{folder} holds no images; expected {LABELS_FILE} or image files")
    if len(samples) > SAMPLE_LIMIT:
        raise DataError(
            f"{folder} holds {len(samples)} images, at most {SAMPLE_LIMIT} are accepted"
        )
    _check_files(folder, samples)
    return Dataset(folder=folder, samples=_with_splits(samples))


def _from_table(folder: Path) -> tuple[Sample, ...]:
    path = folder / LABELS_FILE
    rows = _read_rows(path)
    if rows and "file" not in rows[0]:
        raise DataError(f"{path} has no column 'file'; it has {', '.join(rows[0])}")
    samples = tuple(
        _from_row(folder, row, f"{path} line {number}") for number, row in enumerate(rows, start=2)
    )
    counts = Counter(sample.name for sample in samples)
    if twice := [name for name, count in counts.items() if count > 1]:
        raise DataError(f"{path} names {_some(twice)} more than once")
    return samples


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
            f"{_some(without)}; an image with nothing to find needs a black mask"
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


def _check_files(folder: Path, samples: Sequence[Sample]) -> None:
    with _quiet_opencv(), ThreadPoolExecutor(max_workers=2) as pool:
        problems = [problem for problem in pool.map(_problem_of, samples) if problem]
    if problems:
        raise DataError(
            f"{len(problems)} of {len(samples)} samples in {folder} cannot be used: "
            f"{_some(problems, separator='; ')}"
        )


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keep OpenCV's own lines off stderr: what is wrong with a file is said once, by us."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)


def _problem_of(sample: Sample) -> str | None:
    try:
        image, mask = sample.read_image(), sample.read_mask()
    except DataError as error:
        return str(error)
    if mask is not None and mask.shape != image.shape[:2]:
        return f"the mask of {sample.name} has {_size(mask)} pixels, its image has {_size(image)}"
    return None


def _size(pixels: Pixels) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _some(names: Sequence[str], *, separator: str = ", ") -> str:
    shown = separator.join(names[:_NAMED_AT_MOST])
    rest = len(names) - _NAMED_AT_MOST
    return f"{shown} and {rest} more" if rest > 0 else shown


def _with_splits(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """Give a split to the samples that have none."""
    undecided = [sample for sample in samples if not sample.split]
    if not undecided:
        return samples
    several = len({sample.group for sample in undecided}) > 1
    key: Callable[[Sample], str] = (lambda one: one.group) if several else (lambda one: one.name)
    chosen = hashed_share((key(sample) for sample in undecided), _CALIB_SHARE)
    return tuple(
        replace(sample, split="calib" if key(sample) in chosen else "train")
        if not sample.split
        else sample
        for sample in samples
    )


def hashed_share(keys: Iterable[str], share: float, *, salt: str = "") -> frozenset[str]:
    """Return about ``share`` of ``keys``, at least one, and not all if there are several.

    Whether a key is chosen depends on its hash with ``salt`` alone, except where that would
    choose none or all.
    """
    by_hash = sorted((_hash(salt + key), key) for key in set(keys))
    count = sum(value < share for value, _ in by_hash)
    count = min(max(count, 1), max(len(by_hash) - 1, 1))
    return frozenset(key for _, key in by_hash[:count])


def _hash(key: str) -> float:
    """Return a number in [0, 1) that depends on nothing but ``key``."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def _read_pixels(path: Path) -> Pixels:
    try:
        data = np.frombuffer(read_bounded(path, IMAGE_LIMIT_BYTES), np.uint8)
    except ConfigError as error:
        raise DataError(str(error)) from error
    try:
        pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    except cv2.error as error:
        raise DataError(f"{path.name} cannot be decoded: {error.err}") from error
    if pixels is None:
        raise DataError(f"{path.name} is not an image that OpenCV can read")
    if pixels.dtype != np.uint8:
        raise DataError(f"{path.name} has {pixels.dtype} pixels, expected 8-bit ones")
    if pixels.shape[0] * pixels.shape[1] > PIXEL_LIMIT:
        raise DataError(f"{path.name} has {pixels.shape[:2]} pixels, {PIXEL_LIMIT} are accepted")
    return _as_grey_or_rgb(pixels.astype(np.uint8, copy=False))


def _as_grey_or_rgb(pixels: Pixels) -> Pixels:
    if pixels.ndim == 2:
        return pixels
    match pixels.shape[2]:
        case 1:
            return pixels[:, :, 0]
        case 2:  # grey and alpha
            return np.ascontiguousarray(pixels[:, :, 0])
        case _:  # BGR, perhaps with alpha
            return np.ascontiguousarray(pixels[:, :, 2::-1])
