"""The benchmark of what this very box runs, signed by its key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from asdic.contract.bench import BenchReport
from asdic.contract.errors import AsdicError, ConfigError
from asdic.contract.files import write_file
from asdic.device.bench.benchmark import run_benchmark
from asdic.device.bench.frames import FrameSource
from asdic.device.bench.settings import Origin, Settings
from asdic.device.bench.signing import sign_result
from asdic.device.config import StateFolder, read_config
from asdic.device.identity import read_key
from asdic.device.orders import sign_refusal
from asdic.device.update.refusal import refusal_for
from asdic.device.update.storage import Storage
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
    store = Store(state.path, Storage())
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


@contextmanager
def answering(state: StateFolder, order: str | None, path: Path | None) -> Iterator[None]:
    """Answer the manager's ``order`` (None: a person asked) where the work inside cannot be done.

    Args:
        state: The box's state folder.
        order: The order's id.
        path: Where the answer belongs; one that is there already stays.

    Raises:
        AsdicError: Whatever the work inside raised.
    """
    try:
        yield
    except AsdicError as error:
        if order is not None and path is not None and not path.exists():
            device = read_config(state).device
            write_file(path, sign_refusal(state, device, order, refusal_for(error)))
        raise
