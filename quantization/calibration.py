"""Which images calibrate and which judge. They never overlap.

Calibration images come from the ``train`` split and judges from ``calib``. Groups of resembling
images are kept apart by the data set; here the pixels themselves are compared once more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.variant import ClassOutput, ImageInput
from asdic.device.runner.golden import LABELLED_AT_LEAST
from asdic.device.runner.preprocess import prepare
from asdic.training.data import Sample, read_dataset
from asdic.training.description import ModelDescription

SAMPLES: Final = 64
CASES_LIMIT: Final = 256
"""More judges than this make the interval hardly narrower and the wait long."""


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


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Calibration tensors (prepared, in the float model's layout), judges, and remarks.

    ``digest`` stands for all of it: same pixels and labels, same digest.
    """

    calibration: tuple[Mapping[str, NDArray[np.float32]], ...]
    cases: tuple[Case, ...]
    labelled: bool
    notes: tuple[str, ...]
    digest: str


def read_inputs(
    data: Path | str | None,
    description: ModelDescription,
    *,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Inputs:
    """Return what calibrates and what judges the model.

    Args:
        data: The folder of images.
        description: Says how an image becomes the model's input, and what its labels mean.
        samples: How many images calibrate, at most.
        seed: Of the choice.

    Raises:
        ConfigError: No folder is known, or ``samples`` is not positive, or the task is one that
            images cannot judge.
        DataError: The folder is empty or holds unreadable files (named, counted), or has fewer
            judges than a device's golden set needs.
    """
    if data is None:
        raise ConfigError("quantizing needs real images; name their folder with --data")
    if samples < 1:
        raise ConfigError(f"{samples} calibration images are too few; give at least 1")
    _check_task(description)
    dataset = read_dataset(Path(data))
    random = np.random.default_rng(seed)
    judges = _chosen(dataset.split("calib"), CASES_LIMIT, random)
    pool = _chosen(dataset.split("train"), len(dataset.samples), random)
    cases, labelled = _cases(judges, description)
    if len(cases) < LABELLED_AT_LEAST:
        raise DataError(
            f"{data} has {len(cases)} images to judge by in its split 'calib', "
            f"at least {LABELLED_AT_LEAST} are needed"
        )
    seen = {_digest(sample.read_image()) for sample in dataset.split("calib")}
    images = [sample.read_image() for sample in pool]
    fresh = [image for image in images if _digest(image) not in seen][:samples]
    if not fresh:
        raise DataError(f"every image of the split 'train' in {data} is also in 'calib'")
    return Inputs(
        calibration=tuple(_prepared(image, description) for image in fresh),
        cases=cases,
        labelled=labelled,
        notes=_notes(fresh, skipped=sum(_digest(image) in seen for image in images)),
        digest=_digest_of(fresh, cases),
    )


def _check_task(description: ModelDescription) -> None:
    rules = description.preprocessing
    if len(rules) != 1 or not isinstance(rules[0], ImageInput):
        raise ConfigError(
            f"{description.name} takes {len(rules)} input(s); asdic quantizes models that take "
            "one image"
        )
    if description.task not in {"segmentation", "classification"}:
        raise ConfigError(
            f"{description.name} has the task {description.task!r}; asdic judges segmentation "
            "and classification"
        )


def _chosen(
    samples: Sequence[Sample], limit: int, random: np.random.Generator
) -> tuple[Sample, ...]:
    order = random.permutation(len(samples))[:limit]
    return tuple(samples[number] for number in order)


def _prepared(
    image: NDArray[np.uint8], description: ModelDescription
) -> dict[str, NDArray[np.float32]]:
    rules = description.preprocessing
    return prepare({rules[0].tensor: image}, rules)


def _cases(
    samples: Sequence[Sample], description: ModelDescription
) -> tuple[tuple[Case, ...], bool]:
    """Return the judges, and whether they have labels; one without, among others, is left out."""
    cases = [
        Case(
            name=one.name,
            inputs={description.preprocessing[0].tensor: one.read_image()},
            reference=_reference(one, description),
        )
        for one in samples
    ]
    with_labels = tuple(case for case in cases if case.reference is not None)
    return (with_labels, True) if with_labels else (tuple(cases), False)


def _reference(sample: Sample, description: ModelDescription) -> NDArray[Any] | None:
    if description.task == "segmentation":
        return sample.read_mask()
    rule = next(one for one in description.postprocessing if isinstance(one, ClassOutput))
    if sample.label is None:
        return None
    if sample.label not in rule.labels:
        known = ", ".join(rule.labels) or "no labels"
        raise DataError(f"{sample.name} has the label {sample.label!r}; the model knows {known}")
    return np.array(rule.labels.index(sample.label))


def _notes(images: Sequence[NDArray[np.uint8]], *, skipped: int) -> tuple[str, ...]:
    notes = []
    if len(images) == 1:
        notes.append("a single image calibrates: the ranges are a guess, give more with --samples")
    if skipped:
        notes.append(f"{skipped} image(s) of 'train' are also in 'calib' and do not calibrate")
    return tuple(notes)


def _digest(image: NDArray[Any]) -> bytes:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()


def _digest_of(images: Sequence[NDArray[np.uint8]], cases: Sequence[Case]) -> str:
    state = hashlib.sha256()
    for image in images:
        state.update(_digest(image))
    for case in cases:
        for name in sorted(case.inputs):
            state.update(_digest(case.inputs[name]))
        state.update(b"" if case.reference is None else _digest(case.reference))
    return f"sha256:{state.hexdigest()}"
