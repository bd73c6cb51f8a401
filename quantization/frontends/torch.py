"""Exported programs of torch, which is what every torch model becomes.

Nothing here unpickles, nor runs what a file says. Importing torch takes seconds, so this runs in
a worker.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from asdic.contract.errors import ConfigError, MissingPackageError, UnsupportedModelError
from asdic.contract.variant import TensorSpec
from asdic.quantization.frontends.found import Found
from asdic.quantization.frontends.innocent import check_innocent
from asdic.quantization.frontends.shapes import Dimension, Shapes, check_names, fixed_shape
from asdic.quantization.frontends.sizes import check_size
from asdic.quantization.kinds import SourceKind
from asdic.quantization.refusal import first_line

_WEIGHTS_ONLY: Final = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
PROGRAM_FILE: Final = "model.pt2"
_ANSWERS: Final = {4: "mask", 2: "scores"}


def read_program(path: Path) -> Any:
    """Return the exported program in a ``.pt2`` file.

    Raises:
        ConfigError: The file is missing or damaged.
        MissingPackageError: torch is not installed.
    """
    torch = import_torch()
    if not path.is_file():
        raise ConfigError(f"the model's weights {path} are missing")
    check_size(path)
    check_innocent(path)
    try:
        with quiet(), _tensors_only():
            program = torch.export.load(path)
            program._guards_code = []  # Python that module() would run; shapes are fixed anyway
            return program
    except Exception as error:  # torch raises whatever its reader stumbles over
        raise ConfigError(f"{path} is not an exported program: {first_line(error)}") from error


def program_of(path: Path, inputs: Sequence[TensorSpec]) -> Any:
    """Return the exported program at ``path`` for inputs of fixed shapes, given in its order.

    A program that leaves sides open is exported anew.

    Raises:
        ConfigError: It is damaged, or takes something else.
        UnsupportedModelError: torch cannot export it for these shapes.
    """
    program = read_program(path)
    stated = _stated_inputs(program)
    if len(stated) != len(inputs):
        raise ConfigError(f"{path} takes {len(stated)} inputs, not {len(inputs)}: {list(stated)}")
    for (name, sides), spec in zip(stated.items(), inputs, strict=True):
        fixed_shape(name, sides, {name: spec.shape}, only=False)
    if all(isinstance(side, int) for sides in stated.values() for side in sides):
        return program
    return _export(path, program.module(), [spec.shape for spec in inputs])


def write_program(program: Any, path: Path) -> None:
    """Write an exported program as a ``.pt2`` file."""
    with quiet():
        import_torch().export.save(program, path)


def from_program(path: Path, folder: Path, shapes: Shapes) -> Found:
    """Read a ``.pt2`` file; one that leaves sides of its inputs open is exported anew.

    Raises:
        ConfigError: It is no exported program, or a shape does not fit it.
        UnsupportedModelError: A side is open and no shape was given.
    """
    program = read_program(path)
    specs, notes = _program_inputs(program, shapes)
    return exported(path, program.module(), specs, folder, notes)


def exported(
    path: Path,
    module: Any,
    specs: Sequence[TensorSpec],
    folder: Path,
    notes: tuple[str, ...] = (),
) -> Found:
    """Export ``module`` for fixed shapes, write the program, and say what it answers.

    Raises:
        UnsupportedModelError: torch cannot export it, or it answers something else than float32
            tensors.
    """
    torch = import_torch()
    with quiet(), torch.no_grad():
        try:
            answers = module(*(torch.zeros(spec.shape) for spec in specs))
        except Exception as error:  # the model's own code, whatever it raises
            raise UnsupportedModelError(
                f"{path} does not take {', '.join(str(spec.shape) for spec in specs)}: "
                f"{first_line(error)}"
            ) from error
    named = _named(answers)
    for name, answer in named.items():
        if getattr(answer, "dtype", None) is not torch.float32:
            kind = getattr(answer, "dtype", type(answer).__name__)
            raise UnsupportedModelError(
                f"{path} answers {kind} as {name!r}; asdic takes a float32 tensor, or several"
            )
    inner = _in_order(module) if isinstance(answers, Mapping) else module
    program = _export(path, inner, [spec.shape for spec in specs])
    write_program(program, folder / PROGRAM_FILE)
    return Found(
        kind=SourceKind.PROGRAM,
        files=(PROGRAM_FILE,),
        inputs=tuple(specs),
        outputs=tuple(
            TensorSpec(name=name, shape=tuple(answer.shape)) for name, answer in named.items()
        ),
        layout="nchw",
        notes=notes,
    )


def _named(answers: Any) -> dict[str, Any]:
    """Return the answers by name; torch knows names only where a model answers a dict."""
    if isinstance(answers, Mapping):
        return {str(name): answer for name, answer in answers.items()}
    if not isinstance(answers, list | tuple):
        return {_ANSWERS.get(getattr(answers, "ndim", 0), "output"): answers}
    if len(answers) == 1:
        return _named(answers[0])
    return {f"output_{number}": answer for number, answer in enumerate(answers)}


def _in_order(module: Any) -> Any:
    """Return a module that answers the values of the dict that ``module`` answers."""
    torch = import_torch()

    class InOrder(torch.nn.Module):  # type: ignore[misc, name-defined]
        """Answers a tuple."""

        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, *inputs: Any) -> tuple[Any, ...]:
            return tuple(self.model(*inputs).values())

    return InOrder()


def _export(path: Path, module: Any, shapes: Sequence[Sequence[int]]) -> Any:
    torch = import_torch()
    try:
        with quiet():
            return torch.export.export(module, tuple(torch.zeros(*shape) for shape in shapes))
    except Exception as error:  # torch's exporter raises whatever the model makes it
        raise UnsupportedModelError(
            f"{path} cannot be brought into an exported program: {first_line(error)}"
        ) from error


def _program_inputs(program: Any, shapes: Shapes) -> tuple[list[TensorSpec], tuple[str, ...]]:
    stated = _stated_inputs(program)
    check_names(shapes, list(stated))
    specs, notes = [], []
    for name, sides in stated.items():
        shape, note = fixed_shape(name, sides, shapes, only=len(stated) == 1)
        specs.append(TensorSpec(name=name, shape=shape))
        notes.append(note)
    return specs, tuple(note for note in notes if note)


def _stated_inputs(program: Any) -> dict[str, list[Dimension]]:
    """Return the sides of each input as the program states them, in its order."""
    float32 = import_torch().float32
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    stated: dict[str, list[Dimension]] = {}
    for name in program.graph_signature.user_inputs:
        kind = getattr(values.get(name), "dtype", type(name).__name__)
        if kind is not float32:
            raise UnsupportedModelError(
                f"the input {name!r} is {kind}; asdic quantizes models that take float32 tensors"
            )
        stated[name] = [side if isinstance(side, int) else str(side) for side in values[name].shape]
    return stated


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


@contextmanager
def quiet() -> Iterator[None]:
    """Keep deprecations between torch's own modules off the screen."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def import_torch() -> Any:
    """Return the module ``torch``.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingPackageError("torch", "quantize") from error
    return torch
