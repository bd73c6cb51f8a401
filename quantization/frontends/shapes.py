"""Fixed shapes for models that leave some open: devices want them fixed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from asdic.contract.errors import ConfigError, UnsupportedModelError

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Shapes that a person gave, by the input's name; "" stands for the only input."""

Dimension: TypeAlias = int | str | None
"""A side as a model states it: a number, or the name (or None) of one that is open."""

_SHAPE: Final = re.compile(r"(?:(?P<name>[^=]+)=)?(?P<shape>[1-9][0-9]{0,8}(x[1-9][0-9]{0,8})*)")
SIDES_LIMIT: Final = 8
ELEMENTS_LIMIT: Final = 1 << 30


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes that a person wrote as ``NAME=1x1x256x256``, or without the name.

    Raises:
        ConfigError: A text is no shape, names no side, or asks for too much.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        match = _SHAPE.fullmatch(text)
        if match is None:
            raise ConfigError(
                f"{text!r} is no input shape; expected 1x1x256x256, or NAME=1x1x256x256"
            )
        sides = tuple(int(side) for side in match["shape"].split("x"))
        elements = 1
        for side in sides:
            elements *= side
        if len(sides) > SIDES_LIMIT or elements > ELEMENTS_LIMIT:
            raise ConfigError(f"the input shape {text!r} is too large")
        shapes[match["name"] or ""] = sides
    return shapes


def fixed_shape(
    name: str, stated: Sequence[Dimension], shapes: Shapes, *, only: bool
) -> tuple[tuple[int, ...], str]:
    """Return an input's shape without open sides, and what was assumed, or nothing.

    Args:
        name: The input.
        stated: Its sides as the model states them.
        shapes: Those that a person gave.
        only: Whether the model has no other input.

    Raises:
        ConfigError: The given shape contradicts the model.
        UnsupportedModelError: A side besides the first (the batch) is open, and none was given.
    """
    given = shapes.get(name) or (shapes.get("") if only else None)
    if given is not None:
        if len(given) != len(stated) or any(
            isinstance(side, int) and side != wanted
            for side, wanted in zip(stated, given, strict=False)
        ):
            raise ConfigError(
                f"the input {name!r} has the shape {_words(stated)}; {_words(given)} does not fit"
            )
        return given, ""
    open_sides = [place for place, side in enumerate(stated) if not isinstance(side, int)]
    if not open_sides:
        return tuple(int(side) for side in stated if isinstance(side, int)), ""
    if open_sides != [0]:
        raise UnsupportedModelError(
            f"the input {name!r} has the shape {_words(stated)}, and devices want it fixed; give "
            f"one with --input-shape {name}=1x..."
        )
    rest = tuple(int(side) for side in stated[1:] if isinstance(side, int))
    return (1, *rest), f"the input {name!r} takes one sample at a time (its batch was open)"


def check_names(shapes: Shapes, names: Sequence[str]) -> None:
    """Check that shapes were given for inputs that there are.

    Raises:
        ConfigError: One was not, or a shape without a name meets several inputs.
    """
    if "" in shapes and len(names) > 1:
        raise ConfigError(
            f"the model has the inputs {', '.join(names)}; give each shape as NAME=1x..."
        )
    if unknown := sorted(shapes.keys() - {"", *names}):
        raise ConfigError(
            f"there is no input {unknown[0]!r} to give a shape to, only {', '.join(names)}"
        )


def _words(sides: Sequence[Dimension]) -> str:
    return "x".join("?" if side is None else str(side) for side in sides) or "()"
