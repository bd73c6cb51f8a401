"""Bring files to the box and make a version of them, beside the one that runs."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from asdic.fleet.flash.on_box.durable import write

LOCK_S = 240.0
VERSION = re.compile(r"[0-9][0-9A-Za-z.+]*-[0-9a-f]{12}")
MARKER = "asdic-flash.json"
USER_FILE = "user-created"
IDENTITY = {"identity", "trust", "reports"}
OURS = {
    *("current", "previous", "incoming", "flash.lock", USER_FILE),
    *(f"activation.{end}" for end in ("json", "lock", "log", "decision")),
}


def main(arguments: dict[str, Any], payload: BinaryIO) -> Any:
    """Do one step, alone: the step of a run whose cable was pulled may still be at work."""
    os.umask(0o022)
    prefix = Path(arguments["prefix"])
    if arguments["step"] in {"prepare", "missing", "receive", "build", "tidy"}:
        prefix.mkdir(parents=True, exist_ok=True)
    with locked(prefix / "flash.lock"):
        return STEPS[arguments["step"]](arguments, payload)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock; a killed holder lets go of it."""
    if not path.parent.is_dir():
        yield
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline_s = time.monotonic() + LOCK_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline_s:
                    raise SystemExit("another flash works on this box; try again later") from None
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def prepare(arguments: dict[str, Any], _payload: object) -> None:
    """Make the agent's user and its state folder."""
    prefix, state, user = Path(arguments["prefix"]), Path(arguments["state"]), arguments["user"]
    make_user(user, state, prefix)
    if not state.exists():
        state.parent.mkdir(parents=True, exist_ok=True)
        state.mkdir(mode=0o750)
    entry = pwd.getpwnam(user)
    if os.geteuid() == 0 and state.stat().st_uid != entry.pw_uid:
        os.chown(state, entry.pw_uid, entry.pw_gid)


def make_user(user: str, state: Path, prefix: Path) -> None:
    """Make a system user without a shell, and note that it is ours."""
    try:
        pwd.getpwnam(user)
    except KeyError:
        pass
    else:
        return
    if os.geteuid() != 0:
        raise SystemExit(f"there is no user {user!r}, and only root can make one")
    (prefix / USER_FILE).write_text(user)
    if shutil.which("useradd"):
        words = ["useradd", "--system", "--user-group", "--no-create-home"]
        words += ["--home-dir", str(state), "--shell", "/usr/sbin/nologin", user]
    else:
        words = ["adduser", "-S", "-D", "-H", "-h", str(state), "-s", "/sbin/nologin", user]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"cannot make the user {user!r}: {done.stderr.strip()}")


def missing(arguments: dict[str, Any], _payload: object) -> list[str]:
    """Return the files that are not here yet: one that has its name has its digest too."""
    return [
        name
        for name, size_bytes in arguments["files"]
        if not has_size(Path(arguments["folder"], name), size_bytes)
    ]


def has_size(path: Path, size_bytes: int) -> bool:
    """Return whether there is a file of that size."""
    return path.is_file() and path.stat().st_size == size_bytes


def receive(arguments: dict[str, Any], payload: BinaryIO) -> None:
    """Write one file, which gets its name when its digest is right."""
    path = Path(arguments["folder"], arguments["name"])
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    state, rest = hashlib.sha256(), arguments["size_bytes"]
    try:
        with partial.open("wb") as file:
            while rest and (piece := payload.read(min(rest, 1 << 20))):
                state.update(piece)
                file.write(piece)
                rest -= len(piece)
            file.flush()
            os.fsync(file.fileno())
        if rest or state.hexdigest() != arguments["sha256"]:
            raise SystemExit(f"{path.name} did not arrive whole; run the same command again")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def build(arguments: dict[str, Any], _payload: object) -> None:
    """Make the version's folder: an environment of its own, from the files that arrived alone.

    Without its marker, which comes last, it is none; one that fails is removed.
    """
    root = Path(arguments["prefix"], arguments["version"])
    if (root / MARKER).exists():
        return
    shutil.rmtree(root, ignore_errors=True)
    check_arrived(arguments)
    try:
        make_environment(root, arguments)
        install(root, arguments)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
    os.sync()
    write(root / MARKER, json.dumps(arguments["marker"]))


def check_arrived(arguments: dict[str, Any]) -> None:
    """Compare what arrived, now or long ago, with its digest; what differs is removed."""
    incoming = Path(arguments["folder"])
    damaged = [
        incoming / name
        for name, wanted in arguments["wheels"]
        if not (incoming / name).is_file() or sha256(incoming / name) != wanted
    ]
    for path in damaged:
        path.unlink(missing_ok=True)
    if damaged:
        raise SystemExit(f"{damaged[0].name} was damaged on the box; run the same command again")


def make_environment(root: Path, arguments: dict[str, Any]) -> None:
    """Make the virtual environment, for which no pip need be on the box."""
    words = [arguments["python"], "-I", "-m", "venv", "--without-pip"]
    words += ["--system-site-packages"] if arguments["system_packages"] else []
    call([*words, str(root)], "make an environment", arguments["timeout_s"])


def install(root: Path, arguments: dict[str, Any]) -> None:
    """Install the wheels, each by its digest, with the pip that came along."""
    incoming = Path(arguments["folder"])
    requirements = root / "requirements.txt"
    requirements.write_text(
        "".join(
            f"{incoming / name} --hash=sha256:{sha}\n"
            for name, sha in arguments["wheels"]
            if name != arguments["pip"]
        )
    )
    python = str(root / "bin" / "python")
    words = [python, str(incoming / arguments["pip"] / "pip"), "install", "--isolated"]
    words += ["--no-index", "--no-deps", "--require-hashes", "--no-cache-dir", "--quiet"]
    words += ["--disable-pip-version-check", "--no-warn-script-location"]
    call([*words, "-r", str(requirements)], "install the wheels", arguments["timeout_s"])
    call([python, "-I", "-c", "import asdic.cli.agent"], "start the agent", arguments["timeout_s"])


def call(words: list[str], what: str, timeout_s: float) -> None:
    """Run a command; its last line says why it failed."""
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8", "HOME": "/"}
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env=environment,
        )
    except subprocess.TimeoutExpired:
        raise SystemExit(f"cannot {what}: not done within {timeout_s:.0f} s") from None
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise SystemExit(f"cannot {what}: {lines[-1] if lines else f'exit {done.returncode}'}")


def as_user(arguments: dict[str, Any], payload: BinaryIO) -> dict[str, Any]:
    """Run a command of the new version as the agent's user; the payload is its stdin."""
    other = arguments["user"] if os.geteuid() == 0 else None
    done = subprocess.run(
        arguments["words"],
        input=payload.read(arguments["payload_bytes"]),
        capture_output=True,
        timeout=arguments["timeout_s"],
        check=False,
        cwd="/",
        env={"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"},
        user=other,
        group=pwd.getpwnam(other).pw_gid if other else None,
        extra_groups=[] if other else None,
    )
    return {
        "code": done.returncode,
        "out": done.stdout.decode(errors="replace"),
        "err": done.stderr.decode(errors="replace"),
    }


def digests(arguments: dict[str, Any], _payload: object) -> dict[str, str]:
    """Return the digest of every file below the version's folder, links and caches apart."""
    root = Path(arguments["prefix"], arguments["version"])
    found = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in names:
            path = Path(folder, name)
            if not path.is_symlink():
                found[str(path.relative_to(root))] = sha256(path)
    return found


def sha256(path: Path) -> str:
    """Return a file's digest in hex."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            state.update(piece)
    return state.hexdigest()


def tidy(arguments: dict[str, Any], _payload: object) -> list[str]:
    """Remove all versions but the one that runs and the one before, and what is not of use.

    The wheels of the version that runs stay: the next one will share most of them.
    """
    prefix = Path(arguments["prefix"])
    links = (prefix / "current", prefix / "previous")
    keep = {link.readlink().name for link in links if link.is_symlink()}
    marker = prefix / "current" / MARKER
    wheels = set(json.loads(marker.read_text())["wheels"].values()) if marker.exists() else set()
    versions = [path for path in prefix.iterdir() if VERSION.fullmatch(path.name)]
    doomed = [path for path in versions if path.name not in keep and not path.is_symlink()]
    doomed += [path for path in (prefix / "incoming").glob("*") if path.name not in wheels]
    for path in doomed:
        shutil.rmtree(path)
    return sorted(path.name for path in doomed)


def remove(arguments: dict[str, Any], _payload: object) -> list[str]:
    """Remove all versions, and the device's state; its identity stays where that is wished."""
    prefix, state = Path(arguments["prefix"]), Path(arguments["state"])
    is_device = (state / "agent.toml").is_file() or (state / "identity").is_dir()
    doomed = [path for path in sorted(prefix.glob("*")) if is_ours(path)]
    if arguments["keep_identity"]:
        doomed = [path for path in doomed if path.name != USER_FILE]
    if is_device and arguments["keep_identity"]:
        doomed += [path for path in sorted(state.iterdir()) if path.name not in IDENTITY]
    elif is_device:
        doomed.append(state)
    user = (prefix / USER_FILE).read_text() if (prefix / USER_FILE).exists() else ""
    for path in doomed:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if prefix.is_dir() and not any(prefix.iterdir()):
        prefix.rmdir()
    if user and not arguments["keep_identity"]:
        words = ["userdel" if shutil.which("userdel") else "deluser", user]
        subprocess.run(words, capture_output=True, check=False)
    return [str(path) for path in doomed]


def is_ours(path: Path) -> bool:
    """Return whether a flash made this entry of the prefix."""
    return path.name in OURS or VERSION.fullmatch(path.name) is not None


STEPS = {
    "prepare": prepare,
    "missing": missing,
    "receive": receive,
    "build": build,
    "as-user": as_user,
    "digests": digests,
    "tidy": tidy,
    "remove": remove,
}
