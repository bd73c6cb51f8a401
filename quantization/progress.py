"""Telling a person what happens now, and how much of it is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

_T = TypeVar("_T")


class Stage(Protocol):
    """Told what happens now. It is called from several threads, and must not block."""

    def __call__(self, what: str, text: str, *, done: int = 0, total: int | None = None) -> None:
        """Take note.

        Args:
            what: Of which format or target, or of what else.
            text: What happens, in words.
            done: How many steps of ``total`` are behind.
            total: How many steps there are; None where nobody knows.
        """
        ...


def silent(what: str, text: str, *, done: int = 0, total: int | None = None) -> None:
    """Tell nobody."""
    del what, text, done, total


def counted(items: Sequence[_T], stage: Stage, what: str, text: str) -> Iterator[_T]:
    """Yield ``items``, telling ``stage`` before each, and after the last, how many are done."""
    for number, item in enumerate(items):
        stage(what, text, done=number, total=len(items))
        yield item
    stage(what, text, done=len(items), total=len(items))
