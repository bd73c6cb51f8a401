"""What people and programs get to see of the fleet, as plain data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from asdic.fleet.inventory import Device
from asdic.fleet.measurements import BenchView
from asdic.fleet.records import Event
from asdic.fleet.rollout import Rollout
from asdic.fleet.stage import MemberState


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """A device as its own last report shows it; ``online`` is only a hint.

    ``firmware`` is what the microcontroller beside it ran when its last update asked.
    ``warning`` says what speaks against believing it, and ``warning_s`` since when; ``doubt`` what
    speaks against ``release``: its program is silent, or also maps another.
    """

    id: str
    target: str
    runtime: str | None
    runtime_version: str | None
    simulated: bool
    release: str | None
    manifest: str | None
    state: str
    refusal: str | None
    report_number: int
    online: bool
    seen_s: float | None
    refused_messages: int
    tags: dict[str, str]
    warning: str = ""
    warning_s: float | None = None
    doubt: str = ""
    firmware: str | None = None


class StageView(msgspec.Struct, frozen=True, kw_only=True):
    """A stage: its devices, where it stands and why."""

    devices: tuple[str, ...]
    state: str
    reason: str


class MemberView(msgspec.Struct, frozen=True, kw_only=True):
    """A device in a rollout; stages count from 1."""

    id: str
    stage: int
    state: str
    refusal: dict[str, str] | None


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """A rollout in figures, with its stages, devices and events."""

    id: str
    release: str
    state: str
    reason: str
    selection: str
    created_s: float
    committed: int
    failed: int
    updating: int
    offered: int
    withdrawn: int
    never_offered: int
    unsupported: int
    unsupported_devices: tuple[str, ...]
    stages: tuple[StageView, ...]
    devices: tuple[MemberView, ...]
    events: tuple[Event, ...]

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state not in {"ready", "scheduled", "running"}


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What the page shows: all devices and the newest rollouts."""

    devices: tuple[DeviceView, ...]
    rollouts: tuple[RolloutView, ...]
    rollouts_in_all: int
    benchmarks: tuple[BenchView, ...] = ()
    broker: str
    time_s: float


def device_view(device: Device) -> DeviceView:
    """Return what is known of ``device``."""
    report = device.report
    runtime = report.runtime if report else None
    loaded = report.loaded if report else None
    refusal = report.refusal if report else None
    return DeviceView(
        id=device.id,
        target=device.target,
        runtime=runtime.runtime if runtime else None,
        runtime_version=runtime.version if runtime else None,
        simulated=device.simulated or bool(runtime and runtime.simulated),
        release=loaded.version if loaded else None,
        doubt=loaded.doubt if loaded else "",
        manifest=loaded.manifest if loaded else None,
        state=report.state.value if report else "never-reported",
        refusal=f"{refusal.code}: {refusal.message}" if refusal else None,
        report_number=device.report_number,
        online=device.online,
        seen_s=device.seen_s,
        refused_messages=device.refused_messages,
        tags=device.tags,
        warning=_warning(device),
        warning_s=device.conflict_s,
        firmware=report.firmware.version if report and report.firmware else None,
    )


def _warning(device: Device) -> str:
    """Return what a person should know before believing a device's reports."""
    if not device.conflicts:
        return ""
    times = "once" if device.conflicts == 1 else f"{device.conflicts} times"
    return f"restored or copied: it used a report's number again, {times}"


def rollout_view(rollout: Rollout, events: Iterable[Event] = ()) -> RolloutView:
    """Return ``rollout`` in figures."""
    return RolloutView(
        id=rollout.id,
        release=rollout.version,
        state=rollout.state.value,
        reason=rollout.reason,
        selection=rollout.selection,
        created_s=rollout.created_s,
        committed=rollout.count(MemberState.COMMITTED),
        failed=rollout.count(MemberState.FAILED),
        updating=rollout.count(MemberState.UPDATING),
        offered=rollout.count(MemberState.OFFERED),
        withdrawn=rollout.count(MemberState.WITHDRAWN),
        never_offered=rollout.count(MemberState.WAITING),
        unsupported=len(rollout.unsupported),
        unsupported_devices=rollout.unsupported,
        stages=tuple(
            StageView(devices=stage.devices, state=stage.state.value, reason=stage.reason)
            for stage in rollout.stages
        ),
        devices=tuple(
            MemberView(
                id=member.device,
                stage=member.stage + 1,
                state=member.state.value,
                refusal=msgspec.to_builtins(member.refusal),
            )
            for member in rollout.members
        ),
        events=tuple(events),
    )


def describe_event(event: Event) -> str:
    """Return an event as one short sentence."""
    return _SENTENCES[event.kind].format_map(_Blank(event.detail)).strip()


_SENTENCES = {
    "offer": "offered to {device} (stage {stage})",
    "withdraw": "offer of {device} closed: {reason}",
    "device": "{device} is {state}",
    "stage": "stage {stage} is {state}: {committed} committed, {failed} failed, {waiting} open",
    "rollout": "rollout is {state} {reason}",
}


class _Blank(dict[str, Any]):
    """Stage numbers as people count, and nothing for what is absent."""

    def __getitem__(self, key: str) -> Any:
        value = self.get(key, "")
        return value + 1 if key == "stage" and isinstance(value, int) else value
