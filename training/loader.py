"""Samples that a person's own function gives: ``package.module:loader``.

The function is imported into this process and runs with all its rights: it is the person's own
code, named on the command line. What it returns is checked like any data.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import DataError
from asdic.training.arrays import plain_reference, split_named
from asdic.training.data import SAMPLE_LIMIT
from asdic.training.samples import (
    COMPARED_LIMIT,
    ArraySample,
    Look,
    Reference,
    Task,
    digest_of,
    look_at,
)

HELD_LIMIT_BYTES: Final = 2 << 30
"""What an iterator yields has to be held, for it cannot be asked twice."""

_NAME: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_FIELDS: Final = tuple(one.name for one in fields(ArraySample))


def is_loader(text: str) -> bool:
    """Return whether ``text`` has the form ``package.module:function``."""
    return _NAME.fullmatch(text) is not None


def load_samples(
    loader: str,
) -> tuple[tuple[ArraySample | LazySample, ...], tuple[Look, ...]]:
    """Return what the function gives, and what a look at each sample tells.

    A list or an iterator is held in memory. Anything else with ``len()`` and numbers as keys, such
    as a torch data set, is asked for a sample whenever it is needed.

    Args:
        loader: ``package.module:function``; the module may lie where the person stands.

    Raises:
        DataError: The function cannot be imported, failed, or gave something else.
    """
    given = _called(loader)
    if isinstance(given, Mapping) or not (hasattr(given, "__getitem__") or _is_iterable(given)):
        raise DataError(f"{loader} returned {type(given).__name__}, not samples")
    if isinstance(given, (list, tuple)) or not hasattr(given, "__getitem__"):
        samples = tuple(_held(loader, given))
        compares = len(samples) <= COMPARED_LIMIT
        return samples, tuple(look_at(sample, compares=compares) for sample in samples)
    pairs = tuple(_lazy(loader, given))
    return tuple(sample for sample, _ in pairs), tuple(look for _, look in pairs)


@dataclass(frozen=True, kw_only=True, eq=False)
class LazySample:
    """A sample that is asked for again whenever its pixels are needed."""

    name: str
    group: str
    split: str
    facts: Mapping[str, str]
    digest: str
    labelled: bool
    read: Callable[[], ArraySample] = field(repr=False)

    def read_inputs(self) -> Mapping[str, NDArray[Any]]:
        """Return the inputs.

        Raises:
            DataError: They are not those of the first time.
        """
        inputs = self.read().read_inputs()
        if digest_of(inputs) != self.digest:
            raise DataError(
                f"sample {self.name} is another one when it is asked for again; what gives "
                "samples for quantization must not be random (no augmentation)"
            )
        return inputs

    def has_reference(self, _task: Task, /) -> bool:
        """Return whether there is a reference."""
        return self.labelled

    def read_reference(self, _task: Task, /) -> Reference | None:
        """Return the reference."""
        return self.read().reference


def _called(loader: str) -> Any:
    module, _, name = loader.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)  # last: a folder `onnx` here must not hide the package from asdic
    try:
        function = getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise DataError(f"{loader} cannot be imported: {_first_line(error)}") from error
    except AttributeError as error:
        raise DataError(f"there is no {name!r} in {module}") from error
    except Exception as error:
        raise _failure(loader, error) from error
    try:
        return function()
    except Exception as error:
        raise _failure(loader, error) from error


def _is_iterable(given: Any) -> bool:
    return isinstance(given, Iterable)


def _held(loader: str, given: Iterable[Any]) -> Iterator[ArraySample]:
    held = 0
    for number, one in enumerate(islice(_safely(loader, given), SAMPLE_LIMIT + 1)):
        sample = _parsed(loader, number, one)
        held += sum(array.nbytes for array in sample.read_inputs().values())
        if held > HELD_LIMIT_BYTES or number == SAMPLE_LIMIT:
            raise DataError(
                f"{loader} gives more than {HELD_LIMIT_BYTES >> 30} GiB or {SAMPLE_LIMIT} samples; "
                "let it return an object with __len__ and __getitem__ that reads one at a time"
            )
        yield sample


def _safely(loader: str, given: Iterable[Any]) -> Iterator[Any]:
    """Yield from a person's own iterator, and say whose error it is."""
    try:
        yield from given
    except Exception as error:
        raise _failure(loader, error) from error


def _lazy(loader: str, given: Any) -> Iterator[tuple[LazySample, Look]]:
    try:
        count = len(given)
    except Exception as error:
        raise _failure(loader, error) from error
    if count > SAMPLE_LIMIT:
        raise DataError(f"{loader} gives {count} samples, at most {SAMPLE_LIMIT} are accepted")
    for number in range(count):

        def read(number: int = number) -> ArraySample:
            try:
                one = given[number]
            except Exception as error:
                raise _failure(f"{loader}, sample {number},", error) from error
            return _parsed(loader, number, one)

        yield _looked_at(read, number, compares=count <= COMPARED_LIMIT)


def _looked_at(
    read: Callable[[], ArraySample], number: int, *, compares: bool
) -> tuple[LazySample, Look]:
    try:
        sample = read()
    except DataError as error:
        sample, look = ArraySample(inputs={}, name=str(number)), Look(problem=str(error))
    else:
        look = look_at(sample, compares=compares)
    lazy = LazySample(
        name=sample.name,
        group=sample.group,
        split=sample.split,
        facts=sample.facts,
        digest=look.digest,
        labelled=sample.reference is not None,
        read=read,
    )
    return lazy, look


def _parsed(loader: str, number: int, one: Any) -> ArraySample:
    """Return a sample from the forms that a loader may give it in."""
    match one:
        case ArraySample():
            values = {name: getattr(one, name) for name in _FIELDS}
        case Mapping():
            values = dict(one)
        case (inputs, reference):
            values = {"inputs": inputs, "reference": reference}
        case _:
            values = {"inputs": one}
    where = f"{loader}, sample {number}"
    if unknown := [str(name) for name in values if name not in _FIELDS]:
        raise DataError(
            f"{where}, has the unknown field {', '.join(unknown)}; a sample has "
            f"{', '.join(_FIELDS)}"
        )
    try:
        return _sample(number, **values)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{where}, is no sample: {_first_line(error)}") from error


def _sample(
    number: int,
    *,
    inputs: Any,
    reference: Any = None,
    group: Any = "",
    split: Any = "",
    facts: Any = None,
    name: str = "",
) -> ArraySample:
    by_name = inputs if isinstance(inputs, Mapping) else {"": inputs}
    return ArraySample(
        inputs={str(key): _numbers(array) for key, array in by_name.items()},
        reference=None if reference is None else plain_reference(reference),
        group="" if group is None else str(group),
        split=split_named(split),
        facts={str(key): str(value) for key, value in (facts or {}).items()},
        name=str(name) or str(number),
    )


def _numbers(value: Any) -> NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        raise DataError(f"an input is an array of numbers, not {array.dtype}")
    return array


def _failure(what: str, error: Exception) -> DataError:
    return DataError(f"{what} failed: {type(error).__name__}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no reason given"])[0]
