"""A float model of any origin as a file of one of three kinds, with what is known about it.

A model comes as the folder of a training run or of a description (``model.toml``), as a bare file,
or as ``package.module:factory``. A bare file says little about its input and its answer, so what
is assumed is said. Nothing here unpickles.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from asdic.contract.errors import ConfigError
from asdic.contract.files import sha256_of
from asdic.quantization.frontends.found import Found, describe
from asdic.quantization.job import FrontEnd, ReadJob, Workers
from asdic.quantization.kinds import FloatModel, SourceKind
from asdic.training.description import DESCRIPTION_FILE, ModelDescription, read_description

_SAVED_MODEL: Final = "saved_model.pb"
_FRONT_ENDS: Final = MappingProxyType(
    {
        ".pt2": FrontEnd.PROGRAM,
        ".pt": FrontEnd.TORCHSCRIPT,
        ".pth": FrontEnd.TORCHSCRIPT,
        ".ts": FrontEnd.TORCHSCRIPT,
        ".onnx": FrontEnd.ONNX,
        ".tflite": FrontEnd.TFLITE,
        ".keras": FrontEnd.KERAS,
    }
)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What a person may say about a model that it does not say itself.

    ``shapes`` are input shapes by name ("" for the only input), ``size`` height and width of the
    image that a TorchScript file takes, ``weights`` the state dict of a factory's model.
    """

    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    weights: Path | None = None


def read_source(
    model: Path | str,
    workspace: Path,
    *,
    data: Path | str | None = None,
    reading: Reading | None = None,
    workers: Workers | None = None,
) -> FloatModel:
    """Return the float model that ``model`` names.

    Args:
        model: A folder with ``model.toml``, a SavedModel's folder, a file (``.pt2``, ``.pt``,
            ``.onnx``, ``.keras``, ``.tflite``), or ``package.module:factory``.
        workspace: A folder for what has to be made of it first.
        data: What calibrates and judges it; None takes what the description remembers.
        reading: What the model does not say itself.
        workers: Read it where the front end is slow to import.

    Raises:
        ConfigError: There is no model, it is damaged, of a kind that asdic does not read, or its
            description does not fit it.
        MissingPackageError: A front end's package is not installed.
        UnsupportedModelError: The model cannot be read without more being said, or at all.
    """
    asked = reading or Reading()
    text = str(model)
    path = Path(text)
    if not path.exists() and ":" in text:
        return _from_factory(text, workspace, data, asked, workers or Workers())
    if not path.exists():
        raise ConfigError(f"there is no model at {path}")
    description, weights = _described(path)
    if description is not None and description.factory:
        chosen = Reading(shapes=_described_shapes(description), weights=weights)
        found, folder = _read(
            FrontEnd.FACTORY, weights, workspace, chosen, workers, factory=description.factory
        )
        return _model(description, found, folder, weights, data)
    front_end = _front_end(weights)
    if description is not None and front_end is FrontEnd.PROGRAM:
        return FloatModel(
            kind=SourceKind.PROGRAM,
            path=weights,
            description=description,
            data=_data(data, description),
            digest=_digest(weights),
        )
    if description is not None and not asked.shapes:
        asked = Reading(shapes=_described_shapes(description), size=asked.size)
    found, folder = _read(front_end, weights, workspace, asked, workers)
    return _model(description, found, folder, weights, data)


def _described(path: Path) -> tuple[ModelDescription | None, Path]:
    """Return the description of what lies at ``path``, if there is one, and the model's file."""
    if path.is_dir() and (path / DESCRIPTION_FILE).is_file():
        description = read_description(path)
        weights = path / description.weights
        if not weights.exists():
            raise ConfigError(f"the model's weights {weights} are missing")
        return description, weights
    if path.is_file() and (path.parent / DESCRIPTION_FILE).is_file():
        description = read_description(path.parent)
        if description.weights == path.name:
            return description, path
    return None, path


def _front_end(path: Path) -> FrontEnd:
    if path.is_dir():
        if (path / _SAVED_MODEL).is_file():
            return FrontEnd.SAVED_MODEL
        raise ConfigError(
            f"{path} holds neither {DESCRIPTION_FILE} nor {_SAVED_MODEL}; asdic reads the folder "
            "of a training run or of a SavedModel"
        )
    front_end = _FRONT_ENDS.get(path.suffix.lower())
    if front_end is None:
        raise ConfigError(
            f"{path} is of a kind that asdic does not read; it reads {', '.join(_FRONT_ENDS)}, "
            "folders with model.toml, SavedModels and package.module:factory"
        )
    return front_end


def _described_shapes(description: ModelDescription) -> dict[str, tuple[int, ...]]:
    if len(description.inputs) == 1:  # whatever the file calls it
        return {"": description.inputs[0].shape}
    return {spec.name: spec.shape for spec in description.inputs}


def _read(
    front_end: FrontEnd,
    path: Path,
    workspace: Path,
    reading: Reading,
    workers: Workers | None,
    *,
    factory: str = "",
) -> tuple[Found, Path]:
    folder = workspace / "source"
    job = ReadJob(
        front_end=front_end,
        path=path.resolve(),
        factory=factory,
        weights=reading.weights.resolve() if reading.weights else None,
        digest=_digest(path) if path.exists() else "",
        shapes=dict(reading.shapes),
        size=reading.size,
    )
    return (workers or Workers()).read(job, folder), folder


def _model(
    description: ModelDescription | None,
    found: Found,
    folder: Path,
    weights: Path,
    data: Path | str | None,
) -> FloatModel:
    assumptions = found.notes
    if description is None:
        description, assumptions = describe(weights.stem, found)
    else:
        _check_fit(description, found, weights)
    return FloatModel(
        kind=found.kind,
        path=folder / found.files[0],
        description=description,
        data=_data(data, description),
        digest=_digest(weights),
        assumptions=assumptions,
    )


def _from_factory(
    factory: str, workspace: Path, data: Path | str | None, reading: Reading, workers: Workers
) -> FloatModel:
    place = Path(factory.partition(":")[2])
    found, folder = _read(
        FrontEnd.FACTORY, reading.weights or place, workspace, reading, workers, factory=factory
    )
    description, assumptions = describe(place.name, found)
    return FloatModel(
        kind=found.kind,
        path=folder / found.files[0],
        description=description,
        data=_data(data, description),
        digest=sha256_of(folder / found.files[0]),
        assumptions=assumptions,
    )


def _check_fit(description: ModelDescription, found: Found, weights: Path) -> None:
    """Check that a person's description and the file speak of the same tensors, in order."""
    for what, said, real in (
        ("inputs", description.inputs, found.inputs),
        ("outputs", description.outputs, found.outputs),
    ):
        if [spec.shape for spec in said] != [spec.shape for spec in real]:
            raise ConfigError(
                f"model.toml gives {weights.name} the {what} "
                f"{', '.join(f'{one.name} {one.shape}' for one in said)}; the file has "
                f"{', '.join(f'{one.name} {one.shape}' for one in real)}"
            )


def _data(data: Path | str | None, description: ModelDescription) -> str | None:
    return str(data) if data else description.data or None


def _digest(path: Path) -> str:
    """Return the digest of a file, or of all files of a folder by their names."""
    if path.is_file():
        return sha256_of(path)
    state = hashlib.sha256()
    for file in sorted(path.rglob("*")):
        if file.is_file():
            state.update(f"{file.relative_to(path)} {sha256_of(file)}\n".encode())
    return f"sha256:{state.hexdigest()}"
