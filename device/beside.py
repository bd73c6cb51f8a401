"""What the doctor says of the microcontroller and the frame ring beside the box.

Both are looked at and nothing is changed. While an update is in hand the microcontroller is not
asked: a serial line has room for one who speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Final, TypeAlias

from asdic.contract.errors import AsdicError
from asdic.contract.variant import FirmwarePart
from asdic.device.config import AgentConfig
from asdic.device.update.firmware import Move, next_move, running_image
from asdic.device.update.microcontroller import Look, asked_over
from asdic.firmware_bridge.connect import open_link
from asdic.firmware_bridge.glance import glance_at
from asdic.firmware_bridge.link import FirmwareInfo, FirmwareLink
from asdic.firmware_bridge.ring_layout import format_text

Said: TypeAlias = tuple[str, str, str]
"""A level's word, what was found, and what to do about it."""

_DIGITS: Final = 12


def firmware_findings(
    config: AgentConfig,
    part: FirmwarePart | None,
    *,
    may_ask: bool,
    open_link: Callable[[str], AbstractContextManager[FirmwareLink]] = open_link,
) -> Iterator[Said]:
    """Yield what is to be said of the microcontroller.

    Args:
        config: The box's configuration.
        part: The firmware that the current release brings.
        may_ask: Whether no update is in hand.
        open_link: Opens the link to an address.
    """
    address = config.firmware.link
    if not address:
        yield from _without_link(part)
    elif not may_ask:
        yield "ok", f"an update is in hand, so the microcontroller at {address} is not asked", ""
    else:
        try:
            info = asked_over(lambda: open_link(address), Look()).info
            yield from _compared(info, part)
        except AsdicError as error:
            yield (
                "error",
                f"the microcontroller at {address} does not answer: {error}",
                "look at its cable and power, and at `link` under [firmware] in agent.toml; "
                f"`asdic firmware info {address}` asks it again",
            )


def _without_link(part: FirmwarePart | None) -> Iterator[Said]:
    if part is None:
        yield "ok", "no microcontroller is named in agent.toml", ""
        return
    yield (
        "error",
        f"the current release brings firmware {part.version} for {part.board}, and no "
        "microcontroller is named in agent.toml",
        "name its address as `link` under [firmware], and restart the agent",
    )


def _compared(info: FirmwareInfo, part: FirmwarePart | None) -> Iterator[Said]:
    running = running_image(info)
    what = f"{info.board or 'the microcontroller'} runs {running.version}"
    if next_move(info, running.digest) is not Move.SETTLED:
        yield (
            "warning",
            f"{what}, and has an image on trial that no update of this box began",
            "confirm or revert it: `asdic firmware confirm`, or `asdic firmware reset`",
        )
    elif part is not None and running.digest != part.digest:
        yield (
            "error",
            f"{what} ({running.digest[:_DIGITS]}), and the current release goes with "
            f"{part.version} ({part.digest[:_DIGITS]})",
            "write that with `asdic firmware upload`, or push a release with a new version",
        )
    else:
        yield "ok", f"{what}{', as the current release has it' if part else ''}", ""


def ring_findings(config: AgentConfig) -> Iterator[Said]:
    """Yield what is to be said of the frame ring."""
    ring = config.frames.ring
    if not ring:
        yield "ok", "no frame ring is named in agent.toml", ""
        return
    try:
        glance = glance_at(ring)
    except AsdicError as error:
        yield "error", str(error), "start the acquisition process; `asdic frames show` looks again"
        return
    yield "ok", f"{ring} carries {format_text(glance.frames)}; {glance.written} frames so far", ""
