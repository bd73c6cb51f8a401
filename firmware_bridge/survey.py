"""What is seen of a ring in a few seconds: for the engineer who connects a new acquisition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from asdic.contract.errors import ConfigError
from asdic.contract.variant import FrameFormat
from asdic.firmware_bridge.frames import RingReader
from asdic.firmware_bridge.ring_layout import format_id, format_text


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """A ring's format, and what came of it within ``seconds``.

    ``latency_us`` holds the median and the longest time from the end of a frame's writing to the
    ready view, in microseconds; ``writer_lost`` and ``lost`` count frames that never reached the
    ring, and those that this reader did not get.
    """

    frames: FrameFormat
    format_id: int
    slots: int
    generation: int
    seconds: float
    seen: int
    rate: float
    latency_us: tuple[float, float] | None
    lost: int
    writer_lost: int

    def text(self) -> str:
        """Return it in two or three lines for people."""
        lines = [
            f"{format_text(self.frames)}, {self.slots} slots, format {self.format_id:016x}, "
            f"generation {self.generation}"
        ]
        if self.latency_us is None:
            lines.append(f"no signal for {self.seconds:g} s")
        else:
            median, longest = self.latency_us
            lines.append(
                f"{self.rate:.1f} frames a second; ready after {median:.0f} us (median), "
                f"{longest:.0f} us (longest)"
            )
        lines.append(f"lost here {self.lost}, lost by the writer {self.writer_lost}")
        return "\n".join(lines)


def survey(name: str | Path, *, seconds: float, now: Callable[[], int]) -> Survey:
    """Read a ring for some seconds; ``now`` is ``time.monotonic_ns``.

    Raises:
        ConfigError: The time makes no sense, or the ring may not be opened.
        LinkError: There is no ring, it is damaged, or another takes its place meanwhile.
    """
    if not 0 < seconds <= 3_600:
        raise ConfigError(f"a ring is looked at for up to an hour, not for {seconds:g} s")
    begun_ns = now()
    until_ns = begun_ns + int(seconds * 1e9)
    late_us: list[float] = []
    with RingReader.open(name, in_order=True) as reader:
        while (left_ns := until_ns - now()) > 0:
            frame = reader.wait(left_ns / 1e9)
            if frame is not None and frame.written_ns > begun_ns:
                late_us.append((now() - frame.written_ns) / 1e3)
        late_us.sort()
        return Survey(
            frames=reader.frames,
            format_id=format_id(reader.frames),
            slots=reader.slots,
            generation=reader.generation,
            seconds=seconds,
            seen=len(late_us),
            rate=(len(late_us) + reader.lost) / seconds,
            latency_us=(late_us[len(late_us) // 2], late_us[-1]) if late_us else None,
            lost=reader.lost,
            writer_lost=reader.writer_lost,
        )
