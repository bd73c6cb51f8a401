"""What starts the agent on the box: systemd, runit, or nobody."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asdic.fleet.flash.on_box.durable import write

NAME = "asdic-agent"
POLL_S = 0.1
CONTROL_S = 60.0
ANALYSIS_S = 40.0
EXPOSURE = re.compile(
    rf"Overall exposure level for {NAME}\.service: ([0-9]+(?:\.[0-9]+)?) ([A-Z]+)"
)


class Failed(Exception):  # noqa: N818 (a reason, which the record keeps)
    """The new version did not come up; the message says why."""


class Service:
    """No service manager: the agent runs as a child while it is on probation, and no longer."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments
        self.files: list[tuple[str, str, int]] = arguments["service"]["files"]
        self._child: subprocess.Popen[bytes] | None = None

    def stop(self) -> None:
        """Stop the agent."""
        if self._child is not None:
            self._child.terminate()
            self._child.wait(CONTROL_S)

    def write_files(self, instead: dict[str, str] | None = None) -> None:
        """Write the service's files: the new ones, or those that were there before."""
        for path, text, mode in self.files:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            write(Path(path), text if instead is None else instead.get(path, text), mode)

    def start(self) -> None:
        """Start the agent."""
        self._child = subprocess.Popen(self.arguments["run"], **as_user(self.arguments))

    def complaint(self) -> str:
        """Return why the agent cannot be on its way, or nothing."""
        if self._child is None or self._child.poll() is None:
            return ""
        return f"the agent ended with exit code {self._child.returncode}"

    def settle(self) -> None:
        """Leave the agent as it shall be after the flash."""
        self.stop()

    def judgement(self) -> dict[str, Any]:
        """Return what the service manager's own tools say of the service, if it has any."""
        return {}

    def remove(self) -> None:
        """Remove the service."""
        for path, _text, _mode in self.files:
            Path(path).unlink(missing_ok=True)


class Systemd(Service):
    """A unit of systemd."""

    def stop(self) -> None:
        """Stop the unit, if there is one."""
        if Path(self.files[0][0]).exists():
            control("systemctl", "stop", f"{NAME}.service")

    def start(self) -> None:
        """Start the unit, now and at every boot."""
        control("systemctl", "daemon-reload")
        control("systemctl", "enable", f"{NAME}.service")
        control("systemctl", "restart", f"{NAME}.service")

    def complaint(self) -> str:
        """Return whether systemd has given up."""
        words = ["systemctl", "is-failed", "--quiet", NAME]
        failed = subprocess.run(words, check=False)
        return "systemd says that the service failed" if failed.returncode == 0 else ""

    def settle(self) -> None:
        """Leave it running."""

    def judgement(self) -> dict[str, Any]:
        """Return how exposed systemd counts the running unit, and what it does not like in it.

        It is a look and no condition: what cannot be judged is said in the notes.
        """
        table, complaint = analyze("security", f"{NAME}.service")
        found = exposure_of(table)
        why = (complaint or table).strip().splitlines() or ["it says nothing"]
        unjudged = [] if found else [f"systemd-analyze security gives no score: {why[-1]}"]
        _, remarks = analyze("verify", "--man=no", self.files[0][0])
        return {**found, "notes": [*unjudged, *remarks_of(remarks)]}

    def remove(self) -> None:
        """Remove the unit."""
        try:
            if Path(self.files[0][0]).exists():
                control("systemctl", "disable", f"{NAME}.service")
        finally:
            super().remove()
            control("systemctl", "daemon-reload")


class Runit(Service):
    """A service of runit: a folder, and a link to it where runsvdir looks."""

    @property
    def folder(self) -> Path:
        """The service's folder."""
        return min((Path(path).parent for path, _, _ in self.files), key=lambda one: len(one.parts))

    @property
    def link(self) -> Path:
        """What runsvdir finds."""
        return Path(self.arguments["service"]["scan"], NAME)

    def stop(self) -> None:
        """Stop the service, if it is supervised."""
        if (self.folder / "supervise" / "ok").exists() and self.is_supervised():
            control("sv", "-w", "50", "force-stop", str(self.folder))

    def start(self) -> None:
        """Start it, now and at every boot."""
        (self.folder / "down").unlink(missing_ok=True)
        if not self.link.exists():
            self.link.unlink(missing_ok=True)
            self.link.symlink_to(self.folder)
        wait_until(self.is_supervised, "runsvdir does not take up the service")
        # Without -w: sv would call an agent that crashes a timeout, or not, as it happens to look.
        control("sv", "up", str(self.folder))

    def is_supervised(self) -> bool:
        """Return whether a runsv looks after the folder."""
        words = ["sv", "status", str(self.folder)]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    def complaint(self) -> str:
        """Runit tries for ever, so it never complains."""
        return ""

    def settle(self) -> None:
        """Leave it running."""

    def remove(self) -> None:
        """Remove the link, have its runsv end, and remove the folder."""
        self.link.unlink(missing_ok=True)
        try:
            if self.folder.exists() and self.is_supervised():
                control("sv", "-w", "50", "force-shutdown", str(self.folder))
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


def service_of(arguments: dict[str, Any]) -> Service:
    """Return the service manager's own."""
    kinds = {"none": Service, "systemd": Systemd, "runit": Runit}
    return kinds[arguments["service"]["kind"]](arguments)


def control(*words: str) -> None:
    """Ask a service manager.

    Raises:
        Failed: It refuses.
    """
    done = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=CONTROL_S,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(f"`{' '.join(words)}`: {(done.stderr or done.stdout).strip()}")


def analyze(*words: str) -> tuple[str, str]:
    """Return what ``systemd-analyze`` says, and what it complains of, or why it cannot be asked."""
    command = ["systemd-analyze", "--no-pager", *words]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=ANALYSIS_S,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0", "SYSTEMD_EMOJI": "0"},
        )
    except (OSError, subprocess.SubprocessError) as error:
        return "", str(error)
    return done.stdout, done.stderr


def exposure_of(text: str) -> dict[str, Any]:
    """Return the score of ``systemd-analyze security``, of 10, and its word; nothing if none."""
    found = EXPOSURE.search(text)
    return {} if found is None else {"exposure": float(found[1]), "level": found[2]}


def remarks_of(text: str) -> list[str]:
    """Return what ``systemd-analyze verify`` says of our unit; of others it says things, too."""
    lines = (line.strip() for line in text.splitlines())
    return [f"systemd-analyze verify: {line}" for line in lines if f"{NAME}.service" in line]


def wait_until(holds: Callable[[], bool], otherwise: str) -> None:
    """Wait for a condition."""
    deadline_s = time.monotonic() + 20.0
    while not holds():
        if time.monotonic() > deadline_s:
            raise Failed(otherwise)
        time.sleep(POLL_S)


def as_user(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return how a process of the agent's user is started."""
    options: dict[str, Any] = {
        "cwd": "/",
        "env": {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
    }
    if os.geteuid() == 0:
        entry = pwd.getpwnam(arguments["user"])
        options |= {
            "user": entry.pw_uid,
            "group": entry.pw_gid,
            "extra_groups": arguments["groups"],
        }
    return options
