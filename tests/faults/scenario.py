"""What a device is in the middle of when the fault comes: releases and stories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from types import MappingProxyType
from typing import Final

from asdic.contract.messages import UpdateState
from tests.faults.world import Script, World

_S: Final = UpdateState
NOW: Final = datetime(2026, 6, 1, 12, 0, tzinfo=timezone.utc)
OLD: Final = "1.0.0"
NEW: Final = "1.1.0"
NEWEST: Final = "1.2.0"
BAD: Final = "1.3.0"
UNFIT: Final = "1.4.0"
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
    }
)
"""The yard's releases: what the gate and the use say, and the security counter."""

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
