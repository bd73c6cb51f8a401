"""Switch to a version that lies ready, on probation: it stays only if it is confirmed in time.

The switch is a process of the box's own, so a cable that is pulled in the middle of it does not
leave a box without an agent: what nobody confirms is put back.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asdic.fleet.flash.on_box.durable import point, target_of, write
from asdic.fleet.flash.on_box.own import busy_s, report_number
from asdic.fleet.flash.on_box.service import Failed, Service, as_user, service_of

POLL_S = 0.1
FINAL = {"confirmed", "reverted"}


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

    def put_back(self, arguments: dict[str, Any], reason: str) -> None:
        """Make the box what it was, and write why."""
        refused = put_back(arguments, self.before)
        self.say("reverted", "put back", reason="; ".join(filter(None, (reason, refused))))


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
    if is_disturbed(arguments):
        record.say("reverted", "put back", reason="an exam is in progress; try again later")
        return
    try:
        bring_up(arguments, record, service)
        wait_for_verdict(arguments, service)
    except (Failed, OSError, subprocess.SubprocessError) as error:
        record.say("running", "waiting for the end of an exam", reason=str(error))
        while is_disturbed(arguments):
            time.sleep(POLL_S)
        record.say("running", "putting back")
        record.put_back(arguments, str(error))
        return
    service.settle()
    before = record.before["current"]
    if before and before != arguments["version"]:
        point(Path(arguments["prefix"]) / "previous", before)
    record.say("confirmed", "confirmed")


def is_disturbed(arguments: dict[str, Any]) -> bool:
    """Return whether an exam is in progress, which no person has overridden."""
    return busy_s(Path(arguments["state"])) > 0 and not arguments["now"]


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


def put_back(arguments: dict[str, Any], before: dict[str, Any]) -> str:
    """Make the box what it was: the old version and the old service, or none.

    Nothing that a service manager refuses keeps the rest from being put back.

    Returns:
        What it refused, or nothing.
    """
    prefix = Path(arguments["prefix"])
    service = service_of(arguments)
    complaints = [attempt(service.stop)]
    if before["current"]:
        point(prefix / "current", before["current"])
    else:
        (prefix / "current").unlink(missing_ok=True)
    if before["files"]:
        service.write_files(before["files"])
        complaints.append(attempt(service.start))
    else:
        complaints.append(attempt(service.remove))
    return "; ".join(one for one in complaints if one)


def attempt(work: Callable[[], None]) -> str:
    """Return why something did not work, or nothing."""
    try:
        work()
    except (Failed, OSError, subprocess.SubprocessError) as error:
        return f"while putting back: {error}"
    return ""


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
            record = Record(prefix, found["version"], found["before"])
            record.put_back(arguments, "the switch was interrupted on the box")
        os.close(lock)
    return standing(arguments)


def read_record(prefix: Path) -> dict[str, Any]:
    """Return what is known of the last switch; its state is empty where there was none."""
    path = prefix / "activation.json"
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"state": ""}
    return record


def judge(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what the service manager says of the service; nothing is changed."""
    return service_of(arguments).judgement()


def remove(arguments: dict[str, Any]) -> None:
    """Stop the agent and remove its service."""
    service = service_of(arguments)
    service.stop()
    service.remove()


STEPS = {
    "start": start,
    "state": standing,
    "decide": decide,
    "undo": undo,
    "judge": judge,
    "remove": remove,
}
