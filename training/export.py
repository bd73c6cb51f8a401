"""A trained network on disk: everything that the quantizer and a later run need.

A run's folder holds ``model.toml`` (the description), ``model.pt2`` (the exported program),
``weights.pt`` (to train further) and ``metrics.json`` (how it came about and how good it is).
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Final

import msgspec
import torch
from torch import nn

from asdic.contract.errors import ConfigError
from asdic.contract.files import new_folder
from asdic.contract.variant import ImageInput, MaskOutput, TensorSpec
from asdic.training.description import DESCRIPTION_FILE, ModelDescription, write_description

PROGRAM_FILE: Final = "model.pt2"
WEIGHTS_FILE: Final = "weights.pt"
METRICS_FILE: Final = "metrics.json"
WEIGHTS_LIMIT_BYTES: Final = 1 << 30


class TrainingMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """How a run went. ``dice`` and ``baseline`` are points on the lesion images of ``calib``.

    ``images`` counts those learnt from, ``held_back`` those that chose the best epoch.
    """

    dice: float
    baseline: float
    lesion_images: int
    empty_images: int
    false_alarm_percent: float | None
    epochs: int
    best_epoch: int
    seconds: float
    images: int
    held_back: int
    parameters: int
    size: tuple[int, int]
    seed: int
    resumed_from: str | None = None


def segmentation_description(*, name: str, size: tuple[int, int], data: str) -> ModelDescription:
    """Return the description of a network from one grey image to one channel of logits.

    Args:
        name: What the model is called.
        size: Height and width of its input.
        data: The folder that it learnt from, or empty.
    """
    shape = (1, 1, *size)
    return ModelDescription(
        name=name,
        task="segmentation",
        weights=PROGRAM_FILE,
        data=data,
        inputs=(TensorSpec(name="image", shape=shape),),
        outputs=(TensorSpec(name="logits", shape=shape),),
        preprocessing=(ImageInput(tensor="image", height=size[0], width=size[1]),),
        postprocessing=(MaskOutput(tensor="logits"),),
    )


def export_model(
    network: nn.Module,
    folder: Path,
    description: ModelDescription,
    *,
    metrics: TrainingMetrics | None = None,
    replace: bool = False,
) -> None:
    """Write a run's folder, as a whole or not at all.

    Args:
        network: It is exported in evaluation mode, for the shapes of the description's inputs.
        folder: Where to; it must not exist, unless it is a run and ``replace`` is set.
        description: What goes into ``model.toml``.
        metrics: What goes into ``metrics.json``.
        replace: Whether an older run in ``folder`` is given up.

    Raises:
        ConfigError: The folder is in the way.
    """
    check_free(folder, replace=replace)
    with new_folder(folder, replace=replace) as temporary:
        _save_program(network, temporary / description.weights, description)
        torch.save(network.state_dict(), temporary / WEIGHTS_FILE)
        write_description(temporary, description)
        if metrics is not None:
            data = msgspec.json.format(msgspec.json.encode(metrics), indent=2)
            (temporary / METRICS_FILE).write_bytes(data + b"\n")


def check_free(folder: Path, *, replace: bool = False) -> None:
    """Check that a run can be written to ``folder``, best done before hours of training.

    Raises:
        ConfigError: It exists, and is not a run or must not be replaced.
    """
    if not folder.exists():
        return
    if not (folder / DESCRIPTION_FILE).is_file():
        raise ConfigError(f"{folder} exists and is not a trained model; choose another folder")
    if not replace:
        raise ConfigError(f"{folder} holds a trained model; choose another folder or replace it")


def read_weights(network: nn.Module, folder: Path) -> None:
    """Put the weights of the run in ``folder`` into ``network``.

    Raises:
        ConfigError: There are none, they are damaged, or they are another network's.
    """
    path = folder / WEIGHTS_FILE
    if not path.is_file():
        raise ConfigError(f"{folder} holds no weights to begin with ({WEIGHTS_FILE} is missing)")
    if path.stat().st_size > WEIGHTS_LIMIT_BYTES:
        raise ConfigError(f"{path} is larger than the {WEIGHTS_LIMIT_BYTES} bytes allowed for it")
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise ConfigError(f"{path} is damaged, or holds more than weights") from error
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} holds the weights of another network") from error


def _save_program(network: nn.Module, path: Path, description: ModelDescription) -> None:
    examples = tuple(torch.zeros(tensor.shape) for tensor in description.inputs)
    program = torch.export.export(network.eval(), examples)
    torch.export.save(program, path)
