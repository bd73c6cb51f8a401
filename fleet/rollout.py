"""A release offered to a fleet in stages, as values and one pure function.

``advance`` takes what is known and the time and returns what to do; it reads nothing and sends
nothing, so a rollout can be replayed from its events. What it may decide is in ``decision.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import msgspec

from asdic.contract.messages import Refusal, Report, UpdateState
from asdic.fleet.decision import (
    OPEN_STATES,
    Decision,
    Decisions,
    MemberMoved,
    OfferRelease,
    RolloutEvent,
    RolloutMoved,
    RolloutState,
    StageMoved,
    WithdrawOffer,
    step,
)
from asdic.fleet.judge import judge
from asdic.fleet.stage import Member, MemberState, Policy, Stage, StageState

OFFER_REFRESH_S: Final = 7 * 86400.0
_FAILURES: Final = frozenset({UpdateState.REJECTED, UpdateState.FAILED, UpdateState.INCONSISTENT})
_NOT_BEGUN: Final = frozenset({UpdateState.IDLE, UpdateState.OFFERED, UpdateState.DEFERRED})


class Rollout(msgspec.Struct, frozen=True, kw_only=True):
    """One release on its way to the devices that a selection named.

    ``reason`` says why it stands where it stands. ``unsupported`` names the selected devices for
    whose target the release has no variant.
    """

    id: str
    version: str
    salt: str
    selection: str
    created_s: float
    stages: tuple[Stage, ...]
    members: tuple[Member, ...]
    unsupported: tuple[str, ...] = ()
    policy: Policy = Policy()
    state: RolloutState = RolloutState.READY
    reason: str = ""

    @property
    def is_open(self) -> bool:
        """Whether it may still offer its release to somebody."""
        return self.state in OPEN_STATES

    @property
    def is_watched(self) -> bool:
        """Whether a device's report can still change it."""
        return self.is_open or any(
            member.offered_s is not None and not member.is_settled for member in self.members
        )

    def count(self, state: MemberState) -> int:
        """Return how many members are in ``state``."""
        return sum(member.state is state for member in self.members)


def move(
    rollout: Rollout, event: RolloutEvent, *, reason: str, now: float
) -> tuple[Rollout, Decisions]:
    """Return the rollout after ``event``, and what to do about it.

    What ends a rollout withdraws the offers of all devices that have not begun.

    Raises:
        ConfigError: The event does not fit the rollout's state.
    """
    state = step(rollout.state, event)
    moved = msgspec.structs.replace(rollout, state=state, reason=reason)
    decisions: Decisions = (RolloutMoved(event=event, state=state, reason=reason),)
    if event is RolloutEvent.RESUME:
        return _reopen(moved, now), decisions
    if moved.is_open or event is RolloutEvent.FINISH:
        return moved, decisions
    moved, withdrawals = _withdraw_all(moved, reason)
    return moved, (*decisions, *withdrawals)


def advance(
    rollout: Rollout, reports: Mapping[str, Report], now: float
) -> tuple[Rollout, Decisions]:
    """Return the rollout as it follows from the devices' last reports, and what to do.

    Args:
        rollout: The rollout as it was.
        reports: The last accepted report of each device.
        now: Seconds since the epoch on the manager's clock.
    """
    rollout, decisions = _observe(rollout, reports)
    while rollout.state is RolloutState.RUNNING:
        following, more = _advance_stage(rollout, now)
        if following == rollout:
            break
        rollout, decisions = following, (*decisions, *more)
    return rollout, decisions


def _observe(rollout: Rollout, reports: Mapping[str, Report]) -> tuple[Rollout, Decisions]:
    members: list[Member] = []
    decisions: list[Decision] = []
    for member in rollout.members:
        report = reports.get(member.device)
        seen = member if report is None else observed(member, report, rollout.id)
        members.append(seen)
        if report is None or seen == member:
            continue
        decisions.append(
            MemberMoved(
                device=seen.device,
                state=seen.state,
                report_number=report.number,
                refusal=seen.refusal,
            )
        )
        if seen.is_settled and member.offered_s is not None:
            reason = f"the device reported {seen.state.value}"
            decisions.append(WithdrawOffer(device=seen.device, reason=reason))
    return msgspec.structs.replace(rollout, members=tuple(members)), tuple(decisions)


def observed(member: Member, report: Report, rollout_id: str) -> Member:
    """Return ``member`` as its device's last report shows it.

    Success is a report in state ``committed`` whose loaded manifest is the one that the release
    has for the device; which rollout brought it there does not matter.
    """
    runs_it = report.loaded is not None and report.loaded.manifest == member.manifest
    if report.state is UpdateState.COMMITTED and runs_it:
        return msgspec.structs.replace(member, state=MemberState.COMMITTED, refusal=None)
    if report.rollout != rollout_id:
        return member
    if report.state is UpdateState.COMMITTED:
        refusal = Refusal(code="other-manifest", message="committed, but runs something else")
        return msgspec.structs.replace(member, state=MemberState.FAILED, refusal=refusal)
    if report.state in _FAILURES:
        refusal = report.refusal or Refusal(code=report.state.value, message="no reason given")
        return msgspec.structs.replace(member, state=MemberState.FAILED, refusal=refusal)
    if report.state not in _NOT_BEGUN and not member.is_settled:
        return msgspec.structs.replace(member, state=MemberState.UPDATING)
    return member


def _advance_stage(rollout: Rollout, now: float) -> tuple[Rollout, Decisions]:
    for number, stage in enumerate(rollout.stages):
        if stage.state is not StageState.PASSED:
            return _STEPS[stage.state](rollout, number, now)
    return move(rollout, RolloutEvent.FINISH, reason="every stage passed", now=now)


def _admit(rollout: Rollout, number: int, now: float) -> tuple[Rollout, Decisions]:
    offers = tuple(
        OfferRelease(device=member.device, manifest=member.manifest, stage=number)
        for member in rollout.members
        if member.stage == number and member.state is MemberState.WAITING
    )
    rollout = _with_offers(rollout, {offer.device for offer in offers}, now)
    rollout, moved = _move_stage(rollout, number, StageState.ADMITTING, since_s=now)
    return rollout, (*moved, *offers)


def _watch(rollout: Rollout, number: int, now: float) -> tuple[Rollout, Decisions]:
    stage, members = rollout.stages[number], _members_of(rollout, number)
    if _too_many_failed(rollout) or now - stage.since_s > rollout.policy.deadline_s:
        return _move_stage(rollout, number, StageState.JUDGING, since_s=now)
    if all(member.is_settled for member in members):
        return _move_stage(rollout, number, StageState.SOAKING, since_s=now)
    return _refresh(rollout, number, now)


def _refresh(rollout: Rollout, number: int, now: float) -> tuple[Rollout, Decisions]:
    old = tuple(
        OfferRelease(device=member.device, manifest=member.manifest, stage=number)
        for member in _members_of(rollout, number)
        if member.state is MemberState.OFFERED
        and member.offered_s is not None
        and now - member.offered_s > OFFER_REFRESH_S
    )
    return _with_offers(rollout, {offer.device for offer in old}, now), old


def _soak(rollout: Rollout, number: int, now: float) -> tuple[Rollout, Decisions]:
    is_over = now - rollout.stages[number].since_s >= rollout.policy.soak_s
    if is_over or _too_many_failed(rollout):
        return _move_stage(rollout, number, StageState.JUDGING, since_s=now)
    return rollout, ()


def _judge(rollout: Rollout, number: int, now: float) -> tuple[Rollout, Decisions]:
    verdict = judge(_members_of(rollout, number), rollout.members, rollout.policy)
    rollout, decisions = _move_stage(
        rollout, number, verdict.state, since_s=now, reason=verdict.reason
    )
    event = _AFTER_VERDICT.get(verdict.state)
    if event is None:
        return rollout, decisions
    reason = f"stage {number + 1}: {verdict.reason}"
    rollout, more = move(rollout, event, reason=reason, now=now)
    return rollout, (*decisions, *more)


_AFTER_VERDICT: Final = MappingProxyType(
    {StageState.FAILED: RolloutEvent.HALT, StageState.INCONCLUSIVE: RolloutEvent.PAUSE}
)
_STEPS: Final[Mapping[StageState, Callable[[Rollout, int, float], tuple[Rollout, Decisions]]]] = (
    MappingProxyType(
        {
            StageState.PENDING: _admit,
            StageState.ADMITTING: _watch,
            StageState.SOAKING: _soak,
            StageState.JUDGING: _judge,
        }
    )
)


def _move_stage(
    rollout: Rollout, number: int, state: StageState, *, since_s: float, reason: str = ""
) -> tuple[Rollout, Decisions]:
    stage = msgspec.structs.replace(
        rollout.stages[number], state=state, since_s=since_s, reason=reason
    )
    stages = (*rollout.stages[:number], stage, *rollout.stages[number + 1 :])
    members = _members_of(rollout, number)
    decision = StageMoved(
        stage=number,
        state=state,
        committed=sum(member.state is MemberState.COMMITTED for member in members),
        failed=sum(member.state is MemberState.FAILED for member in members),
        waiting=sum(not member.is_settled for member in members),
        reason=reason,
    )
    return msgspec.structs.replace(rollout, stages=stages), (decision,)


def _reopen(rollout: Rollout, now: float) -> Rollout:
    stages = tuple(
        msgspec.structs.replace(stage, state=StageState.ADMITTING, since_s=now, reason="")
        if stage.state in {StageState.INCONCLUSIVE, StageState.ADMITTING}
        else stage
        for stage in rollout.stages
    )
    return msgspec.structs.replace(rollout, stages=stages)


def _withdraw_all(rollout: Rollout, reason: str) -> tuple[Rollout, Decisions]:
    offered = {m.device for m in rollout.members if m.state is MemberState.OFFERED}
    members = tuple(
        msgspec.structs.replace(member, state=MemberState.WITHDRAWN)
        if member.device in offered
        else member
        for member in rollout.members
    )
    withdrawals = tuple(
        WithdrawOffer(device=member.device, reason=reason)
        for member in members
        if member.device in offered
    )
    return msgspec.structs.replace(rollout, members=members), withdrawals


def _with_offers(rollout: Rollout, devices: set[str], now: float) -> Rollout:
    members = tuple(
        msgspec.structs.replace(member, state=MemberState.OFFERED, offered_s=now)
        if member.device in devices
        else member
        for member in rollout.members
    )
    return msgspec.structs.replace(rollout, members=members)


def _members_of(rollout: Rollout, number: int) -> tuple[Member, ...]:
    return tuple(member for member in rollout.members if member.stage == number)


def _too_many_failed(rollout: Rollout) -> bool:
    return rollout.count(MemberState.FAILED) >= rollout.policy.failure_limit
