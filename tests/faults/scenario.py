"""What a device is in the middle of when the fault comes: releases and stories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Final

from asdic.contract.messages import UpdateState
from asdic.firmware_bridge.simulated_board import Boots
from tests.faults.world import Script, World
from tests.support.boards import FIRST

_S: Final = UpdateState
NOW: Final = datetime(2026, 6, 1, 12, 0, tzinfo=timezone.utc)
OLD: Final = "1.0.0"
NEW: Final = "1.1.0"
NEWEST: Final = "1.2.0"
BAD: Final = "1.3.0"
UNFIT: Final = "1.4.0"
PAIR_OLD: Final = "2.0.0"
PAIR: Final = "2.1.0"
PAIR_UNFIT: Final = "2.2.0"
PAIR_DEAD: Final = "2.3.0"
WITHDRAWN: Final = "withdrawn"
INCOMPLETE: Final = "without its documents"
FORGED: Final = "with a forged document"
NOTHING_ELSE: Final = "nothing"
DAMAGED: Final = "damaged"
OTHER_MACHINE: Final = " on another machine"
WORN: Final = " after many restarts"
SCHEMA_1: Final = " as the first agents wrote it"
ROTTEN: Final = " with a damaged model"

RELEASES: Final = MappingProxyType(
    {
        OLD: {},
        NEW: {},
        NEWEST: {"security_counter": 2},
        BAD: {"passes_gate": False},
        UNFIT: {"works_in_use": False},
        PAIR_OLD: {"firmware": FIRST},
        PAIR: {"firmware": "1.1.0"},
        PAIR_UNFIT: {"firmware": "1.2.0", "works_in_use": False},
        PAIR_DEAD: {"firmware": "1.3.0"},
    }
)
"""The yard's releases: what gate and use say, the security counter, and the firmware's version."""

DEAD: Final = ("1.3.0",)
"""Firmware that boots and does not come up."""

ON_THE_WAY: Final = (
    _S.OFFERED,
    _S.FETCHING,
    _S.VERIFYING,
    _S.STAGED,
    _S.GATING,
    _S.ACTIVATING,
    _S.PROBATION,
    _S.COMMITTED,
)
"""The states of an update that ends well."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A story that ends, without a fault, with ``ends`` running and the update in ``state``.

    Args:
        name: A short word.
        begin: The name of the template tree that it begins with.
        offer: The version that is offered at the beginning, if any.
        script: What happens when a state is entered for the first time.
        prepare: What is done to the world before each boot.
        deadlines_s: Another patience than the usual one.
        keeps: Whether what was said to be committed has to be there at every later boot.
        ends_with: The version of the firmware that the board runs in the end.
        boots: What the board's bootloader does.
        tells_mode: Whether the board says that.
    """

    name: str
    begin: str
    ends: str | None
    state: UpdateState = _S.COMMITTED
    offer: str | None = None
    script: Script = field(default_factory=dict)
    prepare: Callable[[World], None] = lambda _world: None
    deadlines_s: Mapping[str, float] = field(default_factory=dict)
    keeps: bool = True
    ends_with: str = ""
    boots: Boots = Boots.TESTED
    tells_mode: bool = True

    @property
    def has_board(self) -> bool:
        """Whether there is a microcontroller beside the box."""
        return bool(self.ends_with)


STORIES: Final = (
    Scenario(name="install", begin="enrolled", offer=OLD, ends=OLD),
    Scenario(name="update", begin="on-1.0.0", offer=NEW, ends=NEW),
    Scenario(
        name="repeated",
        begin="on-1.0.0",
        offer=NEW,
        script={_S.COMMITTED: lambda world: world.publish(NEWEST)},
        ends=NEWEST,
    ),
    Scenario(name="rollback", begin="on-1.0.0", offer=UNFIT, ends=OLD, state=_S.FAILED),
    *(
        Scenario(name=f"agent-upgrade-{state.value}", begin=f"in-{state.value}{SCHEMA_1}", ends=NEW)
        for state in ON_THE_WAY
    ),
)
"""What rows 1 to 4 are tried on."""


def _goes_back(world: World) -> None:
    world.soon(lambda world: world.update.send_back())


PAIR_STORIES: Final = (
    Scenario(name="pair", begin="on-2.0.0", offer=PAIR, ends=PAIR, ends_with="1.1.0"),
    Scenario(name="pair-unfit", begin="on-2.0.0", offer=PAIR_UNFIT, ends=PAIR_OLD,
             state=_S.FAILED, ends_with=FIRST),
    Scenario(name="pair-dead", begin="on-2.0.0", offer=PAIR_DEAD, ends=PAIR_OLD,
             state=_S.FAILED, ends_with=FIRST),
    Scenario(name="pair-by-hand", begin="on-2.0.0", offer=PAIR, ends=PAIR_OLD, state=_S.FAILED,
             script={_S.COMMITTED: _goes_back}, keeps=False, ends_with=FIRST),
    Scenario(name="pair-no-trial", begin="on-2.0.0", offer=PAIR, ends=PAIR, ends_with="1.1.0",
             boots=Boots.UPLOADED),
    Scenario(name="pair-no-trial-unfit", begin="on-2.0.0", offer=PAIR_UNFIT, ends=PAIR_OLD,
             state=_S.FAILED, ends_with=FIRST, boots=Boots.UPLOADED),
    Scenario(name="pair-untold", begin="on-2.0.0", offer=PAIR_UNFIT, ends=PAIR_OLD,
             state=_S.FAILED, ends_with=FIRST, boots=Boots.UPLOADED, tells_mode=False),
)  # fmt: skip
"""Updates of model and firmware together."""
