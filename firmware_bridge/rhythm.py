"""When to look for the next frame: often when it is due, seldom before and after.

The writer makes no system call, so nobody wakes a reader; it has to look. Looking without end
would burn a core. Frames come in a rhythm, though, so a reader sleeps until shortly before the next
one is due. The rhythm is learned as TCP learns a connection's round trip: a smoothed mean and a
smoothed deviation, with the gains 1/8 and 1/4 and a margin of four deviations (RFC 6298, 2). How
late the machine ends a sleep is learned likewise, and slept less.
"""

from __future__ import annotations

from typing import Final

# The kernel makes five to fifteen microseconds of it.
NAP_NS: Final = 1_000
# A processor that slept for a frame's length takes this long to be quick again.
FLOOR_NS: Final = 300_000
LONGEST_REST_NS: Final = 20_000_000
LONGEST_NAP_NS: Final = 10_000_000
UNKNOWN_NAP_NS: Final = 500_000
# What is spent looking closely before a frame is due: no more, and no more of the time between two.
LARGEST_NS: Final = 1_000_000
LARGEST_SHARE: Final = 1 / 8
# A frame that is overdue is found late by this share of how long it is overdue, at most.
OVERDUE_SHARE: Final = 1 / 8
_MEAN_GAIN: Final = 1 / 8
_DEVIATION_GAIN: Final = 1 / 4
_DEVIATIONS: Final = 4
_LATE_DEVIATIONS: Final = 3
# A shorter sleep says little of how late a longer one ends.
_TELLING_NS: Final = 50_000
# So many times as long is a pause, after which the rhythm is learned anew.
_PAUSE: Final = 4


class Rhythm:
    """The times at which frames were written, and what follows from them. All times are in ns."""

    def __init__(self) -> None:
        self._last: tuple[int, int] | None = None
        self._interval = 0.0
        self._deviation = 0.0
        self._late = 0.0
        self._late_deviation = 0.0

    def heard(self, number: int, written_ns: int) -> None:
        """Learn that frame ``number`` was written at ``written_ns``."""
        last, self._last = self._last, (number, written_ns)
        if last is None or number <= last[0] or written_ns <= last[1]:
            return
        interval = (written_ns - last[1]) / (number - last[0])
        if not self._interval or interval * _PAUSE < self._interval:
            self._interval, self._deviation = interval, interval / 2
            return
        if interval > _PAUSE * self._interval:
            self._interval = 0.0
            return
        error = interval - self._interval
        self._interval += _MEAN_GAIN * error
        self._deviation += _DEVIATION_GAIN * (abs(error) - self._deviation)

    def slept(self, asked_ns: int, taken_ns: int) -> None:
        """Learn that a sleep of ``asked_ns`` took ``taken_ns``."""
        if asked_ns < _TELLING_NS:
            return
        error = taken_ns - asked_ns - self._late
        self._late += _MEAN_GAIN * error
        self._late_deviation += _DEVIATION_GAIN * (abs(error) - self._late_deviation)

    def rest_ns(self, now_ns: int) -> int:
        """Return for how long it is of no use to look.

        Before the next frame is due: until then, less a margin for jitter, less what the machine
        sleeps too long. Around that time: a nap. After it: a share of how long it is overdue.
        """
        if self._last is None or not self._interval:
            return UNKNOWN_NAP_NS
        margin = max(FLOOR_NS, _DEVIATIONS * self._deviation)
        largest = min(LARGEST_NS, LARGEST_SHARE * self._interval)
        margin = min(margin, largest)
        early = self._last[1] + self._interval - now_ns
        if early > margin:
            late = min(self._late + _LATE_DEVIATIONS * self._late_deviation, largest)
            return min(max(int(early - margin - late), NAP_NS), LONGEST_REST_NS)
        return min(max(int((-early - margin) * OVERDUE_SHARE), NAP_NS), LONGEST_NAP_NS)
