"""All rows of the table of faults, and their control."""

from __future__ import annotations

from types import MappingProxyType
from typing import Final

from tests.faults import (
    bad_disk,
    clock,
    clones,
    control,
    flips,
    kill,
    link,
    pairs,
    powercut,
    stops,
)

ROWS: Final = (
    stops.ONE,
    stops.TWO,
    stops.FIVE,
    bad_disk.ROW,
    kill.ROW,
    link.ROW,
    flips.ROW,
    clock.ROW,
    powercut.ROW,
    clones.ROW,
    pairs.ONE,
    pairs.MANY,
    pairs.CALLS,
)
CONTROL: Final = control.ROW
BY_NAME: Final = MappingProxyType({row.name: row for row in (*ROWS, CONTROL)})
