"""What can be decided about a rollout: its states, their transitions, and what is to be done.

``TRANSITIONS`` is the design: approval, a start time and an automatic rollback have their states
there, and no verb leads to them yet. Decisions are stored with their inputs, as events.
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import Final

import msgspec

from asdic.contract.errors import ConfigError
from asdic.contract.messages import Refusal
from asdic.fleet.stage import MemberState, StageState


class RolloutState(str, Enum):
    """Where a rollout stands."""

    DRAFT = "draft"
    AWAITING_APPROVAL = "awaiting-approval"
    READY = "ready"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    FINISHED = "finished"
    HALTED = "halted"
    ROLLING_BACK = "rolling-back"
    ROLLED_BACK = "rolled-back"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"


class RolloutEvent(str, Enum):
    """What can happen to a rollout."""

    SUBMIT = "submit"
    APPROVE = "approve"
    SCHEDULE = "schedule"
    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    FINISH = "finish"
    HALT = "halt"
    ROLL_BACK = "roll-back"
    CANCEL = "cancel"
    SUPERSEDE = "supersede"


OPEN_STATES: Final = (
    RolloutState.DRAFT,
    RolloutState.AWAITING_APPROVAL,
    RolloutState.READY,
    RolloutState.SCHEDULED,
    RolloutState.RUNNING,
    RolloutState.PAUSED,
)
TRANSITIONS: Final = MappingProxyType(
    {
        (RolloutState.DRAFT, RolloutEvent.SUBMIT): RolloutState.AWAITING_APPROVAL,
        (RolloutState.DRAFT, RolloutEvent.APPROVE): RolloutState.READY,
        (RolloutState.AWAITING_APPROVAL, RolloutEvent.APPROVE): RolloutState.READY,
        (RolloutState.READY, RolloutEvent.SCHEDULE): RolloutState.SCHEDULED,
        (RolloutState.READY, RolloutEvent.START): RolloutState.RUNNING,
        (RolloutState.SCHEDULED, RolloutEvent.START): RolloutState.RUNNING,
        (RolloutState.RUNNING, RolloutEvent.PAUSE): RolloutState.PAUSED,
        (RolloutState.PAUSED, RolloutEvent.RESUME): RolloutState.RUNNING,
        (RolloutState.RUNNING, RolloutEvent.FINISH): RolloutState.FINISHED,
        (RolloutState.RUNNING, RolloutEvent.HALT): RolloutState.HALTED,
        (RolloutState.PAUSED, RolloutEvent.HALT): RolloutState.HALTED,
        (RolloutState.HALTED, RolloutEvent.ROLL_BACK): RolloutState.ROLLING_BACK,
        (RolloutState.ROLLING_BACK, RolloutEvent.FINISH): RolloutState.ROLLED_BACK,
        **{(state, RolloutEvent.CANCEL): RolloutState.CANCELLED for state in OPEN_STATES},
        **{(state, RolloutEvent.SUPERSEDE): RolloutState.SUPERSEDED for state in OPEN_STATES},
    }
)


def step(state: RolloutState, event: RolloutEvent) -> RolloutState:
    """Return the state that follows ``state`` on ``event``.

    Raises:
        ConfigError: The event does not fit the state, as for resuming what was never paused.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise ConfigError(f"a rollout that is {state.value} cannot {event.value}") from None


class OfferRelease(msgspec.Struct, frozen=True, kw_only=True, tag="offer"):
    """Give the device a newly signed offer."""

    device: str
    manifest: str
    stage: int


class WithdrawOffer(msgspec.Struct, frozen=True, kw_only=True, tag="withdraw"):
    """Clear the device's offer, if it is still this rollout's."""

    device: str
    reason: str


class MemberMoved(msgspec.Struct, frozen=True, kw_only=True, tag="device"):
    """A device's report changed where it stands; the report's number is the input."""

    device: str
    state: MemberState
    report_number: int
    refusal: Refusal | None = None


class StageMoved(msgspec.Struct, frozen=True, kw_only=True, tag="stage"):
    """A stage entered a state."""

    stage: int
    state: StageState
    committed: int
    failed: int
    waiting: int
    reason: str = ""


class RolloutMoved(msgspec.Struct, frozen=True, kw_only=True, tag="rollout"):
    """The rollout entered a state."""

    event: RolloutEvent
    state: RolloutState
    reason: str


Decision = OfferRelease | WithdrawOffer | MemberMoved | StageMoved | RolloutMoved
Decisions = tuple[Decision, ...]
