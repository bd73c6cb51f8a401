"""Who belongs to which stage of a rollout, and where each of them stands."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import pairwise
from typing import Annotated, Final

import msgspec

from asdic.contract.errors import ConfigError
from asdic.contract.messages import Refusal

_STEP: Final = re.compile(r"([0-9]{1,6})(%?)")


class StageState(str, Enum):
    """Where a stage stands; a failed one halts the rollout, an inconclusive one pauses it."""

    PENDING = "pending"
    ADMITTING = "admitting"
    SOAKING = "soaking"
    JUDGING = "judging"
    PASSED = "passed"
    INCONCLUSIVE = "inconclusive"
    FAILED = "failed"


class MemberState(str, Enum):
    """Where a device stands in a rollout, by the manager's decisions and its own reports."""

    WAITING = "waiting"
    OFFERED = "offered"
    UPDATING = "updating"
    COMMITTED = "committed"
    FAILED = "failed"
    WITHDRAWN = "withdrawn"


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """When a stage is judged.

    After its devices are done and ``soak_s`` more seconds have passed, at the latest after
    ``deadline_s``, and at once when ``failure_limit`` devices have failed.
    """

    soak_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    deadline_s: Annotated[float, msgspec.Meta(gt=0)] = 86400.0
    failure_limit: Annotated[int, msgspec.Meta(ge=1)] = 1


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One device of a rollout; ``manifest`` is the digest of what it shall run."""

    device: str
    target: str
    manifest: str
    stage: int
    state: MemberState = MemberState.WAITING
    refusal: Refusal | None = None
    offered_s: float | None = None

    @property
    def is_settled(self) -> bool:
        """Whether the device has reported how its update ended."""
        return self.state in {MemberState.COMMITTED, MemberState.FAILED}


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """Devices that get the release together; ``since_s`` is when it entered its state."""

    devices: tuple[str, ...]
    state: StageState = StageState.PENDING
    since_s: float = 0.0
    reason: str = ""


def order_of(devices: Iterable[str], salt: str) -> tuple[str, ...]:
    """Return ``devices`` in the rollout's own order, which only the salt changes.

    A device's place depends on nobody else, so raising a percentage only adds devices.
    """
    return tuple(
        sorted(devices, key=lambda device: hashlib.sha256(f"{salt}:{device}".encode()).digest())
    )


def parse_steps(text: str) -> tuple[str, ...]:
    """Return the steps of ``"1,50%,100%"``: how much of the fleet each stage reaches in total.

    Raises:
        ConfigError: It is not such a list, or it does not reach everybody.
    """
    steps = tuple(step.strip() for step in text.split(","))
    if not all(_STEP.fullmatch(step) for step in steps):
        raise ConfigError(f"cannot read the stages {text!r}; write them like 1,50%,100%")
    if steps[-1] != "100%":
        raise ConfigError(f"the stages {text!r} leave devices out; the last must be 100%")
    return steps


def split(devices: Sequence[str], steps: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the devices of each stage; a step that adds nobody makes no stage.

    Raises:
        ConfigError: A step reaches fewer devices than the one before it.
    """
    ends = [0, *(_end(step, len(devices)) for step in steps)]
    if ends != sorted(ends):
        raise ConfigError(f"the stages {','.join(steps)} shrink for {len(devices)} devices")
    stages = (tuple(devices[start:end]) for start, end in pairwise(ends))
    return tuple(stage for stage in stages if stage)


def plan(
    targets: Mapping[str, str], manifests: Mapping[str, str], *, steps: Sequence[str], salt: str
) -> tuple[tuple[Stage, ...], tuple[Member, ...], tuple[str, ...]]:
    """Return stages, members and the devices for which there is no variant.

    Args:
        targets: Target of each selected device.
        manifests: Digest of the release's manifest for each target.
        steps: How far each stage reaches, from ``parse_steps``.
        salt: The rollout's own random text.
    """
    supported = order_of((d for d, target in targets.items() if target in manifests), salt)
    groups = split(supported, steps)
    members = tuple(
        Member(
            device=device,
            target=targets[device],
            manifest=manifests[targets[device]],
            stage=number,
        )
        for number, group in enumerate(groups)
        for device in group
    )
    unsupported = tuple(sorted(set(targets) - set(supported)))
    return tuple(Stage(devices=group) for group in groups), members, unsupported


def _end(step: str, count: int) -> int:
    match = _STEP.fullmatch(step)
    if match is None:
        raise ConfigError(f"cannot read the stage {step!r}; write it like 5 or 50%")
    number = int(match[1])
    return min(count, math.ceil(count * number / 100) if match[2] else number)
