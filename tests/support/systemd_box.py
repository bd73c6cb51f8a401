"""A box whose process 1 is a real systemd, in namespaces of its own, and that one logs in to.

Its programs are the host's ``/usr``, read-only. ``/etc``, ``/var`` and ``/opt`` are its own and
begin bare, under ``root`` in its folder; of what the host has elsewhere it sees nothing. Network,
kernel and clock are the host's, and the kernel's settings cannot be changed from inside, as in
every container. Cut its power, and all of it is gone but its files.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import missing
from tests.support.flash_yard import make_door
from tests.support.paper_box import wait_for
from tests.support.ssh_box import children

SYSTEMD: Final = Path("/usr/lib/systemd")
START_S: Final = 30.0
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT_UNITS: Final = (
    *("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket"),
)
"""What of the host's own units the box starts, of those that a target wants."""

_APART: Final = (
    *("unshare", "--fork", "--kill-child", "--propagation", "private"),
    *("--pid", "--mount", "--cgroup", "--uts", "--ipc"),
)
_JOIN: Final = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
_TRIAL: Final = "mount -t tmpfs tmpfs /tmp && mount -t cgroup2 cgroup2 /tmp"
_BOOT: Final = """
set -e
cd "$0/root"
mount --bind . .
cd "$0/root"
mount --bind /usr usr
mount -o remount,bind,ro usr
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for node in null zero full random urandom tty; do
  : > dev/$node
  mount --bind /dev/$node dev/$node
done
mkdir -p ".$0/ssh"
mount --bind "$0/ssh" ".$0/ssh"
mkdir .host
pivot_root . .host
cd /
umount -l .host
rmdir .host
exec env -i container=asdic PATH="$PATH" /usr/lib/systemd/systemd --log-target=journal
"""
"""Makes the box's file system, and becomes its process 1. ``$0`` is the box's folder."""

_DOOR: Final = """\
[Service]
ExecStart={command}
RuntimeDirectory=sshd
"""
_USERS: Final = {"root": 0, "sshd": 101, "nobody": 65_534}
_GROUPS: Final = {"root": 0, "tty": 5, "nogroup": 65_534}


def unavailable_reason() -> str | None:
    """Return why no systemd can run beside the host's own here, or None."""
    if os.geteuid() != 0:
        return "a systemd in namespaces of its own needs root"
    if _cgroups() is None:
        return "there is no cgroup2 to put a systemd into"
    words = [*_APART, "sh", "-c", _TRIAL]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"no systemd can run in namespaces of its own here: {done.stderr.strip()}"
    return None


class SystemdBox:
    """A box with systemd and sshd.

    Attributes:
        root: Its files.
        door: How to log in.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.root = folder / "root"
        self.door, sshd = make_door(folder / "ssh")
        _furnish(self.root, " ".join(sshd))
        cgroups = _cgroups()
        assert cgroups is not None, "unavailable_reason() says so"
        self._cgroup = cgroups / f"asdic-box-{secrets.token_hex(4)}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Switch it on, and return when it lets in."""
        self._cgroup.mkdir()
        words = [*_APART, "sh", "-c", _BOOT, str(self._folder)]
        # Whoever ends the tests ends the box.
        tied = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", _JOIN, str(self._cgroup), *words]
        with (self._folder / "console.log").open("ab") as log:
            self._process = subprocess.Popen(
                tied, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": _PATH}
            )
        wait_for(self._is_up, "the box's systemd is up", timeout_s=START_S)
        wait_for(self.door.answers, "the box's sshd answers")

    def cut_power(self) -> None:
        """End all that runs on it, at once; its files stay."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            wait_for(self._is_dark, "the box is dark")

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command on the box, without the detour through sshd."""
        assert self._process is not None
        (init,) = children(self._process.pid)
        return subprocess.run(
            ["nsenter", "--target", str(init), "--all", *words],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60.0,
            env={"PATH": _PATH, "LANG": "C.UTF-8"},
        )

    @property
    def python(self) -> str:
        """The version of its Python, as ``3.11``."""
        words = "import sys; print('%d.%d' % sys.version_info[:2])"
        return self.run("python3", "-I", "-c", words).stdout.strip()

    @property
    def site(self) -> tuple[str, ...]:
        """What ``asdic flash`` and ``unflash`` are told of this box."""
        return (
            *("--identity", str(self.door.identity)),
            *("--accept-host-key", self.door.fingerprint),
        )

    def _is_up(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "console.log").read_text()
        if not children(self._process.pid):
            return False
        return self.run("systemctl", "is-system-running").stdout.strip() == "running"

    def _is_dark(self) -> bool:
        """Return whether nothing runs in the box's group of processes, and remove it."""
        if "populated 0" not in (self._cgroup / "cgroup.events").read_text():
            return False
        for folder, _, _ in os.walk(self._cgroup, topdown=False):
            Path(folder).rmdir()
        return True


@contextmanager
def systemd_box(folder: Path) -> Iterator[SystemdBox]:
    """Run a box while the block runs; then nothing of it runs on.

    What the kernel refuses, or whoever runs the tests may not, nobody can install: that is skipped
    in CI too.
    """
    if not (SYSTEMD / "systemd").exists():
        missing("systemd is not installed; install the Debian package systemd")
    if reason := unavailable_reason():
        pytest.skip(reason)
    folder.mkdir()
    box = SystemdBox(folder)
    try:
        box.start()
        yield box
    finally:
        box.cut_power()


def _cgroups() -> Path | None:
    """Return where the one hierarchy of process groups is that systemd works with, or None."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2" and os.access(place, os.W_OK):
            return Path(place)
    return None


def _furnish(root: Path, sshd: str) -> None:
    """Make the folders of a box on which nothing was ever installed."""
    for name in ("usr", "proc", "sys", "dev", "run", "tmp", "home", "root", "opt", "var/lib"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).exists():
            (root / name).symlink_to(f"usr/{name}")
    (root / "var" / "run").symlink_to("/run")
    etc, units = root / "etc", root / "etc" / "systemd" / "system"
    wants = units / "multi-user.target.wants"
    wants.mkdir(parents=True)
    for name in ("ld.so.cache", "login.defs"):
        shutil.copy(Path("/etc", name), etc)
    texts = {
        "hostname": "box\n",
        "hosts": "127.0.0.1 localhost box\n",
        "machine-id": f"{secrets.token_hex(16)}\n",
        "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\n",
        "passwd": "".join(
            f"{name}:x:{number}:0::/{name}:/bin/sh\n" for name, number in _USERS.items()
        ),
        "group": "".join(f"{name}:x:{number}:\n" for name, number in _GROUPS.items()),
        "shadow": "".join(f"{name}:*:::::::\n" for name in _USERS),
        "systemd/system/door.service": _DOOR.format(command=sshd),
    }
    for name, text in texts.items():
        (etc / name).write_text(text)
    (etc / "os-release").symlink_to("../usr/lib/os-release")
    (wants / "door.service").symlink_to("/etc/systemd/system/door.service")
    (units / "default.target").symlink_to(SYSTEMD / "system" / "multi-user.target")
    _mask(units, SYSTEMD / "system", "*.wants/*")
    _mask(etc / "systemd" / "system-generators", SYSTEMD / "system-generators", "*")


def _mask(own: Path, hosts: Path, pattern: str) -> None:
    """Keep out what the host's packages would start, or make of files that the box has not."""
    own.mkdir(exist_ok=True)
    for path in hosts.glob(pattern):
        mask = own / path.name
        if path.suffix != ".target" and path.name not in _KEPT_UNITS and not mask.is_symlink():
            mask.symlink_to(os.devnull)
