"""Over how many samples a layer's mean answer is taken, for the correction of its bias."""

from __future__ import annotations

from typing import Final

FEWEST_SAMPLES: Final = 8
MOST_SAMPLES: Final = 16
ENOUGH_VALUES: Final = 1 << 12


def samples_for_mean(positions: int) -> int:
    """Return how many samples give a channel ``ENOUGH_VALUES``, within the bounds.

    Args:
        positions: Values that one sample gives a channel, such as the pixels of its answer.
    """
    wanted = -(-ENOUGH_VALUES // positions)
    return min(max(wanted, FEWEST_SAMPLES), MOST_SAMPLES)
