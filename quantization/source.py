"""A float model as a file of one of three kinds, with what is known about it.

Two kinds of sources are read: the folder of a training run (``model.toml`` and an exported
program), and a bare TorchScript file. A bare file says nothing about its input or its answer, so
what is assumed is said. Nothing here unpickles: both readers take tensors and code of their own
formats only.
"""

from __future__ import annotations

import logging
import warnings
import zipfile
from enum import Enum
from pathlib import Path
from typing import Any, Final

import msgspec

from asdic.contract.errors import ConfigError, MissingPackageError, UnsupportedModelError
from asdic.contract.files import sha256_of
from asdic.contract.variant import ImageInput, MaskOutput, TensorSpec
from asdic.training.description import ModelDescription, read_description

PROGRAM_FILE: Final = "model.pt2"
DEFAULT_SIZE: Final = (256, 256)
_CHANNELS: Final = {1: "grey", 3: "rgb"}


class SourceKind(str, Enum):
    """What a float model is given as: torch's exported program, or a file of another kind."""

    PROGRAM = "exported-program"
    ONNX = "onnx"
    TFLITE = "tflite"


class FloatModel(msgspec.Struct, frozen=True, kw_only=True):
    """A float model: the file that holds it, its description, and what was assumed.

    ``data`` is the folder of images that calibrates and judges it; ``digest`` is that of what
    the user gave (``sha256:<hex>``).
    """

    kind: SourceKind
    path: Path
    description: ModelDescription
    data: Path | None
    digest: str
    assumptions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the model is called in variants and reports."""
        return self.description.name


def read_source(
    path: Path,
    workspace: Path,
    *,
    data: Path | None = None,
    input_shape: tuple[int, int] | None = None,
) -> FloatModel:
    """Return the float model at ``path``.

    Args:
        path: The folder of a training run, or a TorchScript file.
        workspace: A folder for what has to be made of it first.
        data: The folder of images; None takes the one that the run remembers.
        input_shape: Height and width for a TorchScript file; None takes ``DEFAULT_SIZE``.

    Raises:
        ConfigError: There is no model, it is damaged, or of a kind that asdic does not read.
        MissingPackageError: torch is not installed.
        UnsupportedModelError: The TorchScript file cannot be brought into an exported program.
    """
    if path.is_dir():
        return _read_run(path, data)
    if not path.is_file():
        raise ConfigError(f"there is no model at {path}")
    return _read_torchscript(path, workspace, data, input_shape or DEFAULT_SIZE)


def read_program(path: Path) -> Any:
    """Return the exported program in a ``.pt2`` file.

    Raises:
        ConfigError: The file is missing or damaged.
    """
    torch = _torch()
    if not path.is_file():
        raise ConfigError(f"the model's weights {path} are missing")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations between torch's own modules
            return torch.export.load(path)
    except Exception as error:  # torch raises whatever its reader stumbles over
        raise ConfigError(f"{path} is not an exported program: {_first_line(error)}") from error


def write_program(program: Any, path: Path) -> None:
    """Write an exported program as a ``.pt2`` file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _torch().export.save(program, path)


def _read_run(folder: Path, data: Path | None) -> FloatModel:
    description = read_description(folder)
    weights = folder / description.weights
    remembered = Path(description.data) if description.data else None
    read_program(weights)
    return FloatModel(
        kind=SourceKind.PROGRAM,
        path=weights,
        description=description,
        data=data or remembered,
        digest=sha256_of(weights),
    )


def _read_torchscript(
    path: Path, workspace: Path, data: Path | None, size: tuple[int, int]
) -> FloatModel:
    _check_torchscript(path)
    torch = _torch()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            scripted = torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise ConfigError(f"{path} is not a TorchScript file: {_first_line(error)}") from error
    channels = _input_channels(scripted)
    example = torch.zeros(1, channels, *size)
    program = _exported(path, scripted, example)
    classes = _mask_classes(path, program, example)
    write_program(program, workspace / PROGRAM_FILE)
    return FloatModel(
        kind=SourceKind.PROGRAM,
        path=workspace / PROGRAM_FILE,
        description=_assumed_description(path.stem, channels, size, classes),
        data=data,
        digest=sha256_of(path),
        assumptions=_assumptions(channels, size, classes),
    )


def _check_torchscript(path: Path) -> None:
    """Refuse what is not a TorchScript archive, a pickle in disguise above all."""
    if not zipfile.is_zipfile(path):
        raise ConfigError(
            f"{path} is neither a training run nor a TorchScript file; asdic reads a folder "
            "with model.toml, or what torch.jit.save wrote (plain pickles are not opened)"
        )
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    has_code = any("/code/" in name for name in names)
    has_constants = any(name.endswith("/constants.pkl") for name in names)
    if not (has_code and has_constants):
        raise ConfigError(
            f"{path} holds weights without code (a state dict or a pickled module); "
            "save the model with torch.jit.save, or train it with asdic"
        )


def _input_channels(scripted: Any) -> int:
    """Return the input channels of the first convolution, which the input must have."""
    kernels = [value for value in scripted.state_dict().values() if value.ndim == 4]
    channels = int(kernels[0].shape[1]) if kernels else 1
    return channels if channels in _CHANNELS else 1


def _exported(path: Path, scripted: Any, example: Any) -> Any:
    # The public exporters refuse a TorchScript module without source; this converter, private to
    # torch, gives the same answers bit for bit (tests/integration/test_source.py).
    from torch._export.converter import TS2EPConverter

    logger = logging.getLogger("torch._export")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = TS2EPConverter(scripted, (example,)).convert()
            # The converter leaves height and width open; devices want them fixed.
            return _torch().export.export(program.module(), (example,))
    except Exception as error:
        raise UnsupportedModelError(
            f"{path} cannot be brought into an exported program: {_first_line(error)}"
        ) from error
    finally:
        logger.setLevel(level)


def _mask_classes(path: Path, program: Any, example: Any) -> int:
    torch = _torch()
    with torch.no_grad():
        answer = program.module()(example)
    shape = tuple(getattr(answer, "shape", ()))
    if len(shape) != 4 or shape[2:] != tuple(example.shape[2:]):
        raise UnsupportedModelError(
            f"{path} answers {shape or type(answer).__name__} for an input of "
            f"{tuple(example.shape)}; a bare TorchScript file must answer one mask, "
            "(1, classes, H, W). Describe other models in a model.toml"
        )
    return int(shape[1])


def _assumed_description(
    name: str, channels: int, size: tuple[int, int], classes: int
) -> ModelDescription:
    height, width = size
    rule = ImageInput(
        tensor="image", height=height, width=width, color="grey" if channels == 1 else "rgb"
    )
    activation = MaskOutput(tensor="mask", activation="sigmoid" if classes == 1 else "softmax")
    return ModelDescription(
        name=name,
        task="segmentation",
        weights="model.pt2",
        metric="dice",
        inputs=(TensorSpec(name="image", shape=(1, channels, height, width)),),
        outputs=(TensorSpec(name="mask", shape=(1, classes, height, width)),),
        preprocessing=(rule,),
        postprocessing=(activation,),
    )


def _assumptions(channels: int, size: tuple[int, int], classes: int) -> tuple[str, ...]:
    squash = "sigmoid" if classes == 1 else "softmax"
    return (
        f"the input is one {_CHANNELS[channels]} image of {size[0]}x{size[1]} pixels "
        "with values in [0, 1]",
        f"the answer is a mask: {classes} channel(s) of logits, {squash}",
    )


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError("torch", "quantize") from error
    return torch


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
