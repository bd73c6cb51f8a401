"""Where an update stands and what may follow, as one table. The table is the design.

Each state is written to the journal before its effect, and each effect may be repeated, so
``RESTARTED`` (a crash, a reboot, a power cut) leads to a state whose effect can simply be done
again. The pair that is not here is a bug, and ``step`` says so.
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import Final

from asdic.contract.messages import UpdateState

DAY_S: Final = 86_400.0


class UpdateEvent(str, Enum):
    """What happened to an update."""

    OFFERED = "offered"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    ALREADY_RUNNING = "already-running"
    WITHDRAWN = "withdrawn"
    FETCHED = "fetched"
    DAMAGED = "damaged"
    VERIFIED = "verified"
    BUSY = "busy"
    READY = "ready"
    GATE_PASSED = "gate-passed"
    GATE_FAILED = "gate-failed"
    PREPARED = "prepared"
    SWITCHED = "switched"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    BACK = "back"
    SETTLED = "settled"
    FAILED = "failed"
    TIMED_OUT = "timed-out"
    FINGERPRINT_CHANGED = "fingerprint-changed"
    STILL_GOOD = "still-good"
    NO_LONGER_GOOD = "no-longer-good"
    SENT_BACK = "sent-back"
    RESTARTED = "restarted"


_S = UpdateState
_E = UpdateEvent

FINAL: Final = frozenset({_S.IDLE, _S.REJECTED, _S.COMMITTED, _S.FAILED, _S.INCONSISTENT})
"""States in which no update is in hand."""

SWITCHED: Final = frozenset({_S.ACTIVATING, _S.PROBATION, _S.ROLLING_BACK, _S.ROLLED_BACK})
"""States in which ``current`` may already name the new release: no other offer may interfere."""

TRANSITIONS: Final = MappingProxyType(
    {
        (_S.IDLE, _E.OFFERED): _S.OFFERED,
        (_S.REJECTED, _E.OFFERED): _S.OFFERED,
        (_S.COMMITTED, _E.OFFERED): _S.OFFERED,
        (_S.FAILED, _E.OFFERED): _S.OFFERED,
        (_S.INCONSISTENT, _E.OFFERED): _S.OFFERED,
        (_S.OFFERED, _E.ACCEPTED): _S.FETCHING,
        (_S.OFFERED, _E.REFUSED): _S.REJECTED,
        (_S.OFFERED, _E.ALREADY_RUNNING): _S.COMMITTED,
        (_S.OFFERED, _E.TIMED_OUT): _S.FAILED,
        (_S.FETCHING, _E.FETCHED): _S.VERIFYING,
        (_S.FETCHING, _E.FAILED): _S.FAILED,
        (_S.FETCHING, _E.TIMED_OUT): _S.FAILED,
        (_S.VERIFYING, _E.VERIFIED): _S.STAGED,
        (_S.VERIFYING, _E.DAMAGED): _S.FETCHING,
        (_S.VERIFYING, _E.FAILED): _S.FAILED,
        (_S.VERIFYING, _E.TIMED_OUT): _S.FAILED,
        (_S.STAGED, _E.READY): _S.GATING,
        (_S.STAGED, _E.BUSY): _S.DEFERRED,
        (_S.STAGED, _E.FAILED): _S.FAILED,
        (_S.STAGED, _E.TIMED_OUT): _S.FAILED,
        (_S.GATING, _E.GATE_PASSED): _S.ACTIVATING,
        (_S.GATING, _E.GATE_FAILED): _S.FAILED,
        (_S.GATING, _E.TIMED_OUT): _S.FAILED,
        (_S.GATING, _E.BUSY): _S.DEFERRED,
        # It is known what the microcontroller runs: from here on that may change.
        (_S.ACTIVATING, _E.PREPARED): _S.ACTIVATING,
        (_S.ACTIVATING, _E.SWITCHED): _S.PROBATION,
        (_S.ACTIVATING, _E.FAILED): _S.ROLLING_BACK,
        (_S.ACTIVATING, _E.TIMED_OUT): _S.ROLLING_BACK,
        (_S.PROBATION, _E.HEALTHY): _S.COMMITTED,
        (_S.PROBATION, _E.UNHEALTHY): _S.ROLLING_BACK,
        (_S.PROBATION, _E.TIMED_OUT): _S.ROLLING_BACK,
        (_S.PROBATION, _E.BUSY): _S.DEFERRED,
        # A deferred update goes on with the very event that the busy program held back.
        (_S.DEFERRED, _E.READY): _S.GATING,
        (_S.DEFERRED, _E.GATE_PASSED): _S.ACTIVATING,
        (_S.DEFERRED, _E.UNHEALTHY): _S.ROLLING_BACK,
        (_S.DEFERRED, _E.TIMED_OUT): _S.FAILED,
        (_S.ROLLING_BACK, _E.BACK): _S.ROLLED_BACK,
        (_S.ROLLING_BACK, _E.TIMED_OUT): _S.INCONSISTENT,
        (_S.ROLLED_BACK, _E.SETTLED): _S.FAILED,
        # A newer offer takes the place of an update that has not touched ``current`` yet.
        (_S.OFFERED, _E.OFFERED): _S.OFFERED,
        (_S.FETCHING, _E.OFFERED): _S.OFFERED,
        (_S.VERIFYING, _E.OFFERED): _S.OFFERED,
        (_S.STAGED, _E.OFFERED): _S.OFFERED,
        (_S.DEFERRED, _E.OFFERED): _S.OFFERED,
        (_S.GATING, _E.OFFERED): _S.OFFERED,
        (_S.OFFERED, _E.WITHDRAWN): _S.IDLE,
        (_S.FETCHING, _E.WITHDRAWN): _S.IDLE,
        (_S.VERIFYING, _E.WITHDRAWN): _S.IDLE,
        (_S.STAGED, _E.WITHDRAWN): _S.IDLE,
        (_S.DEFERRED, _E.WITHDRAWN): _S.IDLE,
        (_S.GATING, _E.WITHDRAWN): _S.IDLE,
        # Another driver or system: the current release passes the gate again, or the one before
        # it comes back. Where there is none, it fails as a candidate does, and ``current`` stays.
        (_S.IDLE, _E.FINGERPRINT_CHANGED): _S.STAGED,
        (_S.REJECTED, _E.FINGERPRINT_CHANGED): _S.STAGED,
        (_S.COMMITTED, _E.FINGERPRINT_CHANGED): _S.STAGED,
        (_S.FAILED, _E.FINGERPRINT_CHANGED): _S.STAGED,
        (_S.GATING, _E.STILL_GOOD): _S.COMMITTED,
        (_S.STAGED, _E.NO_LONGER_GOOD): _S.ROLLING_BACK,
        (_S.GATING, _E.NO_LONGER_GOOD): _S.ROLLING_BACK,
        # The current release is damaged, or a person at the box asks for the one before it.
        (_S.IDLE, _E.NO_LONGER_GOOD): _S.ROLLING_BACK,
        (_S.REJECTED, _E.NO_LONGER_GOOD): _S.ROLLING_BACK,
        (_S.COMMITTED, _E.NO_LONGER_GOOD): _S.ROLLING_BACK,
        (_S.FAILED, _E.NO_LONGER_GOOD): _S.ROLLING_BACK,
        (_S.IDLE, _E.SENT_BACK): _S.ROLLING_BACK,
        (_S.REJECTED, _E.SENT_BACK): _S.ROLLING_BACK,
        (_S.COMMITTED, _E.SENT_BACK): _S.ROLLING_BACK,
        (_S.FAILED, _E.SENT_BACK): _S.ROLLING_BACK,
        (_S.PROBATION, _E.SENT_BACK): _S.ROLLING_BACK,
        # The agent came back.
        (_S.IDLE, _E.RESTARTED): _S.IDLE,
        (_S.OFFERED, _E.RESTARTED): _S.OFFERED,
        (_S.REJECTED, _E.RESTARTED): _S.REJECTED,
        (_S.DEFERRED, _E.RESTARTED): _S.DEFERRED,
        (_S.FETCHING, _E.RESTARTED): _S.FETCHING,
        (_S.VERIFYING, _E.RESTARTED): _S.VERIFYING,
        (_S.STAGED, _E.RESTARTED): _S.STAGED,
        (_S.GATING, _E.RESTARTED): _S.STAGED,
        (_S.ACTIVATING, _E.RESTARTED): _S.ACTIVATING,
        (_S.PROBATION, _E.RESTARTED): _S.PROBATION,
        (_S.COMMITTED, _E.RESTARTED): _S.COMMITTED,
        (_S.ROLLING_BACK, _E.RESTARTED): _S.ROLLING_BACK,
        (_S.ROLLED_BACK, _E.RESTARTED): _S.ROLLED_BACK,
        (_S.FAILED, _E.RESTARTED): _S.FAILED,
        (_S.INCONSISTENT, _E.RESTARTED): _S.INCONSISTENT,
    }
)

DEADLINES_S: Final = MappingProxyType(
    {
        _S.OFFERED: 120.0,
        _S.FETCHING: 7 * DAY_S,
        _S.VERIFYING: 600.0,
        _S.STAGED: 60.0,
        _S.DEFERRED: 7 * DAY_S,
        _S.GATING: 900.0,
        _S.ACTIVATING: 60.0,
        _S.PROBATION: 120.0,
        _S.ROLLING_BACK: 120.0,
    }
)
"""Seconds of running agent before ``TIMED_OUT``, without those in which the program is busy.

A deferred update waits for just that, so there all seconds count. ``rolled-back`` ends at its
first tick, and the final states have nothing to wait for.
"""


def step(state: UpdateState, event: UpdateEvent) -> UpdateState:
    """Return the state that follows ``state`` on ``event``.

    Raises:
        RuntimeError: The pair is not in the table, which is a bug here.
    """
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        raise RuntimeError(f"an update that is {state.value} cannot be {event.value}") from None
