"""An arm64 box that one logs in to: a real sshd whose sessions land inside the emulated system.

The sshd is the host's. Each command that comes is run by ``arm64_login.py`` with the arm64 system
as its root, so ``uname -m``, the shell, Python and runit are the box's own. What a box may change
lies in a folder of its own, which has the same name there and here: proot 5.1 passes
``faccessat2`` on as it is, so ``access(2)`` of a file that has another name here fails. Network,
kernel and users are the host's; the agent runs as whoever runs the tests.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support import arm64_login
from tests.support.arm64 import CPU, PROCESSOR
from tests.support.arm64_system import arm64_system, python_of
from tests.support.flash_yard import Door, open_door
from tests.support.paper_box import wait_for

OWN: Final = ("tmp", "home")
"""What of the box's system may change, beside ``/etc``; each begins empty."""

SCAN: Final = "/etc/service"
STOP_S: Final = 60.0


@dataclass(frozen=True)
class ArmSshBox:
    """An arm64 box with its sshd.

    Attributes:
        folder: What it may change.
        door: How to log in.
        python: The version of its Python, as ``3.11``.
        words: What runs a program inside it.
        environment: What a login finds there.
    """

    folder: Path
    door: Door
    python: str
    words: tuple[str, ...]
    environment: dict[str, str]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the box, without the detour through sshd."""
        return subprocess.run(
            [*self.words, *words],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=120.0,
            env=self.environment,
        )

    @property
    def prefix(self) -> Path:
        """Where asdic shall be installed; nothing is there yet."""
        return self.folder / "asdic"

    @property
    def state(self) -> Path:
        """Where the device shall keep its own."""
        return self.folder / "state"

    @property
    def site(self) -> tuple[str, ...]:
        """What ``asdic flash`` and ``unflash`` are told of this box."""
        return (
            *("--prefix", str(self.prefix), "--state", str(self.state), "--runit-scan", SCAN),
            *("--identity", str(self.door.identity)),
            *("--accept-host-key", self.door.fingerprint),
        )

    @property
    def processes(self) -> list[int]:
        """All processes that run inside the box, and what emulates them."""
        return [pid for pid in _pids() if _is_of(pid, self.folder)]


@contextmanager
def arm_ssh_box(folder: Path) -> Iterator[ArmSshBox]:
    """Run an arm64 box with sshd and runit while the block runs; then nothing of it runs on."""
    root = arm64_system()
    _furnish(folder, root)
    words = tuple(_enter(folder, root))
    environment = {
        "HOME": "/home",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ASDIC_BOX": str(folder),
    }
    config = folder / "login.json"
    config.write_text(json.dumps({"words": words, "environment": environment}))
    login = f"{sys.executable} {Path(arm64_login.__file__).resolve()} {config}"
    with open_door(folder / "ssh", ForceCommand=login) as door:
        box = ArmSshBox(
            folder=folder,
            door=door,
            python=python_of(root),
            words=words,
            environment=environment,
        )
        try:
            with _runit(box):
                yield box
        finally:
            _sweep(box)


def _furnish(folder: Path, root: Path) -> None:
    """Give the box what it may change: an ``/etc`` that knows its users, and empty folders."""
    shutil.copytree(root / "etc", folder / "etc", symlinks=True)
    # Debian's link leads to a folder that only an installation makes.
    (folder / "etc" / "service").unlink(missing_ok=True)
    for name in (*OWN, "etc/sv", "etc/service"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    user, uid, gid = getpass.getuser(), os.getuid(), os.getgid()
    (folder / "etc" / "passwd").write_text(f"{user}:x:{uid}:{gid}::/home:/bin/sh\n")
    (folder / "etc" / "group").write_text(f"{user}:x:{gid}:\n")
    count = os.cpu_count() or 1
    text = "".join(PROCESSOR.format(number=number) for number in range(count))
    (folder / "cpuinfo").write_text(text)


def _enter(folder: Path, root: Path) -> Iterator[str]:
    """Yield the words before a command that run it inside the box."""
    # Not by QEMU_CPU: a service manager keeps no environment, and another CPU gives other outputs.
    yield from ("proot", "-q", f"qemu-aarch64-static -cpu {CPU}", "-r", str(root))
    binds = {
        **{f"/{name}": f"/{name}" for name in ("dev", "proc", "sys")},
        str(folder): str(folder),
        **{str(folder / name): f"/{name}" for name in (*OWN, "etc")},
        str(folder / "cpuinfo"): "/proc/cpuinfo",
    }
    for pair in binds.items():
        yield from ("-b", ":".join(pair))
    yield from ("-w", "/home")


@contextmanager
def _runit(box: ArmSshBox) -> Iterator[None]:
    """Run the box's own runsvdir, which at the end stops all that it started."""
    with subprocess.Popen(
        [*box.words, "/usr/bin/runsvdir", "-P", SCAN],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=box.environment,
        start_new_session=True,
    ) as process:
        try:
            wait_for(lambda: bool(children(process.pid)), "runsvdir starts")
            yield
        finally:
            for child in children(process.pid):
                os.kill(child, signal.SIGHUP)
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _sweep(box: ArmSshBox) -> None:
    """End what runs on in the box, as a power switch does."""
    for pid in box.processes:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(word) for word in words]
    return []


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdecimal()]


def _is_of(pid: int, folder: Path) -> bool:
    """Return whether a process is one of the box: qemu or proot with a file of it in use."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    emulator = words.split(b"\0")[0].rpartition(b"/")[2]
    mark = str(folder).encode()
    is_emulated = b"qemu-aarch64" in emulator or emulator.startswith(b"proot")
    return is_emulated and (mark in words or mark in environment)
