"""The verdict on a stage, from its devices' signed reports and nothing else.

A download, an acknowledgement or silence is never a success. "Inconclusive" is a verdict: it
pauses the rollout, and a person decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from asdic.fleet.stage import Member, MemberState, Policy, StageState


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Passed, failed or inconclusive, and why in one sentence."""

    state: StageState
    reason: str


def judge(stage: Sequence[Member], everybody: Iterable[Member], policy: Policy) -> Verdict:
    """Return the verdict on ``stage``.

    Failures anywhere in the rollout count against the limit, and a stage in which devices failed
    and none committed has failed whatever the limit.
    """
    failed = [member for member in everybody if member.state is MemberState.FAILED]
    if len(failed) >= policy.failure_limit:
        return Verdict(state=StageState.FAILED, reason=_reason(failed))
    committed = sum(member.state is MemberState.COMMITTED for member in stage)
    failed_here = [member for member in stage if member.state is MemberState.FAILED]
    if failed_here and not committed:
        return Verdict(state=StageState.FAILED, reason=f"nobody committed; {_reason(failed_here)}")
    silent = [member.device for member in stage if not member.is_settled]
    if silent:
        names = _shortened(silent)
        return Verdict(
            state=StageState.INCONCLUSIVE, reason=f"no final report in time from {names}"
        )
    return Verdict(state=StageState.PASSED, reason=f"{committed} of {len(stage)} committed")


def _reason(failed: Sequence[Member]) -> str:
    first = failed[0]
    why = f"{first.refusal.code}: {first.refusal.message}" if first.refusal else "no reason given"
    others = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
    return f"{first.device} failed: {why}{others}"


def _shortened(names: Sequence[str], limit: int = 5) -> str:
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + rest
