"""Look at the box, and change nothing: what it is, what it has, and what is installed."""

from __future__ import annotations

import fcntl
import getpass
import grp
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from asdic.fleet.flash.on_box.own import busy_s

CPU_FEATURES = (
    *("asimd", "asimddp", "i8mm", "sve", "bf16"),
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8"),
)
VERSION = re.compile(r"[0-9][0-9A-Za-z.+]*-[0-9a-f]{12}")
NO_CHECK_TIME = 0x200000
SERIAL_PORTS = ("serial/by-id/*", "ttyACM*", "ttyUSB*")
RUNIT_SCANS = ("/etc/service", "/var/service", "/service", "/etc/runit/runsvdir/current")


def main(arguments: dict[str, Any], _payload: object) -> dict[str, Any]:
    """Return the facts about the box."""
    prefix, state = Path(arguments["prefix"]), Path(arguments["state"])
    return {
        **machine(),
        **memory(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "uid": os.geteuid(),
        "user": getpass.getuser() if os.geteuid() else "root",
        "sudo": sudo(),
        "time_s": time.time(),
        "prefix": place(prefix),
        "state": place(state),
        "service_places": {
            kind: place(Path(folder)) for kind, folder in arguments["service_folders"].items()
        },
        "service_manager": service_manager(),
        "runit_scan": next((path for path in RUNIT_SCANS if Path(path).is_dir()), ""),
        "accelerator": accelerator(),
        "broker": reach(arguments["broker"]),
        "serial_ports": serial_ports(arguments["serial"]),
        "installed": installed(prefix, state, arguments["service_files"]),
    }


def machine() -> dict[str, Any]:
    """Return architecture, operating system, C library and the processor's features."""
    bits = struct.calcsize("P") * 8
    name = platform.machine()
    return {
        "architecture": {"aarch64": "armv7l", "x86_64": "i686"}.get(name, name)
        if bits == 32
        else name,
        "os": os_release(),
        "libc": "-".join(platform.libc_ver()).strip("-"),
        "host": platform.node(),
        "cpu_features": sorted(cpu_flags() & set(CPU_FEATURES)),
        "cpus": len(os.sched_getaffinity(0)),
    }


def os_release() -> str:
    """Return the name of the distribution."""
    for line in read("/etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def cpu_flags() -> set[str]:
    """Return what the kernel says that the processor can do."""
    for line in read("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"flags", "Features"}:
            return set(value.split())
    return set()


def memory() -> dict[str, int]:
    """Return total and available memory in bytes; 0 where the kernel does not say."""
    found = {"MemTotal": 0, "MemAvailable": 0}
    for line in read("/proc/meminfo").splitlines():
        name, _, value = line.partition(":")
        if name in found:
            found[name] = int(value.split()[0]) << 10
    return {"memory_bytes": found["MemTotal"], "available_bytes": found["MemAvailable"]}


def place(path: Path) -> dict[str, Any]:
    """Return room and permission where ``path`` is, or would be."""
    parent = path
    while not parent.exists():
        parent = parent.parent
    status = os.statvfs(parent)
    return {
        "path": str(path),
        "free_bytes": status.f_bavail * status.f_frsize,
        "read_only": bool(status.f_flag & os.ST_RDONLY),
        "writable": os.access(parent, os.W_OK | os.X_OK),
        "device": parent.stat().st_dev,
    }


def sudo() -> str:
    """Return ``yes`` where sudo asks for no password, or why it cannot be used."""
    if shutil.which("sudo") is None:
        return "sudo is not installed"
    done = run("sudo", "-n", "true")
    return "yes" if done.returncode == 0 else (done.stderr.strip() or "sudo refuses")


def service_manager() -> str:
    """Return what starts services here."""
    if Path("/run/systemd/system").is_dir():
        return "systemd"
    return "runit" if shutil.which("sv") and shutil.which("runsvdir") else "none"


def accelerator() -> dict[str, Any]:
    """Return what there is beside the processor, as its own files and packages say."""
    devices = [*sorted(Path("/dev/dri").glob("renderD*")), *sorted(Path("/dev/accel").glob("*"))]
    return {
        "model": read("/proc/device-tree/model").strip("\0\n"),
        "l4t": (read("/etc/nv_tegra_release").splitlines() or [""])[0].lstrip("# "),
        "jetpack": package("nvidia-jetpack"),
        "tensorrt": package("tensorrt") or package("libnvinfer-bin"),
        "tensorrt_binding": importlib.util.find_spec("tensorrt") is not None,
        "openvino": [str(path) for path in devices],
        "groups": sorted({group_of(path) for path in devices} - {""}),
    }


def group_of(path: Path) -> str:
    """Return the group that may open a device."""
    try:
        return grp.getgrgid(path.stat().st_gid).gr_name
    except (OSError, KeyError):
        return ""


def serial_ports(wanted: str | None) -> dict[str, str]:
    """Return the serial ports of adapters and boards, and the wanted one, with their groups."""
    found = {path for pattern in SERIAL_PORTS for path in Path("/dev").glob(pattern)}
    found |= {Path(wanted)} if wanted else set()
    return {str(path): group_of(path) for path in sorted(found) if path.is_char_device()}


def package(name: str) -> str:
    """Return the version of an installed Debian package, or nothing."""
    if shutil.which("dpkg-query") is None:
        return ""
    done = run("dpkg-query", "-W", "-f", "${Version}", name)
    return done.stdout.strip() if done.returncode == 0 else ""


def reach(broker: dict[str, Any] | None) -> str:
    """Return nothing where the broker's port answers with a good name, or why it does not.

    Its certificate's time is left to the agent, which knows better than a box's clock.
    """
    if broker is None:
        return ""
    try:
        with socket.create_connection((broker["host"], broker["port"]), 5.0) as connection:
            if broker["ca"]:
                context = ssl.create_default_context(cadata=broker["ca"])
                context.verify_flags |= NO_CHECK_TIME
                context.wrap_socket(connection, server_hostname=broker["host"]).close()
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    except OSError as error:
        return error.strerror or str(error)
    return ""


def installed(prefix: Path, state: Path, service_files: list[str]) -> dict[str, Any]:
    """Return what earlier flashes left here."""
    markers = {path.parent.name: loaded(path) for path in prefix.glob("*/asdic-flash.json")}
    return {
        "current": link(prefix / "current"),
        "previous": link(prefix / "previous"),
        "versions": {name: marker for name, marker in markers.items() if marker is not None},
        "incoming": sorted(path.name for path in (prefix / "incoming").glob("*")),
        "folders": sorted(path.name for path in prefix.glob("*") if VERSION.fullmatch(path.name)),
        "activation": loaded(prefix / "activation.json"),
        "activating": is_locked(prefix / "activation.lock"),
        "service_files": {path: read(path) for path in service_files if is_there(Path(path))},
        "agent_toml": read(state / "agent.toml"),
        "agent_runs": is_locked(state / "agent.lock"),
        "busy_s": busy_s(state),
        "is_device": is_there(state / "agent.toml") or is_there(state / "identity"),
    }


def is_there(path: Path) -> bool:
    """Return whether we see such a file or folder."""
    try:
        return path.exists()
    except OSError:
        return False


def link(path: Path) -> str:
    """Return the name that a symlink points to, or nothing."""
    return path.readlink().name if path.is_symlink() else ""


def is_locked(path: Path) -> bool:
    """Return whether a process holds the lock of a file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def loaded(path: Path) -> Any:
    """Return the JSON in a file, or None."""
    try:
        return json.loads(read(path) or "null")
    except ValueError:
        return None


def read(path: str | Path) -> str:
    """Return the beginning of a text file, or nothing; a pipe is not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, errors="replace") as file:
            return file.read(1 << 18)
    except OSError:
        return ""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command that only looks."""
    return subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False
    )
