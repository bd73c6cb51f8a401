"""The trial of a candidate, in a process of its own: ``python -m asdic.device.update.trial``.

A validly signed model may still be hostile, or just take all memory. So this process first gives
up what it can (user, network, files, memory, priority, a core), then opens the model, runs the
golden set and a short benchmark, and prints one JSON object. The agent judges it (``gate.py``).
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.errors import AsdicError
from asdic.contract.messages import Refusal, RuntimeFacts
from asdic.device.process import PR_SET_NO_NEW_PRIVS, control_process, end_with_parent
from asdic.device.runner.cache import keep_in
from asdic.device.update.landlock import LOOK, OWN, USE, libraries, restrict
from asdic.device.update.refusal import refusal_for
from asdic.device.update.seccomp import refuse_sockets

NOBODY: Final = 65_534
CLONE_NEWUSER: Final = 0x1000_0000
CLONE_NEWNET: Final = 0x4000_0000
FILE_LIMIT_BYTES: Final = 1 << 20
HEADROOM_BYTES: Final = 2 << 30
NICENESS: Final = 10
NO_HOME: Final = "/nonexistent"
# What a runtime on the processor reads and an attacker cannot use: no /home, no /var, little of
# /etc.
SYSTEM: Final = (
    *("/usr", "/lib", "/lib64", "/bin", "/opt", "/proc", "/sys"),
    *("/etc/ld.so.cache", "/etc/localtime", "/etc/passwd"),
)
DEVICES: Final = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What the golden set and the benchmark gave; ``slowdown`` is against the current model.

    ``slowdown`` is the lower end of the ratio's 95 % interval, and None without a comparison.
    """

    has_golden: bool
    golden_reason: str
    outputs_checked: int
    worst_difference: float
    metric: str
    measured: float
    limit: float
    latency_ms_p50: float
    load_s: float
    memory_bytes: int
    slowdown: float | None
    runtime: RuntimeFacts | None = None


class TrialResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the trial prints: one of the first two, and what the process could give up."""

    measured: Measured | None = None
    refusal: Refusal | None = None
    confinement: tuple[str, ...] = ()


def confine(
    folder: Path,
    memory_bytes: int,
    cpu_s: int,
    *,
    file_bytes: int = FILE_LIMIT_BYTES,
    cache: Path | None = None,
    baseline: Path | None = None,
) -> tuple[str, ...]:
    """Give up what this process does not need and return what could be given up.

    It must run before any thread starts. Where the kernel refuses, the trial still runs: the
    result says what was in force.

    Args:
        folder: The candidate, which it may read.
        memory_bytes: What the candidate may take.
        cpu_s: How many seconds of a processor the whole trial may take.
        file_bytes: How large a file may become. More than ``FILE_LIMIT_BYTES`` is for runtimes
            that build something, and those open drivers, whose files no list here can know.
        cache: The one folder that it may still write to, whoever it is then.
        baseline: The current model, which it may read.
    """
    given_up = ["files", "memory", "cpu", "priority"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # RLIMIT_DATA is the backstop; the agent watches what is really resident.
    most = memory_bytes + HEADROOM_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s))
    os.nice(NICENESS)
    # Whoever else wakes up takes the core at once, and not only a larger share of it.
    with suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    given_up.extend(_give_up_a_core())
    given_up.extend(_give_up_network_and_user(folder, cache))
    if file_bytes <= FILE_LIMIT_BYTES:
        given_up.extend(restrict(_needed(folder, baseline, cache)))
        given_up.extend(["sockets"] if refuse_sockets() else [])
    if control_process(PR_SET_NO_NEW_PRIVS, 1):
        given_up.append("new-privileges")
    return tuple(given_up)


def _give_up_a_core() -> list[str]:
    """Leave one core to the live model. Runtimes take as many threads as there are cores left.

    The first core stays free: it is where most kernels handle interrupts, and a frame's way in
    begins with one.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        return []
    os.sched_setaffinity(0, allowed[1:])
    return ["core"]


def _give_up_network_and_user(folder: Path, cache: Path | None) -> list[str]:
    """Leave the network, then become nobody where nobody could still read the model.

    Elsewhere a user namespace takes root's capabilities away, and the files' owner stays.
    """
    if os.geteuid() != 0 or not _is_public(folder):
        return ["network", "capabilities"] if _unshare(CLONE_NEWUSER | CLONE_NEWNET) else []
    given_up = ["network"] if _unshare(CLONE_NEWNET) else []
    if cache is not None:
        own_folders(cache, NOBODY)
    with suppress(OSError):
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        given_up.append("user")
    return given_up


def _needed(folder: Path, baseline: Path | None, cache: Path | None) -> dict[Path, int]:
    """Return what a trial on the processor opens: not the folder around the releases.

    Only a state folder inside the system's or Python's own folders could not be kept from it.
    """
    own = (*SYSTEM, sys.prefix, sys.base_prefix, *_source_folders())
    others = [Path(place) for place in sys.path if place]
    needed = {Path(place): LOOK for place in own}
    needed.update(libraries(others, beside=folder.resolve()))
    needed.update({Path(device): USE for device in DEVICES})
    needed.update({release: LOOK for release in (folder, baseline) if release is not None})
    if cache is not None:
        needed[cache] = OWN
    return needed


def _source_folders() -> tuple[str, ...]:
    import asdic.contract
    import asdic.device

    return (*asdic.contract.__path__, *asdic.device.__path__)


def own_folders(cache: Path, user: int) -> None:
    """Give a cache's folders to ``user``, where this process may.

    Its files stay whose they are: who owns the folder may replace them, and nobody else reaches
    them. A name that a trial left in the folder is never followed.
    """
    if os.geteuid() == 0:
        for folder, _, _ in os.walk(cache):
            os.chown(folder, user, -1, follow_symlinks=False)


def _unshare(flags: int) -> bool:
    """Call ``unshare(2)``, which Python has from 3.12 on."""
    return bool(ctypes.CDLL(None, use_errno=True).unshare(flags) == 0)


def _is_public(folder: Path) -> bool:
    """Return whether any user can read ``folder`` and the program that has to open it."""
    ours = Path(__file__).resolve().parent
    places = (folder.resolve(), ours, Path(sys.prefix), Path(sys.base_prefix))
    return all(path.stat().st_mode & 0o001 for place in places for path in (place, *place.parents))


def measure_candidate(
    folder: Path, *, baseline: Path | None, simulate: bool, seconds: float
) -> Measured:
    """Return what the candidate in ``folder`` does here.

    Raises:
        AsdicError: It cannot be opened, or its golden set is damaged.
    """
    from asdic.device.bench.bench import bench_folder

    result = bench_folder(folder, seconds=seconds, simulate=simulate)
    golden = result.golden
    return Measured(
        has_golden=golden is not None,
        golden_reason=golden.reason if golden and not golden.passed else "",
        outputs_checked=golden.outputs_checked if golden else 0,
        worst_difference=golden.worst_difference if golden else 0.0,
        metric=golden.metric if golden else "",
        measured=golden.measured if golden else 0.0,
        limit=golden.limit if golden else 0.0,
        latency_ms_p50=result.p50_ms,
        load_s=result.load_s,
        memory_bytes=result.memory_bytes,
        runtime=result.runtime,
        slowdown=_slowdown(folder, baseline, simulate=simulate, seconds=seconds),
    )


def _slowdown(
    folder: Path, baseline: Path | None, *, simulate: bool, seconds: float
) -> float | None:
    """Measure candidate and current model by turns; None where the current one cannot take part."""
    from asdic.contract.variant import read_variant
    from asdic.device.bench.bench import compare
    from asdic.device.runner.golden import read_golden
    from asdic.device.runner.runner import Runner

    golden = read_variant(folder, check=False).golden
    if baseline is None or golden is None:
        return None
    inputs = read_golden(folder / golden.file.name)[0].inputs
    try:
        comparison = compare(
            lambda: Runner.open(folder, simulate=simulate),
            lambda: Runner.open(baseline, simulate=simulate),
            inputs,
            seconds=seconds,
        )
    except AsdicError:
        return None
    return comparison.low


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one trial; the exit code is 0 whatever the result, which is on stdout."""
    parser = argparse.ArgumentParser(prog="asdic-trial")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--baseline", type=Path)
    parser.add_argument("--simulate", action="store_true")
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--memory-bytes", type=int, required=True)
    parser.add_argument("--cpu-s", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--file-bytes", type=int, default=FILE_LIMIT_BYTES)
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args(arguments)
    # Libraries look for their settings at home, and fall over what they may not open there.
    os.environ["HOME"] = NO_HOME
    if options.cache is not None:
        keep_in(options.cache)
    confinement = confine(
        options.folder,
        options.memory_bytes,
        options.cpu_s,
        file_bytes=options.file_bytes,
        cache=options.cache,
        baseline=options.baseline,
    )
    # A change of user clears the parent-death signal, hence after it.
    end_with_parent(options.parent)
    measured, refusal = None, None
    try:
        measured = measure_candidate(
            options.folder,
            baseline=options.baseline,
            simulate=options.simulate,
            seconds=options.seconds,
        )
    except AsdicError as error:
        refusal = refusal_for(error)
    except MemoryError:
        refusal = Refusal(code="memory", message="the model takes more memory than it may")
    result = TrialResult(measured=measured, refusal=refusal, confinement=confinement)
    sys.stdout.buffer.write(msgspec.json.encode(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
