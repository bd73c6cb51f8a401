"""The benchmark of what this very box runs, signed by its key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from asdic.contract.bench import BenchReport
from asdic.contract.errors import ConfigError
from asdic.device.bench.benchmark import Origin, Settings, run_benchmark
from asdic.device.bench.frames import FrameSource
from asdic.device.bench.signing import sign_result
from asdic.device.config import StateFolder, read_config
from asdic.device.identity import read_key
from asdic.device.update.storage import DiskStorage
from asdic.device.update.store import Pointer, Store


def measure_current(
    state: StateFolder,
    settings: Settings,
    *,
    frames: FrameSource | None = None,
    order: str | None = None,
    on_phase: Callable[[str], None] = lambda _phase: None,
) -> BenchReport:
    """Return the result of the box's current release; it names the box and the release.

    Raises:
        ConfigError: The box has no current release, or is not configured as ``settings`` are.
        ReleaseError: The release is damaged.
    """
    config = read_config(state)
    store = Store(state.path, DiskStorage())
    digest = store.pointer(Pointer.CURRENT)
    if digest is None:
        raise ConfigError(f"{state.path} has no current release yet")
    release = store.release(digest)
    return run_benchmark(
        Path(release.folder),
        settings,
        frames=frames,
        origin=Origin(device=config.device, version=release.version, manifest=digest, order=order),
        on_phase=on_phase,
    )


def signed(state: StateFolder, report: BenchReport) -> bytes:
    """Return ``report`` in an envelope signed by the box's key.

    Raises:
        ConfigError: The key cannot be read, or the result is too large.
    """
    return sign_result(report, read_key(state))
