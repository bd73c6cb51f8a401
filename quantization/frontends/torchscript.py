"""TorchScript files, brought into exported programs.

Nothing here unpickles. Importing torch takes seconds, so this runs in a worker.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from asdic.contract.errors import ConfigError, UnsupportedModelError
from asdic.contract.variant import TensorSpec
from asdic.quantization.frontends.found import Found
from asdic.quantization.frontends.shapes import Shapes, check_names
from asdic.quantization.frontends.sizes import check_size
from asdic.quantization.frontends.torch import exported, import_torch, quiet
from asdic.quantization.refusal import first_line

DEFAULT_SIZE: Final = (256, 256)
_FILE_OPERATORS: Final = re.compile(rb"\b(torch|ops\.aten)\.(save|load|from_file)\b")
_IMAGE_CHANNELS: Final = frozenset({1, 3})


def from_torchscript(
    path: Path, folder: Path, shapes: Shapes, size: tuple[int, int] | None
) -> Found:
    """Read what ``torch.jit.save`` wrote.

    A TorchScript file says nothing about its input: it is ``shapes[""]``, or an image with the
    channels of the first convolution and height and width ``size``.

    Raises:
        ConfigError: The file is something else, a pickle above all, which is not opened.
        UnsupportedModelError: It cannot be brought into an exported program.
    """
    check_size(path)
    _check_torchscript(path)
    torch = import_torch()
    try:
        with quiet():
            scripted = torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise ConfigError(f"{path} is not a TorchScript file: {first_line(error)}") from error
    names = _argument_names(scripted)
    check_names(shapes, names)
    specs = _torchscript_inputs(path, scripted, names, shapes, size or DEFAULT_SIZE)
    program = _converted(path, scripted, [torch.zeros(spec.shape) for spec in specs])
    # The converter leaves height and width open; devices want them fixed.
    return exported(path, program.module(), specs, folder)


def _check_torchscript(path: Path) -> None:
    """Refuse what is not a TorchScript archive, a pickle in disguise above all."""
    if not zipfile.is_zipfile(path):
        raise ConfigError(
            f"{path} is not a TorchScript file; save the model with torch.jit.save or "
            "torch.export.save (plain pickles are not opened)"
        )
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        _check_code(path, archive)
    has_code = any("/code/" in name for name in names)
    has_constants = any(name.endswith("/constants.pkl") for name in names)
    if not (has_code and has_constants):
        raise ConfigError(
            f"{path} holds weights without code (a state dict or a pickled module); save the "
            "model with torch.jit.save, or give package.module:factory and --weights"
        )


def _check_code(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse operators that reach for files: TorchScript is a language, and these are in it."""
    for name in archive.namelist():
        if "/code/" in name and (found := _FILE_OPERATORS.search(archive.read(name))):
            raise ConfigError(f"{path} calls {found[0].decode()}; a model that does is not opened")


def _argument_names(scripted: Any) -> list[str]:
    """Return the names of the arguments that ``forward`` has to be given."""
    arguments = scripted.forward.schema.arguments[1:]
    return [one.name for one in arguments if not one.has_default_value()]


def _torchscript_inputs(
    path: Path, scripted: Any, names: Sequence[str], shapes: Shapes, size: tuple[int, int]
) -> list[TensorSpec]:
    if len(names) == 1 and not shapes:
        shape = (1, _image_channels(scripted), *size)
        return [TensorSpec(name="image", shape=shape)]
    given = {name: shapes.get(name) or shapes.get("") for name in names}
    if missing := [name for name, shape in given.items() if shape is None]:
        raise ConfigError(f"{path} takes {missing[0]!r}; give its shape with --input-shape")
    return [TensorSpec(name=name, shape=shape) for name, shape in given.items() if shape]


def _image_channels(scripted: Any) -> int:
    """Return the input channels of the first convolution, which the input must have."""
    kernels = [value for value in scripted.state_dict().values() if value.ndim == 4]
    channels = int(kernels[0].shape[1]) if kernels else 1
    return channels if channels in _IMAGE_CHANNELS else 1


def _converted(path: Path, scripted: Any, examples: Sequence[Any]) -> Any:
    # The public exporters refuse a TorchScript module without source; this converter, private to
    # torch, gives the same answers bit for bit (tests/integration/test_source.py).
    from torch._export.converter import TS2EPConverter

    logger = logging.getLogger("torch._export")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with quiet():
            return TS2EPConverter(scripted, tuple(examples)).convert()
    except Exception as error:
        raise UnsupportedModelError(
            f"{path} cannot be brought into an exported program: {first_line(error)}"
        ) from error
    finally:
        logger.setLevel(level)
