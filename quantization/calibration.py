"""Which samples calibrate and which judge. They never overlap.

What calibrates comes from the ``train`` split and what judges from ``calib``. That no sample is
on both sides is not believed but looked for: by content, and by what they look like.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.variant import ClassOutput
from asdic.device.metrics import judged_rule
from asdic.device.runner.golden import LABELLED_AT_LEAST
from asdic.device.runner.preprocess import prepare
from asdic.quantization.samples import (
    check_folder_fits,
    inputs_of,
    judged_task,
    reference_of,
    remarks_on,
)
from asdic.training.description import ModelDescription
from asdic.training.duplicates import Likeness, Pair, overlaps
from asdic.training.samples import digest_of, some
from asdic.training.sources import KnownSample, Samples, read_samples

SAMPLES: Final = 64
CASES_LIMIT: Final = 256
"""More judges than this make the interval hardly narrower and the wait long."""

FLIPPING_CASES_LIMIT: Final = 1_024
"""For samples that are right or wrong as a whole: half a point takes 765 of them."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One sample that judges: its name, inputs, and its mask or class number if it has one.

    ``inputs`` are images or arrays as they come in, by the tensor's name. ``facts`` is what else
    is known about the sample, by the column of the user's table (``device``, ``site``).
    """

    name: str
    inputs: Mapping[str, NDArray[Any]]
    reference: NDArray[Any] | None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def given(self) -> NDArray[Any] | Mapping[str, NDArray[Any]]:
        """The inputs as a caller gives them: a single one by itself."""
        return next(iter(self.inputs.values())) if len(self.inputs) == 1 else self.inputs


class DataAudit(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the samples: how many there were, and how many do what.

    ``calibrating`` and ``judging`` are those that were chosen. ``overlapping`` were left out of
    calibration because they show the same as a sample that judges; ``resembling`` are pairs of a
    person's own split that look alike, which nobody took apart. ``constant`` are samples with
    nothing in them (they never calibrate), ``unlabelled`` those that do not judge because others
    have labels, ``unreadable`` those left out. ``drawn`` is whether asdic decided the split.
    """

    seen: int
    calibrating: int
    judging: int
    overlapping: int = 0
    resembling: int = 0
    constant: int = 0
    unlabelled: int = 0
    unreadable: int = 0
    drawn: bool = False


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Calibration tensors (prepared, in the float model's layout), judges, and remarks.

    ``digest`` stands for all of it: same pixels, labels and facts, same digest.
    """

    calibration: tuple[Mapping[str, NDArray[np.float32]], ...]
    cases: tuple[Case, ...]
    labelled: bool
    notes: tuple[str, ...]
    digest: str
    audit: DataAudit | None = None


@dataclass(frozen=True, kw_only=True)
class DataRules:
    """What a person may say about the samples.

    ``group_columns`` are the columns that verdicts are broken down by; without any, all that
    tell a few kinds of samples apart. ``drop_overlap`` leaves samples that show the same as a
    judge out of calibration, and ``skip_unreadable`` a few that cannot be read out of all,
    instead of refusing the data.
    """

    group_columns: tuple[str, ...] = ()
    drop_overlap: bool = False
    skip_unreadable: bool = False


def read_inputs(
    data: Path | str | None,
    description: ModelDescription,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
    rules: DataRules | None = None,
) -> Inputs:
    """Return what calibrates and what judges the model.

    Args:
        data: A folder of images, an ``.npz``, or ``package.module:loader``.
        description: Says how a sample becomes the model's inputs, and what its labels mean.
        samples: How many calibrate, at most.
        seed: Of the choice.
        rules: What a person said about the samples.

    Raises:
        ConfigError: No data are known, or ``samples`` is not positive.
        DataError: There are no samples, they are unreadable (named, counted) or do not fit the
            model, both sides share some, or fewer judge than a device's golden set needs.
    """
    if data is None:
        raise ConfigError("quantizing needs real samples; name them with --data")
    if samples < 1:
        raise ConfigError(f"{samples} calibration samples are too few; give at least 1")
    if Path(data).is_dir():
        check_folder_fits(description, str(data))
    chosen = rules or DataRules()
    found = read_samples(
        data,
        inputs=[spec.name for spec in description.inputs],
        columns=chosen.group_columns,
        skip_unreadable=chosen.skip_unreadable,
    )
    sides = _Sides.of(found, description)
    pairs = _overlaps(found, sides, drop=chosen.drop_overlap)
    dropped = {pair.first for pair in pairs} if chosen.drop_overlap else set()
    random = np.random.default_rng(seed)
    judging = _chosen(sides.judging, _cases_limit(description), random)
    order = _chosen(sides.calibrating, len(sides.calibrating), random)
    calibrating = [number for number in order if number not in dropped][:samples]
    if not calibrating:
        raise DataError(
            f"every sample of the split 'train' in {data} shows the same as one in 'calib'"
        )
    audit = DataAudit(
        seen=len(found.samples) + len(found.unreadable),
        calibrating=len(calibrating),
        judging=len(judging),
        overlapping=len(dropped),
        resembling=len(pairs) - len(dropped),
        constant=sides.constant,
        unlabelled=sides.unlabelled,
        unreadable=len(found.unreadable),
        drawn=found.drawn,
    )
    cases = tuple(_case(found.samples[number], description) for number in judging)
    remarks = remarks_on(found.samples[judging[0]], description)
    return Inputs(
        calibration=tuple(_prepared(found.samples[number], description) for number in calibrating),
        cases=cases,
        labelled=sides.labelled,
        notes=(*remarks, *_notes(found, audit, pairs)),
        digest=_digest_of([found.looks[number].digest for number in calibrating], cases),
        audit=audit,
    )


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """The numbers of the samples that may calibrate, and of those that may judge."""

    calibrating: tuple[int, ...]
    judging: tuple[int, ...]
    labelled: bool
    constant: int
    unlabelled: int

    @classmethod
    def of(cls, found: Samples, description: ModelDescription) -> _Sides:
        """Return the sides; without labels a sample among others that have some is left out."""
        train, calib = (_of_split(found, split) for split in ("train", "calib"))
        task = judged_task(description)
        labelled = tuple(n for n in calib if found.samples[n].has_reference(task))
        fresh = tuple(n for n in train if not found.looks[n].constant)
        if not fresh:
            raise DataError(f"every sample of the split 'train' in {found.where} is constant")
        judging = labelled or calib
        if len(judging) < LABELLED_AT_LEAST:
            raise DataError(
                f"{found.where} has {len(judging)} samples to judge by in its split 'calib', "
                f"at least {LABELLED_AT_LEAST} are needed"
            )
        return cls(
            calibrating=fresh,
            judging=judging,
            labelled=bool(labelled),
            constant=sum(look.constant for look in found.looks),
            unlabelled=len(calib) - len(judging),
        )


def _of_split(found: Samples, split: str) -> tuple[int, ...]:
    numbers = found.of_split(split)
    if not numbers:
        raise DataError(f"{found.where} has no samples in its split {split!r}")
    return numbers


def _cases_limit(description: ModelDescription) -> int:
    rule = judged_rule(description.postprocessing)
    return FLIPPING_CASES_LIMIT if isinstance(rule, ClassOutput) else CASES_LIMIT


def _overlaps(found: Samples, sides: _Sides, *, drop: bool) -> tuple[Pair, ...]:
    """Return the samples that may calibrate beside one that may judge and looks like it.

    Raises:
        DataError: Some certainly show the same, and nobody said that they may be dropped.
    """
    pairs = tuple(_pairs(found, sides))
    same = [pair for pair in pairs if pair.likeness is Likeness.SAME]
    if same and not drop:
        raise DataError(
            f"{len(same)} of {len(sides.calibrating)} samples that calibrate show the same as one "
            f"that judges in {found.where}: {_named(found, same)}; put both on one side (give them "
            "one `split`, in labels.csv or in the samples), or leave those that calibrate out with "
            "--drop-overlap"
        )
    return pairs


def _pairs(found: Samples, sides: _Sides) -> Iterator[Pair]:
    judges: dict[str, int] = {}
    for number in sides.judging:
        judges.setdefault(found.looks[number].digest, number)
    others = []
    for number in sides.calibrating:
        if (twin := judges.get(found.looks[number].digest)) is not None:
            yield Pair(number, twin, 1.0, Likeness.SAME)
        else:
            others.append(number)
    signatures = [
        [found.looks[number].signature for number in side] for side in (others, sides.judging)
    ]
    for pair in overlaps(*signatures):
        yield pair._replace(first=others[pair.first], second=sides.judging[pair.second])


def _chosen(numbers: Sequence[int], limit: int, random: np.random.Generator) -> tuple[int, ...]:
    order = random.permutation(len(numbers))[:limit]
    return tuple(numbers[place] for place in order)


def _prepared(sample: KnownSample, description: ModelDescription) -> dict[str, NDArray[np.float32]]:
    return prepare(inputs_of(sample, description), description.preprocessing)


def _case(sample: KnownSample, description: ModelDescription) -> Case:
    classified = judged_task(description) == "classification"
    return Case(
        name=sample.name,
        inputs=inputs_of(sample, description),
        reference=reference_of(sample, description),
        # The classes of a classifier are slices by themselves.
        facts={k: v for k, v in sample.facts.items() if not (classified and k == "label")},
    )


def _notes(found: Samples, audit: DataAudit, pairs: Sequence[Pair]) -> Iterator[str]:
    if audit.calibrating == 1:
        yield "a single sample calibrates: the ranges are a guess, give more with --samples"
    if audit.overlapping:
        yield (
            f"{audit.overlapping} sample(s) of 'train' show the same as one of 'calib' and do not "
            f"calibrate: {_named(found, pairs)}"
        )
    if audit.resembling:
        yield (
            f"{audit.resembling} sample(s) of 'train' look much like one of 'calib': "
            f"{_named(found, pairs)}; if they show the same, give them one group"
        )
    if audit.constant:
        blank = [
            sample.name
            for sample, look in zip(found.samples, found.looks, strict=True)
            if look.constant
        ]
        yield f"{audit.constant} sample(s) are constant and do not calibrate: {some(blank)}"
    if audit.unlabelled:
        yield f"{audit.unlabelled} sample(s) of 'calib' have no label and do not judge"
    if found.unreadable:
        yield (
            f"{audit.unreadable} sample(s) cannot be used and are left out: "
            f"{some(found.unreadable, separator='; ')}"
        )


def _named(found: Samples, pairs: Sequence[Pair]) -> str:
    """Return the pairs in words, the most alike first."""
    ordered = sorted(pairs, key=lambda pair: (-pair.correlation, pair.first))
    return some(
        [
            f"{found.samples[pair.first].name} and {found.samples[pair.second].name} "
            f"(correlation {pair.correlation:.3f})"
            for pair in ordered
        ]
    )


def _digest_of(calibrating: Sequence[str], cases: Sequence[Case]) -> str:
    state = hashlib.sha256()
    for digest in calibrating:
        state.update(digest.encode())
    for case in cases:
        state.update(digest_of(case.inputs).encode())
        if case.reference is not None:
            state.update(digest_of({"reference": case.reference}).encode())
        state.update(repr(sorted(case.facts.items())).encode())
    return f"sha256:{state.hexdigest()}"
