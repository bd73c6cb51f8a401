"""A sample, wherever it comes from, and what one look at each of them tells."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import DataError
from asdic.training.duplicates import Signature, is_constant, is_picture, signature_of
from asdic.training.pixels import quiet_opencv

Task: TypeAlias = Literal["segmentation", "classification", "raw"]
Split: TypeAlias = Literal["train", "calib"]
SPLITS: Final = ("train", "calib")

ONLY_INPUT: Final = ""
"""The name of a sample's input where it has one alone."""

COMPARED_LIMIT: Final = 20_000
"""Of more samples only the bytes are compared: every pair has to be looked at."""

FACT_VALUES: Final = (2, 20)
_NAMED_AT_MOST: Final = 3

Reference: TypeAlias = NDArray[Any] | str | int


class AnySample(Protocol):
    """What the quantizer needs of a sample; its pixels are read when they are asked for."""

    @property
    def name(self) -> str:
        """What people call it: its path inside the data folder, or its number."""

    @property
    def group(self) -> str:
        """What it belongs to, such as a patient; empty if nothing is known."""

    @property
    def split(self) -> str:
        """``train``, ``calib``, or empty if it is not decided."""

    @property
    def facts(self) -> Mapping[str, str]:
        """What else is known about it, by column."""

    def read_inputs(self) -> Mapping[str, NDArray[Any]]:
        """Return the images and arrays that the model takes, by the tensor's name.

        A single one may be called ``ONLY_INPUT``.

        Raises:
            DataError: They cannot be read.
        """

    def has_reference(self, task: Task, /) -> bool:
        """Return whether it is known what the model should answer."""

    def read_reference(self, task: Task, /) -> Reference | None:
        """Return what the model should answer: a mask, a class, or an array.

        Raises:
            DataError: It cannot be read.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class ArraySample:
    """A sample in memory: what a loader gives and what an ``.npz`` holds.

    ``inputs`` is an image (uint8, (H, W) or (H, W, 3) in RGB) or an array, or several by the
    tensor's name. ``reference`` is the mask (uint8 (H, W)), the class (its number or name), one 0
    or 1 a class, or the array that the model should answer. ``split`` is ``train`` (calibrates),
    ``calib`` (judges), or empty to be drawn; samples of one ``group`` stay on one side. ``facts``
    are columns to judge by, such as ``{"site": "A"}``.
    """

    inputs: NDArray[Any] | Mapping[str, NDArray[Any]]
    reference: Reference | None = None
    group: str = ""
    split: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    name: str = ""

    def read_inputs(self) -> Mapping[str, NDArray[Any]]:
        """Return the inputs by name."""
        return self.inputs if isinstance(self.inputs, Mapping) else {ONLY_INPUT: self.inputs}

    def has_reference(self, _task: Task, /) -> bool:
        """Return whether there is a reference."""
        return self.reference is not None

    def read_reference(self, _task: Task, /) -> Reference | None:
        """Return the reference."""
        return self.reference


@dataclass(frozen=True, kw_only=True, eq=False)
class Look:
    """What one look at a sample tells.

    ``digest`` is that of its inputs; ``signature`` is None where there is too little to compare;
    ``problem`` says why it cannot be used, in words, or is empty.
    """

    digest: str = ""
    signature: Signature | None = None
    constant: bool = False
    problem: str = ""


def look_at_all(samples: Sequence[AnySample], *, workers: int = 2) -> tuple[Look, ...]:
    """Return what a look at each sample tells; one after the other is read and let go.

    Args:
        samples: Where to look.
        workers: How many are read at a time; 1 for what is not safe to share.

    Raises:
        DataError: An input holds NaN or infinity; the sample is named.
    """
    compares = len(samples) <= COMPARED_LIMIT

    def look(sample: AnySample) -> Look:
        return look_at(sample, compares=compares)

    with quiet_opencv(), ThreadPoolExecutor(max_workers=workers) as pool:
        return tuple(pool.map(look, samples) if workers > 1 else map(look, samples))


def look_at(sample: AnySample, *, compares: bool) -> Look:
    """Return what a look at a sample tells; ``compares`` keeps a signature.

    Raises:
        DataError: An input holds NaN or infinity; the sample is named.
    """
    try:
        inputs = sample.read_inputs()
        mask = sample.read_reference("segmentation")
    except DataError as error:
        return Look(problem=str(error))
    _refuse_infinite(sample.name, inputs)
    if problem := _mask_problem(sample.name, inputs, mask):
        return Look(problem=problem)
    constant = is_constant(inputs)
    return Look(
        digest=digest_of(inputs),
        signature=signature_of(inputs) if compares and not constant else None,
        constant=constant,
    )


def digest_of(inputs: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of images and arrays, as hex digits: equal content, equal digest."""
    state = hashlib.sha256()
    for name, array in sorted(inputs.items()):
        state.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()


def chosen_facts(
    rows: Sequence[Mapping[str, str]], columns: Sequence[str], *, where: str
) -> tuple[Mapping[str, str], ...]:
    """Return what is worth judging by, sample by sample.

    Without ``columns`` those with 2 to 20 different values count: fewer tell nothing apart, and
    more are measurements or names. Columns that are asked for count as they are.

    Raises:
        DataError: There is no such column; those there are are named.
    """
    known = sorted({column for row in rows for column in row})
    if unknown := [column for column in columns if column not in known]:
        there = ", ".join(known) or "none"
        raise DataError(f"{where} has no column {some(unknown)} to judge by; it has {there}")
    kept = tuple(columns) or tuple(column for column in known if _tells_apart(rows, column))
    return tuple({name: row[name] for name in kept if row.get(name)} for row in rows)


def some(names: Sequence[str], *, separator: str = ", ") -> str:
    """Return the first few of ``names`` for a message, and how many more there are."""
    shown = separator.join(names[:_NAMED_AT_MOST])
    rest = len(names) - _NAMED_AT_MOST
    return f"{shown} and {rest} more" if rest > 0 else shown


def _refuse_infinite(name: str, inputs: Mapping[str, NDArray[Any]]) -> None:
    for key, array in inputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            what = f" in {key!r}" if key else ""
            raise DataError(f"sample {name} holds NaN or infinity{what}; mend it or leave it out")


def _mask_problem(name: str, inputs: Mapping[str, NDArray[Any]], mask: Reference | None) -> str:
    """Return why a mask does not belong to its image; what is no mask is looked at later."""
    images = [one for one in inputs.values() if is_picture(one)]
    if len(images) != 1 or not isinstance(mask, np.ndarray) or mask.dtype != np.uint8:
        return ""
    if mask.ndim == 2 and mask.shape != images[0].shape[:2]:
        return f"the mask of {name} has {_size(mask)} pixels, its image has {_size(images[0])}"
    return ""


def _size(pixels: NDArray[Any]) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _tells_apart(rows: Sequence[Mapping[str, str]], column: str) -> bool:
    least, most = FACT_VALUES
    return least <= len({row[column] for row in rows if row.get(column)}) <= most
