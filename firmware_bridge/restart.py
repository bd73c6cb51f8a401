"""Resetting a microcontroller and seeing it come back."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from asdic.contract.errors import LinkError
from asdic.firmware_bridge.link import FirmwareInfo, FirmwareLink

PATIENCE_S: Final = 60.0
POLL_S: Final = 0.25
SETTLE_S: Final = 2.0
"""Zephyr answers, and resets a quarter of a second later: an answer before this may be its last."""
SLACK_S: Final = 1.0
ALIVE: Final = "it goes on without a restart"


def restart(
    link: FirmwareLink,
    *,
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    patience_s: float = PATIENCE_S,
) -> FirmwareInfo:
    """Reset a microcontroller and return what it says when it is up again.

    A bootloader that swaps two images first may take most of a minute.

    Args:
        link: To it.
        clock: Seconds, from anywhere.
        sleep: Waits for so many of them.
        patience_s: How long to wait.

    Raises:
        LinkError: It did not come back in time, or has not restarted.
        FirmwareRefusalError: It refused.
    """
    began_s = clock()
    with suppress(LinkError):  # who restarts may not have the time to answer
        link.reset()
    reason = ALIVE
    while (waited_s := clock() - began_s) < patience_s:
        try:
            # First: what it says before its restart is over would be of the old image.
            uptime_s = link.heartbeat()
            if _is_new(uptime_s, clock() - began_s):
                return link.info()
            reason = ALIVE
        except LinkError as error:
            reason = str(error)
        sleep(min(POLL_S, patience_s - waited_s))
    raise LinkError(f"the microcontroller was not back within {patience_s:g} s: {reason}")


def _is_new(uptime_s: float, since_s: float) -> bool:
    if uptime_s == 0.0:  # it does not say
        return since_s >= SETTLE_S
    return uptime_s <= since_s + SLACK_S
