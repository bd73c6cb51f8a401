"""A short queue between two threads of a stream: bounded, in order, and it can be shut."""

from __future__ import annotations

import threading
from collections import deque
from enum import Enum
from typing import Final, Generic, Literal, TypeAlias, TypeVar

T = TypeVar("T")


class Nothing(Enum):
    """What a line gives where it gives no item."""

    YET = "yet"
    MORE = "more"


# No item came in time; or none will come any more.
NOT_YET: Final = Nothing.YET
NO_MORE: Final = Nothing.MORE
Given: TypeAlias = "T | Literal[Nothing.YET, Nothing.MORE]"


class Line(Generic[T]):
    """A bounded queue that is either finished by its giver or shut by anyone.

    Args:
        limit: How many items may wait.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._is_finished = False
        self._is_shut = False

    def put(self, item: T) -> bool:
        """Add an item, once there is room for it; return False where the line is shut."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_shut or len(self._items) < self._limit)
            self._append(item)
            return not self._is_shut

    def put_over(self, item: T) -> T | None:
        """Add an item at once and return the oldest one if it had to make room."""
        with self._changed:
            oldest = self._items.popleft() if len(self._items) >= self._limit else None
            self._append(item)
            return oldest

    def get(self, timeout_s: float | None = None) -> Given[T]:
        """Return the oldest item; ``NOT_YET`` after the timeout, ``NO_MORE`` at the end.

        Items that were there when the line was finished are still given, but not when it was
        shut.
        """
        with self._changed:
            self._changed.wait_for(self._has_news, timeout_s)
            if self._is_shut or (self._is_finished and not self._items):
                return NO_MORE
            if not self._items:
                return NOT_YET
            self._changed.notify_all()
            return self._items.popleft()

    def finish(self) -> None:
        """Say that no item follows."""
        with self._changed:
            self._is_finished = True
            self._changed.notify_all()

    def shut(self) -> None:
        """Let everyone who waits here leave; items are forgotten."""
        with self._changed:
            self._is_shut = True
            self._items.clear()
            self._changed.notify_all()

    @property
    def is_shut(self) -> bool:
        """Whether it was shut."""
        return self._is_shut

    def _has_news(self) -> bool:
        return bool(self._items) or self._is_finished or self._is_shut

    def _append(self, item: T) -> None:
        if not self._is_shut:
            self._items.append(item)
            self._changed.notify_all()
