"""How many processors this process may use: its affinity, cut to the quota of its cgroups.

``os.cpu_count`` knows neither ``taskset`` nor a container's limit. A thread pool that is wider
than the quota is stopped by the kernel for most of every 100 ms, in the middle of inferences.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

CGROUPS: Final = Path("/sys/fs/cgroup")
MEMBERSHIP: Final = Path("/proc/self/cgroup")
_READ_LIMIT_CHARACTERS: Final = 1 << 16


def usable_threads(*, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return how many threads of this process can run at once, at least 1.

    A quota of one and a half processors counts as one: with two threads the kernel would stop
    both for a quarter of the time.

    Args:
        cgroups: Where the kernel's control groups are mounted.
        membership: In which groups this process is, as in ``/proc/self/cgroup``.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota(cgroups=cgroups, membership=membership)
    return allowed if quota is None else max(1, min(allowed, math.floor(quota)))


def cpu_quota(*, cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> float | None:
    """Return how many processors' time the cgroups allow, v1 or v2, or None without a limit.

    Each group above is a limit as well. A container often sees its own group as the root, under
    a path that does not exist there; so missing groups are passed over.
    https://docs.kernel.org/admin-guide/cgroup-v2.html#cpu-interface-files
    """
    quotas = [
        quota
        for controllers, path in _memberships(membership)
        for group in _groups(cgroups, controllers, path)
        if (quota := _quota_of(group)) is not None
    ]
    return min(quotas, default=None)


def _memberships(path: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Yield controllers and path of each group that may limit processors; v2's has no names."""
    for line in _read(path).splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3 and (not fields[1] or "cpu" in fields[1].split(",")):
            yield fields[1], PurePosixPath(fields[2])


def _groups(root: Path, controllers: str, path: PurePosixPath) -> Iterator[Path]:
    """Yield the group's folder and all above it. A path that leaves the namespace is its root."""
    mounts = (root / controllers, root / "cpu") if controllers else (root, root / "unified")
    inside = [part for part in path.parts if part not in {"/", "..", "."}]
    if ".." in path.parts:
        inside = []
    for mount in mounts:
        for depth in range(len(inside), -1, -1):
            yield mount.joinpath(*inside[:depth])


def _quota_of(group: Path) -> float | None:
    both = _read(group / "cpu.max").split()
    if len(both) == 2:
        return _ratio(*both)
    return _ratio(_read(group / "cpu.cfs_quota_us"), _read(group / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    """Return quota over period; v2 says ``max`` and v1 ``-1`` for no limit."""
    try:
        used, every = int(quota), int(period)
    except ValueError:
        return None
    return used / every if used > 0 and every > 0 else None


def _read(path: Path) -> str:
    try:
        with path.open(encoding="ascii", errors="replace") as file:
            return file.read(_READ_LIMIT_CHARACTERS).strip()
    except OSError:
        return ""
