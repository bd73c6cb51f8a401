"""Sensors without daemons: files of sysfs (and ``vcgencmd`` on a Raspberry Pi), read when asked.

A sensor that is absent is absent from the result; one that vanishes in the middle is named.
A new kind of sensor is a row of ``KINDS``. Every path lies below ``root``, so that a test can
bring a tree of its own.

Interfaces: https://docs.kernel.org/driver-api/thermal/sysfs-api.html,
https://docs.kernel.org/admin-guide/pm/cpufreq.html, https://docs.kernel.org/power/powercap/,
https://docs.kernel.org/hwmon/ina3221.html (Jetson's power rails, in mV and mA), and Raspberry
Pi's documentation of ``vcgencmd get_throttled``.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

SENSORS_LIMIT: Final = 32
VALUE_LIMIT_BYTES: Final = 128
COMMAND_LIMIT_S: Final = 2.0
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_.:-]+")


@dataclass(frozen=True)
class Kind:
    """One kind of file: its values are ``scale`` times what it says; ``label`` names its owner."""

    name: str
    pattern: str
    scale: float
    label: str | None = None


KINDS: Final = (
    Kind("temperature_c", "sys/class/thermal/thermal_zone*/temp", 1e-3, "type"),
    Kind("cooling_state", "sys/class/thermal/cooling_device*/cur_state", 1.0, "type"),
    Kind("cpu_mhz", "sys/devices/system/cpu/cpufreq/policy*/scaling_cur_freq", 1e-3),
    Kind("cpu_limit_mhz", "sys/devices/system/cpu/cpufreq/policy*/scaling_max_freq", 1e-3),
    Kind("core_throttled", "sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count", 1),
    Kind(
        "package_throttled",
        "sys/devices/system/cpu/cpu*/thermal_throttle/package_throttle_count",
        1.0,
    ),
    Kind("energy_j", "sys/class/powercap/intel-rapl:*/energy_uj", 1e-6, "name"),
    Kind("device_mhz", "sys/class/devfreq/*/cur_freq", 1e-6),
    Kind("device_limit_mhz", "sys/class/devfreq/*/max_freq", 1e-6),
)
PI_THROTTLED: Final = "pi_throttled"
POWER: Final = "power_w"
ENERGY: Final = "energy_j"
_PI_FILE: Final = "sys/devices/platform/soc/soc:firmware/get_throttled"
_PI_COMMANDS: Final = ("usr/bin/vcgencmd", "opt/vc/bin/vcgencmd")


class Sensor(Protocol):
    """One thing that can be read, now."""

    @property
    def name(self) -> str:
        """Kind and owner: ``temperature_c:thermal_zone0.cpu-thermal``."""

    def read(self) -> float | None:
        """Return its value, or None where it does not answer."""


@dataclass(frozen=True)
class FileSensor:
    """A file with one whole number."""

    name: str
    path: Path
    scale: float
    radix: int = 10

    def read(self) -> float | None:
        """Return the number times the scale."""
        try:
            return int(read_text(self.path) or "", self.radix) * self.scale
        except ValueError:
            return None


@dataclass(frozen=True)
class RailSensor:
    """A power rail: the product of a voltage (mV) and a current (mA), in W."""

    name: str
    voltage: FileSensor
    current: FileSensor

    def read(self) -> float | None:
        """Return the power in W."""
        millivolts, milliamperes = self.voltage.read(), self.current.read()
        if millivolts is None or milliamperes is None:
            return None
        return millivolts * milliamperes / 1e6


@dataclass(frozen=True)
class PiCommand:
    """``vcgencmd get_throttled``, on a Raspberry Pi whose kernel has no file for it."""

    name: str
    path: Path

    def read(self) -> float | None:
        """Return the bits: 0-3 for what is so now, 16-19 for what was so since the start."""
        try:
            done = subprocess.run(
                [self.path, "get_throttled"],
                capture_output=True,
                text=True,
                timeout=COMMAND_LIMIT_S,
                check=False,
            )
            return float(int(done.stdout.strip().partition("=")[2], 16))
        except (OSError, ValueError, subprocess.SubprocessError):
            return None


def find_sensors(root: Path = Path("/")) -> tuple[Sensor, ...]:
    """Return the sensors below ``root`` that answer, at most ``SENSORS_LIMIT`` of a kind."""
    found = (*_files(root), *_rails(root), *_pi(root))
    unique = {sensor.name: sensor for sensor in found}
    return tuple(sensor for sensor in unique.values() if sensor.read() is not None)


def read_text(path: Path) -> str | None:
    """Return the stripped text of a small file, or None where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(VALUE_LIMIT_BYTES).decode("ascii", errors="replace").strip()
    except OSError:
        return None


def _files(root: Path) -> Iterator[Sensor]:
    for kind in KINDS:
        for path in sorted(root.glob(kind.pattern), key=_natural)[:SENSORS_LIMIT]:
            yield FileSensor(f"{kind.name}:{_owner(path, kind)}", path, kind.scale)


def _owner(path: Path, kind: Kind) -> str:
    """Return the name of what a file belongs to: ``thermal_zone0.cpu-thermal``, ``cpu3``."""
    folder = path.parent.parent if path.parent.name == "thermal_throttle" else path.parent
    label = read_text(folder / kind.label) if kind.label else None
    return f"{folder.name}.{_NOT_IN_NAMES.sub('-', label)}" if label else folder.name


def _rails(root: Path) -> Iterator[Sensor]:
    for folder in sorted(root.glob("sys/class/hwmon/hwmon*"), key=_natural)[:SENSORS_LIMIT]:
        if read_text(folder / "name") != "ina3221":
            continue
        for channel in (1, 2, 3):
            label = read_text(folder / f"in{channel}_label") or f"rail{channel}"
            yield RailSensor(
                f"{POWER}:{folder.name}.{_NOT_IN_NAMES.sub('-', label)}",
                FileSensor("mV", folder / f"in{channel}_input", 1.0),
                FileSensor("mA", folder / f"curr{channel}_input", 1.0),
            )


def _pi(root: Path) -> Iterator[Sensor]:
    if (root / _PI_FILE).is_file():
        yield FileSensor(PI_THROTTLED, root / _PI_FILE, 1.0, radix=16)
        return
    commands = (root / command for command in _PI_COMMANDS)
    yield from (PiCommand(PI_THROTTLED, path) for path in commands if path.is_file())


def _natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part or 0), text) for text, part in re.findall(r"(\D*)(\d*)", str(path))]
