"""Torch models: exported programs, TorchScript, and a factory with a file of weights.

Nothing here unpickles: each reader takes tensors and code of its own format only. Importing torch
takes seconds, so this runs in a worker.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import os
import pickle
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final

from asdic.contract.errors import ConfigError, MissingPackageError, UnsupportedModelError
from asdic.contract.variant import TensorSpec
from asdic.quantization.frontends.found import Found
from asdic.quantization.frontends.shapes import Shapes, check_names, fixed_shape
from asdic.quantization.kinds import SourceKind

_WEIGHTS_ONLY: Final = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
PROGRAM_FILE: Final = "model.pt2"
DEFAULT_SIZE: Final = (256, 256)
_IMAGE_CHANNELS: Final = frozenset({1, 3})
_ANSWERS: Final = {4: "mask", 2: "scores"}


def read_program(path: Path) -> Any:
    """Return the exported program in a ``.pt2`` file.

    Raises:
        ConfigError: The file is missing or damaged.
        MissingPackageError: torch is not installed.
    """
    torch = _torch()
    if not path.is_file():
        raise ConfigError(f"the model's weights {path} are missing")
    _check_program(path)
    try:
        with _quiet(), _tensors_only():
            return torch.export.load(path)
    except Exception as error:  # torch raises whatever its reader stumbles over
        raise ConfigError(f"{path} is not an exported program: {first_line(error)}") from error


def write_program(program: Any, path: Path) -> None:
    """Write an exported program as a ``.pt2`` file."""
    with _quiet():
        _torch().export.save(program, path)


def from_program(path: Path, folder: Path, shapes: Shapes) -> Found:
    """Read a ``.pt2`` file; one that leaves sides of its inputs open is exported anew.

    Raises:
        ConfigError: It is no exported program, or a shape does not fit it.
        UnsupportedModelError: A side is open and no shape was given.
    """
    program = read_program(path)
    specs, notes = _program_inputs(program, shapes)
    return _written(path, program.module(), specs, folder, notes)


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
    _check_torchscript(path)
    torch = _torch()
    try:
        with _quiet():
            scripted = torch.jit.load(str(path), map_location="cpu").eval()
    except RuntimeError as error:
        raise ConfigError(f"{path} is not a TorchScript file: {first_line(error)}") from error
    names = _argument_names(scripted)
    check_names(shapes, names)
    specs = _torchscript_inputs(path, scripted, names, shapes, size or DEFAULT_SIZE)
    program = _converted(path, scripted, [torch.zeros(spec.shape) for spec in specs])
    # The converter leaves height and width open; devices want them fixed.
    return _written(path, program.module(), specs, folder, ())


def from_factory(factory: str, weights: Path | None, folder: Path, shapes: Shapes) -> Found:
    """Build a model by the user's own function, ``package.module:function``, and load weights.

    Args:
        factory: Called without arguments, it returns a ``torch.nn.Module``. It is the user's own
            code, and runs as such.
        weights: A file with its state dict (``torch.save(model.state_dict(), ...)``); None leaves
            the weights that the function made.
        folder: Where the exported program goes.
        shapes: Of all inputs of its ``forward``.

    Raises:
        ConfigError: The function is not there or fails, the weights are no state dict or another
            model's, or a shape is missing.
        UnsupportedModelError: torch cannot export the model.
    """
    torch = _torch()
    model = _made(factory, torch)
    if weights is not None:
        _load_weights(model, weights, torch)
    names = _argument_names(model)
    check_names(shapes, names)
    if missing := [name for name in names if name not in shapes and "" not in shapes]:
        raise ConfigError(f"{factory} takes {missing[0]!r}; give its shape with --input-shape")
    specs = [TensorSpec(name=name, shape=shapes.get(name) or shapes[""]) for name in names]
    return _written(Path(factory.replace(":", ".")), model.eval(), specs, folder, ())


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _written(
    path: Path,
    module: Any,
    specs: Sequence[TensorSpec],
    folder: Path,
    notes: tuple[str, ...],
) -> Found:
    """Export ``module`` for fixed shapes, write the program, and say what it answers."""
    torch = _torch()
    examples = tuple(torch.zeros(spec.shape) for spec in specs)
    try:
        with _quiet():
            program = torch.export.export(module, examples)
            with torch.no_grad():
                answers = program.module()(*examples)
    except Exception as error:
        raise UnsupportedModelError(
            f"{path} cannot be brought into an exported program: {first_line(error)}"
        ) from error
    answers = list(answers) if isinstance(answers, list | tuple) else [answers]
    if not all(isinstance(answer, torch.Tensor) for answer in answers):
        raise UnsupportedModelError(
            f"{path} answers {type(answers[0]).__name__}; asdic takes a tensor or several"
        )
    write_program(program, folder / PROGRAM_FILE)
    return Found(
        kind=SourceKind.PROGRAM,
        files=(PROGRAM_FILE,),
        inputs=tuple(specs),
        outputs=_named_answers([tuple(answer.shape) for answer in answers]),
        layout="nchw",
        notes=notes,
    )


def _named_answers(shapes: Sequence[tuple[int, ...]]) -> tuple[TensorSpec, ...]:
    """Name the answers, which have no names in torch."""
    if len(shapes) == 1:
        return (TensorSpec(name=_ANSWERS.get(len(shapes[0]), "output"), shape=shapes[0]),)
    return tuple(
        TensorSpec(name=f"output_{number}", shape=shape) for number, shape in enumerate(shapes)
    )


def _program_inputs(program: Any, shapes: Shapes) -> tuple[list[TensorSpec], tuple[str, ...]]:
    names = list(program.graph_signature.user_inputs)
    check_names(shapes, names)
    stated = {
        node.name: [side if isinstance(side, int) else str(side) for side in node.meta["val"].shape]
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in names
    }
    specs, notes = [], []
    for name in names:
        shape, note = fixed_shape(name, stated[name], shapes, only=len(names) == 1)
        specs.append(TensorSpec(name=name, shape=shape))
        notes.append(note)
    return specs, tuple(note for note in notes if note)


def _check_program(path: Path) -> None:
    """Refuse what is no archive, and one with objects that only unpickling would bring back."""
    if not zipfile.is_zipfile(path):
        raise ConfigError(
            f"{path} is not an exported program; save it with torch.export.save (plain pickles "
            "are not opened)"
        )
    with zipfile.ZipFile(path) as archive:
        names = [PurePosixPath(name) for name in archive.namelist()]
    if objects := [name.name for name in names if name.name.startswith("custom_obj")]:
        raise ConfigError(f"{path} holds the object {objects[0]}; asdic reads tensors only")


@contextmanager
def _tensors_only() -> Iterator[None]:
    """Let torch unpickle tensors and nothing else.

    ``torch.export.load`` tries ``weights_only=True`` and falls back to running whatever a pickle
    inside of the archive says (torch 2.13). This switch of ``torch.load`` outranks its callers.
    """
    before = os.environ.get(_WEIGHTS_ONLY)
    os.environ[_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_WEIGHTS_ONLY]
        else:
            os.environ[_WEIGHTS_ONLY] = before


def _check_torchscript(path: Path) -> None:
    """Refuse what is not a TorchScript archive, a pickle in disguise above all."""
    if not zipfile.is_zipfile(path):
        raise ConfigError(
            f"{path} is not a TorchScript file; save the model with torch.jit.save or "
            "torch.export.save (plain pickles are not opened)"
        )
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    has_code = any("/code/" in name for name in names)
    has_constants = any(name.endswith("/constants.pkl") for name in names)
    if not (has_code and has_constants):
        raise ConfigError(
            f"{path} holds weights without code (a state dict or a pickled module); save the "
            "model with torch.jit.save, or give package.module:factory and --weights"
        )


def _argument_names(module: Any) -> list[str]:
    """Return the names of the arguments that a module's ``forward`` has to be given."""
    if isinstance(module, _torch().jit.ScriptModule):
        arguments = module.forward.schema.arguments[1:]
        return [one.name for one in arguments if not one.has_default_value()]
    parameters = inspect.signature(module.forward).parameters.values()
    return [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind in {one.POSITIONAL_OR_KEYWORD, one.POSITIONAL_ONLY}
    ]


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
        with _quiet():
            return TS2EPConverter(scripted, tuple(examples)).convert()
    except Exception as error:
        raise UnsupportedModelError(
            f"{path} cannot be brought into an exported program: {first_line(error)}"
        ) from error
    finally:
        logger.setLevel(level)


def _made(factory: str, torch: Any) -> Any:
    module, _, function = factory.partition(":")
    try:
        model = getattr(importlib.import_module(module), function)()
    except ImportError as error:
        raise ConfigError(f"{factory} cannot be imported: {first_line(error)}") from error
    except AttributeError as error:
        raise ConfigError(f"there is no {function!r} in {module}: {first_line(error)}") from error
    except Exception as error:  # the user's own function may raise anything
        raise ConfigError(
            f"{factory} failed: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(model, torch.nn.Module):
        raise ConfigError(f"{factory} returned {type(model).__name__}, not a torch.nn.Module")
    return model


def _load_weights(model: Any, weights: Path, torch: Any) -> None:
    if not weights.is_file():
        raise ConfigError(f"there are no weights at {weights}")
    try:
        state = torch.load(weights, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{weights} is damaged, or holds more than weights; save model.state_dict()"
        ) from error
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{weights} holds the weights of another model: {first_line(error)}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep deprecations between torch's own modules off the screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError("torch", "quantize") from error
    return torch
