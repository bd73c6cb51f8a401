"""Samples that show the same thing: found by what they look like, not by their bytes.

Two frames of one scan are no two samples. Where one calibrates and the other judges, the judge
has seen the answer. Equal bytes are easy; a crop, another scale or a second exposure are not.

An image is compared by its thumbnail and by the thumbnail's fine detail, as correlations, so
that size, gain and offset do not matter. The limits are those of ``benchmarks/near_duplicates.py``,
which holds them against marked pairs of real images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

THUMBNAIL_SIDE: Final = 32
DETAIL_SIGMA: Final = 2.0
"""What a Gaussian of so many thumbnail pixels leaves over is detail."""

ELEMENTS_AT_LEAST: Final = 64
"""The correlation of fewer numbers is high by chance too often; these are compared byte by byte."""

ELEMENTS_AT_MOST: Final = THUMBNAIL_SIDE**2
_BLOCK: Final = 256
_FLAT_GREY_LEVELS: Final = 1.0
_FLAT_SHARE: Final = 1e-6


class Likeness(Enum):
    """How sure it is that two samples show the same."""

    SAME = "same"
    """Sure enough to refuse a person's own split."""
    ALIKE = "alike"
    """Sure enough to keep both on one side where the split is ours, which costs nothing."""


class Level(NamedTuple):
    """The least correlation of two thumbnails, and of their detail."""

    whole: float
    detail: float


IMAGE_LEVELS: Final = MappingProxyType(
    {Likeness.SAME: Level(0.97, 0.5), Likeness.ALIKE: Level(0.93, 0.3)}
)
ARRAY_LEVELS: Final = MappingProxyType(
    {Likeness.SAME: Level(0.999, 0.0), Likeness.ALIKE: Level(0.999, 0.0)}
)
"""Of arrays nobody knows what is usual: spectrograms of different words reach 0.996. So only the
same array with another gain, offset or rounding counts."""

IMAGE_KIND: Final = "image"


@dataclass(frozen=True, eq=False)
class Signature:
    """What a sample looks like: float32 vectors (D,) of mean 0 and length 1.

    Only signatures of one ``kind`` can be compared. ``detail`` is zero for arrays.
    """

    kind: str
    whole: NDArray[np.float32]
    detail: NDArray[np.float32]


class Pair(NamedTuple):
    """Two samples by their numbers, the correlation of their thumbnails, and what it means."""

    first: int
    second: int
    correlation: float
    likeness: Likeness


def is_picture(array: NDArray[Any]) -> bool:
    """Return whether an array is an image as the runner takes it: uint8, (H, W) or (H, W, 3)."""
    return array.dtype == np.uint8 and (
        array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)
    )


def is_constant(inputs: Mapping[str, NDArray[Any]]) -> bool:
    """Return whether nothing can be seen in a sample: each of its inputs is one value all over.

    Images may vary by one grey level (standard deviation), arrays by a millionth of their values.
    """
    return all(_is_flat(array) for array in inputs.values())


def signature_of(inputs: Mapping[str, NDArray[Any]]) -> Signature | None:
    """Return what a sample looks like, or None if there is too little to compare.

    Args:
        inputs: Images or finite arrays by name.
    """
    arrays = [array for _, array in sorted(inputs.items()) if not _is_flat(array)]
    if len(arrays) == 1 and is_picture(arrays[0]):
        thumbnail = _thumbnail(arrays[0])
        detail = thumbnail - cv2.GaussianBlur(thumbnail, (0, 0), DETAIL_SIGMA)
        return Signature(IMAGE_KIND, _unit(thumbnail), _unit(detail))
    parts = [_unit(_pooled(array)) for array in arrays]
    if sum(part.size for part in parts) < ELEMENTS_AT_LEAST:
        return None
    whole = _unit(np.concatenate(parts))
    kind = " ".join(str(array.shape) for array in arrays)
    return Signature(kind, whole, np.zeros(1, np.float32))


def overlaps(left: Sequence[Signature | None], right: Sequence[Signature | None]) -> list[Pair]:
    """Return, for each of ``left`` that resembles one of ``right``, the one it resembles most.

    The numbers of a pair are places in ``left`` and in ``right``.
    """
    others = _stacks(right)
    found = [
        pair
        for kind, stack in _stacks(left).items()
        if kind in others
        for block in stack.blocks()
        for pair in _best(block, others[kind])
    ]
    return sorted(found)


def resembling_groups(signatures: Sequence[Signature | None]) -> NDArray[np.intp]:
    """Return a number for each sample (N,), the same for those that resemble one another.

    Chains count: of three frames of a sweep, the first and the last belong together.
    """
    groups = np.arange(len(signatures))
    for stack in _stacks(signatures).values():
        level = _levels(stack.kind)[Likeness.ALIKE]
        for block in stack.blocks():
            alike = block.correlations(stack, level)[1]
            for row, number in enumerate(block.numbers):
                found = groups[stack.numbers[alike[row]]]
                if (found != groups[number]).any():
                    groups[np.isin(groups, found)] = found.min()
    return groups


@dataclass(frozen=True, eq=False)
class _Stack:
    """Signatures of one kind: their places, and their vectors (N, D)."""

    kind: str
    numbers: NDArray[np.intp]
    whole: NDArray[np.float32]
    detail: NDArray[np.float32]

    def blocks(self) -> Iterator[_Stack]:
        """Yield the rows a few at a time, so that memory grows with N and not with its square."""
        for begin in range(0, len(self.numbers), _BLOCK):
            rows = slice(begin, begin + _BLOCK)
            yield _Stack(self.kind, self.numbers[rows], self.whole[rows], self.detail[rows])

    def correlations(
        self, other: _Stack, level: Level
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the correlation of each row with each of ``other``, and which reach ``level``."""
        whole = self.whole @ other.whole.T
        reached = whole >= level.whole
        if level.detail > 0.0:
            rows = np.flatnonzero(reached.any(axis=1))
            reached[rows] &= self.detail[rows] @ other.detail.T >= level.detail
        return whole, reached


def _stacks(signatures: Sequence[Signature | None]) -> dict[str, _Stack]:
    numbers: dict[str, list[int]] = {}
    for number, one in enumerate(signatures):
        if one is not None:
            numbers.setdefault(one.kind, []).append(number)
    return {kind: _stack(kind, signatures, of_kind) for kind, of_kind in numbers.items()}


def _stack(kind: str, signatures: Sequence[Signature | None], numbers: Sequence[int]) -> _Stack:
    chosen = [one for number in numbers if (one := signatures[number]) is not None]
    return _Stack(
        kind,
        np.array(numbers),
        np.stack([one.whole for one in chosen]),
        np.stack([one.detail for one in chosen]),
    )


def _best(block: _Stack, other: _Stack) -> Iterator[Pair]:
    levels = _levels(block.kind)
    whole, alike = block.correlations(other, levels[Likeness.ALIKE])
    same = block.correlations(other, levels[Likeness.SAME])[1]
    for row in np.flatnonzero(alike.any(axis=1)):
        likeness = Likeness.SAME if same[row].any() else Likeness.ALIKE
        chosen = same[row] if likeness is Likeness.SAME else alike[row]
        column = int(np.where(chosen, whole[row], -1.0).argmax())
        yield Pair(
            int(block.numbers[row]),
            int(other.numbers[column]),
            float(whole[row, column]),
            likeness,
        )


def _levels(kind: str) -> Mapping[Likeness, Level]:
    return IMAGE_LEVELS if kind == IMAGE_KIND else ARRAY_LEVELS


def _is_flat(array: NDArray[Any]) -> bool:
    if array.size == 0:
        return True
    if is_picture(array):
        return bool(cv2.meanStdDev(array)[1].max() < _FLAT_GREY_LEVELS)
    low, high = float(array.min()), float(array.max())
    return high - low <= _FLAT_SHARE * max(abs(low), abs(high))


def _thumbnail(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    shrinks = min(grey.shape) >= THUMBNAIL_SIDE
    side = (THUMBNAIL_SIDE, THUMBNAIL_SIDE)
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(grey.astype(np.float32), side, interpolation=how), np.float32)


def _pooled(array: NDArray[Any]) -> NDArray[np.float64]:
    """Return means over blocks of ``array``, about ``ELEMENTS_AT_MOST`` at most."""
    values = np.asarray(array, np.float64)
    axes = [axis for axis, side in enumerate(values.shape) if side > 1]
    while values.size > ELEMENTS_AT_MOST:
        axis = max(axes, key=lambda one: values.shape[one])
        side = values.shape[axis]
        fewer = max(side * ELEMENTS_AT_MOST // values.size, (side + 1) // 2)
        edges = np.linspace(0, side, fewer, endpoint=False).astype(np.intp)
        sizes = np.diff(edges, append=side)
        shape = [-1 if one == axis else 1 for one in range(values.ndim)]
        values = np.add.reduceat(values, edges, axis=axis) / sizes.reshape(shape)
    return values


def _unit(values: NDArray[Any]) -> NDArray[np.float32]:
    """Return ``values`` as a vector of mean 0 and length 1; zero where they do not vary."""
    flat = np.asarray(values, np.float64).ravel()
    flat = flat - flat.mean()
    length = float(np.linalg.norm(flat))
    return np.asarray(flat / length if length > 0.0 else flat, np.float32)
