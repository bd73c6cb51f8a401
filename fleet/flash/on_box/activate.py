"""Switch to a version that lies ready, on probation: it stays only if it is confirmed in time.

The switch is a process of the box's own, so a cable that is pulled in the middle of it does not
leave a box without an agent: what nobody confirms is put back.
"""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

NAME = "asdic-agent"
POLL_S = 0.1
CONTROL_S = 60.0
FILE_LIMIT_BYTES = 1 << 20
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
FINAL = {"confirmed", "reverted"}


class Failed(Exception):  # noqa: N818 (a reason, which the record keeps)
    """The new version did not come up; the message says why."""


def main(arguments: dict[str, Any], _payload: object) -> Any:
    """Do one of ``STEPS``."""
    os.umask(0o022)
    try:
        return STEPS[arguments["step"]](arguments)
    except Failed as error:
        raise SystemExit(str(error)) from error


def start(arguments: dict[str, Any]) -> dict[str, Any]:
    """Begin the switch in a process that outlives this connection."""
    prefix = Path(arguments["prefix"])
    lock = take_lock(prefix)
    if lock is None:
        return standing(arguments)
    (prefix / "activation.decision").unlink(missing_ok=True)
    record = Record(prefix, arguments["version"], snapshot(arguments))
    record.say("running", "started")
    if os.fork() == 0:
        detach(prefix / "activation.log", lock)
        code = 1
        try:
            switch(arguments, record)
            code = 0
        finally:
            os._exit(code)
    os.close(lock)
    return record.content


def take_lock(prefix: Path) -> int | None:
    """Return the lock of the switch, or None where one is under way."""
    descriptor = os.open(prefix / "activation.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def detach(log: Path, lock: int) -> None:
    """Become a process that no connection owns, with the lock and the log alone."""
    os.setsid()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.set_inheritable(lock, False)
    nothing = os.open(os.devnull, os.O_RDONLY)
    words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o640)
    for number, descriptor in enumerate((nothing, words, words)):
        os.dup2(descriptor, number)
    os.chdir("/")


class Record:
    """What is known of the switch, in a file that survives this process."""

    def __init__(self, prefix: Path, version: str, before: dict[str, Any]) -> None:
        self._path = prefix / "activation.json"
        self.before = before
        self.content = {"version": version, "before": before, "state": "", "step": ""}

    def say(self, state: str, step: str, **further: Any) -> None:
        """Write where it stands."""
        self.content.update(state=state, step=step, **further)
        write(self._path, json.dumps(self.content))


def snapshot(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what has to be put back if the new version does not come up."""
    prefix = Path(arguments["prefix"])
    files = [path for path, _text, _mode in arguments["service"]["files"]]
    return {
        "current": target_of(prefix / "current"),
        "files": {path: Path(path).read_text() for path in files if Path(path).exists()},
    }


def switch(arguments: dict[str, Any], record: Record) -> None:
    """Stop, point to the new version, install the release, start; then wait for the verdict."""
    service = service_of(arguments)
    if busy_s(arguments):
        record.say("reverted", "put back", reason="an exam is in progress; try again later")
        return
    try:
        bring_up(arguments, record, service)
        wait_for_verdict(arguments, service)
    except (Failed, OSError, subprocess.SubprocessError) as error:
        record.say("running", "waiting for the end of an exam", reason=str(error))
        while busy_s(arguments):
            time.sleep(POLL_S)
        record.say("running", "putting back")
        put_back(arguments, record.before)
        record.say("reverted", "put back")
        return
    service.settle()
    before = record.before["current"]
    if before and before != arguments["version"]:
        point(Path(arguments["prefix"]) / "previous", before)
    record.say("confirmed", "confirmed")


def bring_up(arguments: dict[str, Any], record: Record, service: Service) -> None:
    """Make the new version the one that runs."""
    prefix = Path(arguments["prefix"])
    record.say("running", "stopping the old agent")
    service.stop()
    record.say("running", "switching", report_number=report_number(Path(arguments["state"])))
    point(prefix / "current", arguments["version"])
    if arguments["install"]:
        record.say("running", "installing the release")
        install(arguments)
    record.say("running", "starting the agent")
    service.write_files()
    service.start()
    record.say("waiting", "waiting for the signed report")


def install(arguments: dict[str, Any]) -> None:
    """Let the new agent take the release out of the folder, with all its checks."""
    done = subprocess.run(
        arguments["install"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=arguments["install_s"],
        **as_user(arguments),
    )
    sys.stderr.write(done.stderr)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise Failed(lines[-1] if lines else f"the release was not installed: {done.returncode}")


def wait_for_verdict(arguments: dict[str, Any], service: Service) -> None:
    """Return when the operator's side has confirmed; anything else is a failure."""
    path = Path(arguments["prefix"]) / "activation.decision"
    deadline_s = time.monotonic() + arguments["patience_s"]
    while time.monotonic() < deadline_s:
        decision = json.loads(path.read_text()) if path.exists() else {}
        if decision.get("version") == arguments["version"]:
            if decision["confirm"]:
                return
            raise Failed(decision["reason"])
        if complaint := service.complaint():
            raise Failed(complaint)
        time.sleep(POLL_S)
    raise Failed(f"nobody confirmed within {arguments['patience_s']:.0f} s that it reported")


def put_back(arguments: dict[str, Any], before: dict[str, Any]) -> None:
    """Make the box what it was: the old version and the old service, or none."""
    prefix = Path(arguments["prefix"])
    service = service_of(arguments)
    with suppress(OSError, subprocess.SubprocessError):
        service.stop()
    if before["current"]:
        point(prefix / "current", before["current"])
    else:
        (prefix / "current").unlink(missing_ok=True)
    if before["files"]:
        service.write_files(before["files"])
        with suppress(Failed):
            service.start()
    else:
        service.remove()


def decide(arguments: dict[str, Any]) -> dict[str, Any]:
    """Tell the waiting process whether the version stays."""
    decision = {name: arguments[name] for name in ("version", "confirm", "reason")}
    write(Path(arguments["prefix"]) / "activation.decision", json.dumps(decision))
    return standing(arguments)


def standing(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return the record of the last switch, and whether its process lives."""
    prefix = Path(arguments["prefix"])
    lock = take_lock(prefix)
    if lock is not None:
        os.close(lock)
    return {**read_record(prefix), "alive": lock is None}


def undo(arguments: dict[str, Any]) -> dict[str, Any]:
    """Put back what a switch left whose process a power cut ended."""
    prefix = Path(arguments["prefix"])
    lock = take_lock(prefix)
    if lock is not None:
        found = read_record(prefix)
        if found["state"] not in {"", *FINAL}:
            put_back(arguments, found["before"])
            record = Record(prefix, found["version"], found["before"])
            record.say("reverted", "put back", reason="the switch was interrupted on the box")
        os.close(lock)
    return standing(arguments)


def read_record(prefix: Path) -> dict[str, Any]:
    """Return what is known of the last switch; its state is empty where there was none."""
    path = prefix / "activation.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"state": ""}
    return record


def remove(arguments: dict[str, Any]) -> None:
    """Stop the agent and remove its service."""
    service = service_of(arguments)
    service.stop()
    service.remove()


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

    def remove(self) -> None:
        """Remove the unit."""
        if Path(self.files[0][0]).exists():
            control("systemctl", "disable", f"{NAME}.service")
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
        control("sv", "-w", "20", "up", str(self.folder))

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
        if self.folder.exists() and self.is_supervised():
            control("sv", "-w", "50", "force-shutdown", str(self.folder))
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


def report_number(state: Path) -> int:
    """Return the number of the last report that the agent before made."""
    try:
        return int(agents_own(state / "reports" / "last.json")["number"])
    except (ValueError, KeyError, TypeError):
        return 0


def busy_s(arguments: dict[str, Any]) -> float:
    """Return for how many seconds more an exam is in progress that a person does not override."""
    said = agents_own(Path(arguments["state"]) / "application" / "busy.json")
    try:
        is_of_this_boot = said["boot"] == BOOT_ID.read_text().strip()
        left_s = float(said["until_s"]) - time.monotonic()
    except (ValueError, KeyError, TypeError):
        return 0.0
    return max(0.0, left_s) if is_of_this_boot and not arguments["now"] else 0.0


def agents_own(path: Path) -> Any:
    """Return the JSON of a file, or None; what lies there is neither followed nor waited for."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
        with os.fdopen(descriptor, "rb") as file:
            return json.loads(file.read(FILE_LIMIT_BYTES))
    except (OSError, ValueError):
        return None


def target_of(link: Path) -> str:
    """Return the name that a link points to, or nothing."""
    return link.readlink().name if link.is_symlink() else ""


def point(link: Path, name: str) -> None:
    """Let a link point to a version, in one step."""
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(name)
    partial.replace(link)
    sync(link.parent)


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace a file in one step that survives a power cut."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w") as file:
        file.write(text)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    partial.replace(path)
    sync(path.parent)


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


STEPS = {
    "start": start,
    "state": standing,
    "decide": decide,
    "undo": undo,
    "remove": remove,
}
