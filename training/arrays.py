"""Samples in an ``.npz``: arrays whose first axis counts them. The form is in ``docs/data.md``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, DataError, ReleaseError
from asdic.device.runner.archive import ArchiveLimits, read_arrays
from asdic.training.samples import ArraySample, Reference, some

INPUT: Final = "x"
REFERENCE: Final = "y"
SPLIT: Final = "split"
GROUP: Final = "group"
LIMITS: Final = ArchiveLimits(
    packed_bytes=1 << 30, members=256, member_bytes=2 << 30, unpacked_bytes=2 << 30
)


def read_npz(path: Path, inputs: Sequence[str]) -> tuple[ArraySample, ...]:
    """Return the samples in an ``.npz``, in their order; each is called by its number.

    Args:
        path: The file. Nothing in it is unpickled.
        inputs: The names of the model's input tensors. A single one may be called ``x``.

    Raises:
        DataError: The file cannot be read, is larger than ``LIMITS``, lacks an input, or its
            arrays do not belong together.
    """
    try:
        arrays = read_arrays(path, limits=LIMITS, text=True)
    except (ConfigError, ReleaseError) as error:
        raise DataError(str(error)) from error
    names = _input_names(path, inputs, arrays)
    count = _count(path, arrays, names[inputs[0]])
    _check_columns(path, arrays, [*names.values(), REFERENCE], count)
    return tuple(_samples(arrays, names, count))


def _input_names(
    path: Path, inputs: Sequence[str], arrays: Mapping[str, NDArray[Any]]
) -> dict[str, str]:
    """Return what each of the model's inputs is called in the file."""
    names = {name: name for name in inputs}
    if len(inputs) == 1 and inputs[0] not in arrays:
        names = {inputs[0]: INPUT}
    missing = [name for name in names.values() if name not in arrays]
    if missing:
        raise DataError(
            f"{path} has no array {some(missing)}; the model's inputs are {', '.join(inputs)}, "
            f"the file holds {', '.join(arrays) or 'nothing'}"
        )
    return names


def _count(path: Path, arrays: Mapping[str, NDArray[Any]], first: str) -> int:
    lengths = {name: array.shape[0] if array.ndim else -1 for name, array in arrays.items()}
    count = lengths[first]
    if count < 1:
        raise DataError(f"{path} holds no samples: {first} has shape {arrays[first].shape}")
    if others := [f"{name} {arrays[name].shape}" for name in lengths if lengths[name] != count]:
        raise DataError(
            f"{path} holds {count} samples by {first}, and {some(others)}; the first axis of "
            "every array is the sample"
        )
    return count


def _check_columns(
    path: Path, arrays: Mapping[str, NDArray[Any]], known: Sequence[str], count: int
) -> None:
    for name, array in arrays.items():
        if name not in known and array.ndim != 1:
            raise DataError(
                f"{path} holds {name} of shape {array.shape}, which is no input of the model; "
                f"a column of facts has shape ({count},)"
            )


def _samples(
    arrays: Mapping[str, NDArray[Any]], names: Mapping[str, str], count: int
) -> Iterator[ArraySample]:
    columns = {
        name: [str(one) for one in array.tolist()]
        for name, array in arrays.items()
        if name not in {*names.values(), REFERENCE, SPLIT}
    }
    for number in range(count):
        yield ArraySample(
            name=str(number),
            inputs={tensor: arrays[name][number, ...] for tensor, name in names.items()},
            reference=_reference(arrays.get(REFERENCE), number),
            split=split_named(arrays[SPLIT][number]) if SPLIT in arrays else "",
            group=columns[GROUP][number] if GROUP in columns else "",
            facts={name: values[number] for name, values in columns.items()},
        )


def _reference(references: NDArray[Any] | None, number: int) -> Reference | None:
    return None if references is None else plain_reference(references[number, ...])


def plain_reference(value: Any) -> Reference:
    """Return a reference as the number or the name of a class, or as an array."""
    array = np.asarray(value)
    if array.ndim == 0 and array.dtype.kind in "biu":
        return int(array)
    if array.ndim == 0 and array.dtype.kind == "U":
        return str(array)
    if array.dtype.kind not in "biuf":
        raise DataError(f"a reference is a class or an array of numbers, not {array.dtype}")
    return array


def split_named(value: Any) -> str:
    """Return the split that ``value`` means: ``train``, ``calib``, 0, 1, or nothing.

    Raises:
        DataError: It means none.
    """
    text = "" if value is None else str(value)
    splits = {"": "", "0": "train", "1": "calib", "train": "train", "calib": "calib"}
    if text not in splits:
        raise DataError(f"a sample has split {text!r}, expected train or calib (0 or 1)")
    return splits[text]
