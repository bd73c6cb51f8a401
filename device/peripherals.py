"""What delivers the frames to this box, as ``agent.toml`` names it: microcontroller and frame ring.

The link's library is imported when the microcontroller is asked something, which on most days is
never.
"""

from __future__ import annotations

from collections.abc import Callable

from asdic.device.config import AgentConfig
from asdic.device.update.microcontroller import AskedInThread, Microcontroller
from asdic.firmware_bridge.connect import open_link
from asdic.firmware_bridge.glance import Glance, glance_at


def microcontroller_for(config: AgentConfig) -> Microcontroller | None:
    """Return the microcontroller beside the box, or None where none is named."""
    address = config.firmware.link
    return AskedInThread(lambda: open_link(address)) if address else None


def frames_for(config: AgentConfig) -> Callable[[], Glance] | None:
    """Return what glances at the box's frame ring, or None where none is named."""
    ring = config.frames.ring
    return (lambda: glance_at(ring)) if ring else None
