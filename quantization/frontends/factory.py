"""Torch models that a function of the user's builds, with their weights from a file.

The function is the user's own code and runs as such; the weights are tensors and nothing else.
"""

from __future__ import annotations

import importlib
import inspect
import pickle
from pathlib import Path
from typing import Any

from asdic.contract.errors import ConfigError
from asdic.contract.variant import TensorSpec
from asdic.quantization.frontends.found import Found
from asdic.quantization.frontends.shapes import Shapes, check_names
from asdic.quantization.frontends.sizes import check_size
from asdic.quantization.frontends.torch import exported, import_torch
from asdic.quantization.refusal import first_line


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
    torch = import_torch()
    model = _made(factory, torch)
    if weights is not None:
        _load_weights(model, weights, torch)
    names = _argument_names(model)
    check_names(shapes, names)
    if missing := [name for name in names if name not in shapes and "" not in shapes]:
        raise ConfigError(f"{factory} takes {missing[0]!r}; give its shape with --input-shape")
    specs = [TensorSpec(name=name, shape=shapes.get(name) or shapes[""]) for name in names]
    return exported(Path(factory.replace(":", ".")), model.eval(), specs, folder)


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
    check_size(weights)
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


def _argument_names(module: Any) -> list[str]:
    """Return the names of the arguments that a module's ``forward`` has to be given."""
    parameters = inspect.signature(module.forward).parameters.values()
    return [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind in {one.POSITIONAL_OR_KEYWORD, one.POSITIONAL_ONLY}
    ]
