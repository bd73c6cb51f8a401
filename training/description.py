"""The description of a trained model: ``model.toml`` beside its weights.

It says how the runner must prepare an image and read the answer, so that the quantizer needs no
options. A person may edit it; a key that asdic does not know is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import msgspec

from asdic.contract.errors import ConfigError, DigestError, MissingPackageError
from asdic.contract.files import read_bounded, safe_name, write_file
from asdic.contract.variant import (
    InputRule,
    OutputRule,
    Requirements,
    TensorSpec,
    check_needs,
)

DESCRIPTION_FILE: Final = "model.toml"
DESCRIPTION_FORMAT: Final = "asdic-model/1"
DESCRIPTION_LIMIT_BYTES: Final = 1 << 20


class ModelDescription(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a trained model is: its weights, its tensors, and the way in and out of them.

    ``weights`` is a file beside ``model.toml``, or a SavedModel's folder; with ``factory``
    (``package.module:function``) it is the state dict of the model that the function builds.
    ``data`` is the folder that the model learnt from, or empty. ``metric`` is what it is judged
    by, in points from 0 to 100. ``requires`` is what every variant needs of the box that it runs
    on: the firmware beside it, and the frames that come.
    """

    format: str = DESCRIPTION_FORMAT
    name: str
    task: Literal["segmentation", "classification", "raw"]
    weights: str
    factory: str = ""
    data: str = ""
    metric: str = "dice"
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocessing: tuple[InputRule, ...]
    postprocessing: tuple[OutputRule, ...]
    requires: Requirements = Requirements()


def read_description(folder: Path) -> ModelDescription:
    """Return the description in ``folder``.

    Raises:
        ConfigError: There is none, it is not valid TOML, holds an unknown key or a wrong value,
            or its rules name a tensor that the model does not have.
    """
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} holds no trained model ({DESCRIPTION_FILE} is missing)")
    data = read_bounded(path, DESCRIPTION_LIMIT_BYTES)
    try:
        raw: object = msgspec.toml.decode(data)
        description = msgspec.convert(raw, ModelDescription)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is wrong: {error}") from error
    if unknown := next(_unknown_keys(raw, msgspec.to_builtins(description)), None):
        raise ConfigError(f"{path} has the unknown key {unknown}")
    _check(description, str(path))
    return description


def write_description(folder: Path, description: ModelDescription) -> None:
    """Write ``model.toml`` into ``folder``, in one step.

    Raises:
        ConfigError: The description contradicts itself.
        MissingPackageError: tomli-w is not installed.
    """
    path = folder / DESCRIPTION_FILE
    _check(description, str(path))
    try:
        data = msgspec.toml.encode(_without_none(msgspec.to_builtins(description)))
    except ImportError as error:
        raise MissingPackageError("tomli-w", "train") from error
    write_file(path, data)


def _without_none(value: object) -> object:
    """Return plain values without those that are None, for which TOML has no word."""
    match value:
        case dict():
            kept = {key: _without_none(one) for key, one in value.items() if one is not None}
            return {key: one for key, one in kept.items() if one != {} or value[key] == {}}
        case list() | tuple():
            return [_without_none(one) for one in value]
        case _:
            return value


def _check(description: ModelDescription, where: str) -> None:
    if description.format != DESCRIPTION_FORMAT:
        raise ConfigError(
            f"{where} has format {description.format!r}, this asdic reads {DESCRIPTION_FORMAT!r}"
        )
    try:
        safe_name(description.weights)
    except DigestError as error:
        raise ConfigError(f"{where}: weights must be a file beside it: {error}") from error
    check_needs(description.requires, what=where)
    _check_rules(description.preprocessing, description.inputs, f"{where} preprocessing")
    _check_rules(description.postprocessing, description.outputs, f"{where} postprocessing")


def _check_rules(
    rules: Sequence[InputRule | OutputRule], tensors: Sequence[TensorSpec], where: str
) -> None:
    names = sorted(tensor.name for tensor in tensors)
    ruled = sorted(rule.tensor for rule in rules)
    if names != ruled:
        raise ConfigError(
            f"{where} speaks of the tensors {', '.join(ruled) or 'none'}; "
            f"the model has {', '.join(names) or 'none'}, each needs one rule"
        )


def _unknown_keys(raw: object, known: object, where: str = "") -> Iterator[str]:
    """Yield the keys of ``raw`` that are not in ``known``, which holds every field there is.

    The contract's types ignore unknown fields, as wire messages must; a person's file must not.
    """
    match raw, known:
        case dict(), dict():
            for key, value in raw.items():
                if key not in known:
                    yield f"{where}{key}"
                else:
                    yield from _unknown_keys(value, known[key], f"{where}{key}.")
        case list(), list() | tuple():
            for index, (left, right) in enumerate(zip(raw, known, strict=True)):
                yield from _unknown_keys(left, right, f"{where}{index}.")
        case _:
            return
