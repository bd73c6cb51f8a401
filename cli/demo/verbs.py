"""Running asdic's own commands as a user would: as processes, with their output on the screen."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from asdic.contract.errors import AsdicError

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0


class DemoError(AsdicError):
    """A step of the demo did not end as it should; the message names the step and its log."""


def command(name: str) -> str:
    """Return the path of one of asdic's commands in this environment."""
    path = Path(sysconfig.get_path("scripts")) / name
    if not path.is_file():
        raise DemoError(f"{path} is missing; install asdic into this environment first")
    return str(path)


def show(*words: str | Path, expect: int = 0) -> None:
    """Run ``asdic WORDS`` in front of the user.

    Raises:
        DemoError: It ended with another exit code than ``expect``.
    """
    shown = " ".join(str(word) for word in words)
    click.secho(f"\n$ asdic {shown}", bold=True)
    sys.stdout.flush()
    code = subprocess.run([command("asdic"), *map(str, words)], check=False).returncode
    if code != expect:
        raise DemoError(f"`asdic {shown}` ended with exit code {code}, expected {expect}")


def ask(*words: str | Path) -> Any:
    """Run ``asdic WORDS`` quietly and return its JSON output.

    Raises:
        DemoError: It failed, or printed something else.
    """
    result = subprocess.run(
        [command("asdic"), *map(str, words)], check=False, capture_output=True, text=True
    )
    shown = " ".join(str(word) for word in words)
    if result.returncode:
        raise DemoError(f"`asdic {shown}` failed: {result.stderr.strip()}")
    try:
        return json.loads(result.stdout)
    except ValueError as error:
        raise DemoError(f"`asdic {shown}` printed no JSON") from error


def agent(*words: str | Path) -> str:
    """Run ``asdic-agent WORDS`` quietly and return what it printed."""
    result = subprocess.run(
        [command("asdic-agent"), *map(str, words)], check=False, capture_output=True, text=True
    )
    if result.returncode:
        raise DemoError(f"`asdic-agent {words[0]}` failed: {result.stderr.strip()}")
    return result.stdout


@contextlib.contextmanager
def running(name: str, words: list[str | Path], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Keep a command running while the block runs, its output in ``log``; stop it after."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            [command(name), *map(str, words)],
            stdout=out,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield process
    finally:
        _stop(process)


def wait_until(condition: Callable[[], bool], what: str, *, timeout_s: float) -> None:
    """Return once ``condition()`` holds.

    Raises:
        DemoError: It did not within ``timeout_s``.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"waited {timeout_s:.0f} s in vain: {what}")
        time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
