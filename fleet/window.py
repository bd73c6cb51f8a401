"""Which chunk of a blob to broadcast next, from what the devices say they hold.

A carousel: a chunk is due for a device until it was broadcast after the device joined, so devices
that join together share every broadcast, and one that joins late makes only its own part go round
again. What is lost on the way is not this module's: the device asks for it by name.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Receiver:
    """What the window believes about one device.

    ``due`` are the chunks that it lacks and that were not broadcast since it joined;
    ``in_flight`` those that were broadcast and that it has not yet shown to hold.
    """

    have: int
    due: set[int]
    advanced_s: float
    in_flight: deque[int] = field(default_factory=deque)


class Window:
    """One blob's broadcast: ``size`` chunks at most are under way to the slowest device.

    A device that shows no progress for ``laggard_s`` while chunks are under way to it is ejected:
    nobody waits for it any more. It comes back with its next progress. Being behind ejects nobody.
    """

    def __init__(
        self, chunks: int, *, size: int = 8, laggard_s: float = 30.0, gather_s: float = 1.0
    ) -> None:
        self.chunks = chunks
        self._size = size
        self._laggard_s = laggard_s
        self._gather_s = gather_s
        self._receivers: dict[str, Receiver] = {}
        self._cursor = 0
        self._opens_s: float | None = None

    @property
    def receivers(self) -> tuple[str, ...]:
        """The devices that are waited for."""
        return tuple(self._receivers)

    def progress(self, device: str, *, have: int, first_missing: int, now: float) -> None:
        """Note that ``device`` holds ``have`` chunks, all before ``first_missing`` among them."""
        if have >= self.chunks:
            self.leave(device)
            return
        receiver = self._receivers.get(device)
        if receiver is None or have < receiver.have:
            self._join(device, have, range(first_missing, self.chunks), now)
            return
        if have > receiver.have:
            self._credit(receiver, have - receiver.have)
            receiver.have, receiver.advanced_s = have, now
        _forget_below(receiver, first_missing)

    def missing(self, device: str, chunks: Sequence[int], now: float) -> list[int]:
        """Note exactly what ``device`` lacks, and return what of it will not come by itself.

        What it did not name is not due for it; what is due will be broadcast, so that sending it
        to this device alone as well would let it fetch more than a window twice.
        """
        receiver = self._receivers.get(device)
        if receiver is None:
            return list(chunks)
        receiver.due &= set(chunks)
        receiver.in_flight.clear()
        receiver.advanced_s = now
        return [number for number in chunks if number not in receiver.due]

    def leave(self, device: str) -> None:
        """Forget a device: it has everything, or is not wanted any more."""
        self._receivers.pop(device, None)
        if not self._receivers:
            self._opens_s = None

    def eject(self, now: float) -> tuple[str, ...]:
        """Eject those without progress since their own last one, and return their names."""
        stuck = tuple(
            device
            for device, receiver in self._receivers.items()
            if receiver.in_flight and now - receiver.advanced_s > self._laggard_s
        )
        for device in stuck:
            self.leave(device)
        return stuck

    def take(self, now: float) -> int | None:
        """Return the chunk to broadcast now and count it as under way, or None: nothing to do."""
        if self._opens_s is None or now < self._opens_s:
            return None
        if any(len(one.in_flight) >= self._size for one in self._receivers.values()):
            return None
        number = self._next_due()
        if number is None:
            return None
        self._cursor = (number + 1) % self.chunks
        for receiver in self._receivers.values():
            if number in receiver.due:
                if not receiver.in_flight:
                    receiver.advanced_s = now
                receiver.due.discard(number)
                receiver.in_flight.append(number)
        return number

    def _join(self, device: str, have: int, due: range, now: float) -> None:
        if self._opens_s is None:
            self._opens_s = now + self._gather_s
        self._receivers[device] = Receiver(have=have, due=set(due), advanced_s=now)

    def _credit(self, receiver: Receiver, count: int) -> None:
        for _ in range(min(count, len(receiver.in_flight))):
            receiver.in_flight.popleft()

    def _next_due(self) -> int | None:
        due = set().union(*(receiver.due for receiver in self._receivers.values()))
        ahead = (number for number in due if number >= self._cursor)
        return min(ahead, default=min(due, default=None))


def _forget_below(receiver: Receiver, first_missing: int) -> None:
    receiver.due = {number for number in receiver.due if number >= first_missing}
    receiver.in_flight = deque(n for n in receiver.in_flight if n >= first_missing)
