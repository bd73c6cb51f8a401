"""The machine before the first measurement: what it is, how it is set, and who else works on it.

Nothing is changed and nothing is hidden: a restless machine is measured, and the result says so.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from asdic.contract.bench import Machine
from asdic.contract.target import Architecture
from asdic.device.bench.sensors import read_text
from asdic.device.runner.engine import usable_threads

QUIET_LOAD: Final = 0.25
QUIET_PRESSURE_PERCENT: Final = 5.0
STEADY_GOVERNORS: Final = frozenset({"performance", "userspace"})
MACHINES: Final = {"x86_64": Architecture.X86_64, "aarch64": Architecture.ARM64}
_TEXT_LIMIT_CHARACTERS: Final = 1 << 16
_NO_LIMIT_BYTES: Final = 1 << 60


def inspect_machine(root: Path = Path("/")) -> Machine:
    """Return what this machine is and how it is set."""
    quota = _cgroup(root, "cpu.max")
    return Machine(
        architecture=platform.machine(),
        processor=_processor(root),
        kernel=platform.release(),
        processors=os.cpu_count() or 1,
        usable_processors=usable_threads(),
        processor_quota=_quota(quota),
        memory_bytes=_memory_bytes(root),
        memory_limit_bytes=_limit_bytes(_cgroup(root, "memory.max")),
        governors=_governors(root),
        turbo=_turbo(root),
        power_mode=_power_mode(root),
        load=_number(read_text(root / "proc/loadavg")),
        pressure_percent=_pressure(root),
    )


def disturbances(machine: Machine) -> Iterator[str]:
    """Yield, as sentences, what keeps this machine from being quiet."""
    if machine.load is not None and machine.load > QUIET_LOAD * machine.usable_processors:
        yield (
            f"others work here: the load was {machine.load:.2f} on {machine.usable_processors} "
            "processors before the start"
        )
    pressure = machine.pressure_percent
    if pressure is not None and pressure > QUIET_PRESSURE_PERCENT:
        yield f"programs waited for a processor {pressure:.0f} % of the last 10 s"
    restless = sorted(set(machine.governors) - STEADY_GOVERNORS)
    if restless:
        yield f"the clock follows the load (governor {', '.join(restless)})"
    quota = machine.processor_quota
    if quota is not None and quota < machine.usable_processors:
        yield f"a control group grants {quota:g} of {machine.usable_processors} processors"


def is_emulated(wanted: Architecture | None, root: Path = Path("/")) -> bool:
    """Return whether this is not the target's kind of processor, or an emulated one.

    An emulator like qemu answers ``uname`` itself, but shows the real kernel's files.
    """
    kernel = read_text(root / "proc/sys/kernel/arch") or platform.machine()
    here = MACHINES.get(platform.machine())
    return kernel != platform.machine() or (wanted is not None and wanted is not here)


def _processor(root: Path) -> str:
    for line in _lines(root / "proc/cpuinfo"):
        key, _, value = line.partition(":")
        if key.strip().lower() == "model name":
            return value.strip()
    return read_text(root / "proc/device-tree/model") or "unknown"


def _memory_bytes(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) << 10
    return None


def _cgroup(root: Path, name: str) -> str | None:
    """Return what the nearest control group (version 2) that sets ``name`` says."""
    own = next((line[3:] for line in _lines(root / "proc/self/cgroup") if line[:3] == "0::"), "/")
    base = root / "sys/fs/cgroup"
    folder = base / own.strip().lstrip("/")
    for place in (folder, *folder.parents):
        text = read_text(place / name)
        if text is not None and not text.startswith("max"):
            return text
        if place == base:
            break
    return None


def _quota(text: str | None) -> float | None:
    """Return ``200000 100000`` as 2.0 processors."""
    parts = (text or "").split()
    if len(parts) != 2 or not all(part.isdecimal() for part in parts) or parts[1] == "0":
        return None
    return int(parts[0]) / int(parts[1])


def _limit_bytes(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and int(text) < _NO_LIMIT_BYTES else None


def _governors(root: Path) -> tuple[str, ...]:
    paths = root.glob("sys/devices/system/cpu/cpufreq/policy*/scaling_governor")
    return tuple(sorted({text for path in paths if (text := read_text(path))}))


def _turbo(root: Path) -> bool | None:
    no_turbo = read_text(root / "sys/devices/system/cpu/intel_pstate/no_turbo")
    boost = read_text(root / "sys/devices/system/cpu/cpufreq/boost")
    if no_turbo is not None:
        return no_turbo == "0"
    return None if boost is None else boost == "1"


def _power_mode(root: Path) -> str | None:
    """Return Jetson's nvpmodel (``pmode:0002``) or the ACPI platform profile."""
    return read_text(root / "var/lib/nvpmodel/status") or read_text(
        root / "sys/firmware/acpi/platform_profile"
    )


def _pressure(root: Path) -> float | None:
    """Return ``some avg10`` of the kernel's pressure stall information for the processor."""
    for line in _lines(root / "proc/pressure/cpu"):
        words = line.split()
        if words[:1] == ["some"] and words[1:2]:
            return _number(words[1].removeprefix("avg10="))
    return None


def _lines(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(_TEXT_LIMIT_CHARACTERS).splitlines()
    except OSError:
        return []


def _number(text: str | None) -> float | None:
    try:
        return float((text or "").split()[0])
    except (IndexError, ValueError):
        return None
