"""The folder half of the application contract: programs that have no sockets."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from asdic.device.application import Application
from asdic.device.application_socket import ApplicationSocket
from tests.conftest import REPOSITORY, missing
from tests.support.desk import until
from tests.support.programs import (
    NEW,
    OLD,
    RELEASE,
    Child,
    Clock,
    acknowledged,
    make_models,
    model,
    serving,
)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with a model file of an old and of a new release."""
    return make_models(tmp_path)


@pytest.fixture
def agent(state: Path) -> Iterator[ApplicationSocket]:
    with serving(state) as made:
        yield made


def say(state: Path, name: str, **said: object) -> Path:
    """Write what a program says, as a shell script would: beside its place, then renamed."""
    path = state / "application" / "said" / f"{name}.json"
    temporary = path.with_name(f".{name}.new")
    temporary.write_text(json.dumps(said), encoding="utf-8")
    return temporary.replace(path)


def test_a_file_acknowledges_a_model(agent: ApplicationSocket, state: Path) -> None:
    say(state, "plc", call="loaded", manifest=NEW, version="2", inferences=1, pid=os.getpid())
    until(lambda: agent.program().loaded is not None)
    say(state, "health", call="health", manifest=NEW, inferences=5, pid=os.getpid())
    until(lambda: acknowledged(agent).inferences == 5)
    assert (acknowledged(agent).manifest, acknowledged(agent).pid) == (NEW, os.getpid())
    assert acknowledged(agent).is_certain


def test_a_file_speaks_for_a_process_whose_maps_are_looked_at(
    agent: ApplicationSocket, state: Path
) -> None:
    with Child(state, model(state, OLD)) as child:
        child.tell("ready")
        say(state, "plc", call="loaded", manifest=NEW, version="2", inferences=1, pid=child.pid)
        until(lambda: agent.program().loaded is not None)
        assert acknowledged(agent).holds == (OLD,)


def test_what_a_file_said_is_over_when_its_process_is(
    agent: ApplicationSocket, state: Path
) -> None:
    with Child(state) as child:
        child.tell("ready")
        say(state, "plc", call="loaded", manifest=NEW, version="2", inferences=1, pid=child.pid)
        until(lambda: agent.program().loaded is not None)
    until(lambda: agent.program().loaded is None)


def test_a_file_that_is_not_written_again_falls_silent(state: Path) -> None:
    clock = Clock()
    agent = ApplicationSocket(state / "application", lambda: RELEASE, clock=clock)
    agent.start()
    say(state, "plc", call="loaded", manifest=NEW, version="2", inferences=1, pid=os.getpid())
    until(lambda: agent.program().loaded is not None)
    clock.ahead_s = 6.0
    assert acknowledged(agent).silent
    say(state, "plc", call="loaded", manifest=NEW, version="2", inferences=9, pid=os.getpid())
    until(lambda: not acknowledged(agent).silent)
    agent.close()


def test_a_file_begins_and_ends_an_exam(agent: ApplicationSocket, state: Path) -> None:
    say(state, "exam", call="busy", until_s=time.monotonic() + 600)
    until(agent.is_busy)
    say(state, "exam", call="busy", until_s=0)
    until(lambda: not agent.is_busy())


def test_a_file_that_ended_an_exam_long_ago_does_not_end_a_later_one(
    agent: ApplicationSocket, state: Path
) -> None:
    say(state, "exam", call="busy", until_s=0)
    until(lambda: not agent.is_busy())
    with Application.connect(state) as program:
        program.busy(600)
    agent.close()
    again = ApplicationSocket(state / "application", lambda: RELEASE)
    again.start()
    assert again.is_busy()
    again.close()


def test_a_file_is_heard_by_an_agent_that_starts_later(state: Path) -> None:
    (state / "application").mkdir()
    agent = ApplicationSocket(state / "application", lambda: RELEASE)
    agent.start()
    agent.close()
    say(state, "exam", call="busy", until_s=time.monotonic() + 600)
    again = ApplicationSocket(state / "application", lambda: RELEASE)
    again.start()
    assert again.is_busy()
    again.close()


def test_what_files_said_before_the_last_boot_is_forgotten(state: Path) -> None:
    said = state / "application" / "said"
    said.mkdir(parents=True)
    (said / ".boot").write_text("another", encoding="ascii")
    path = say(state, "exam", call="busy", until_s=1e9)
    agent = ApplicationSocket(state / "application", lambda: RELEASE)
    agent.start()
    assert not agent.is_busy()
    assert not path.exists()
    agent.close()


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        b"{}",
        b'{"call": "current", "pid": 1}',
        b'{"call": "loaded", "manifest": "sha256:bb", "version": "2", "inferences": 1}',
        b'{"call": "loaded", "manifest": "sha256:bb", "version": "2", "inferences": 1, "pid": 0}',
        b'{"call": "busy", "until_s": 1e18, "reason": "' + 5_000 * b"x" + b'"}',
    ],
    ids=["no JSON", "no call", "a question", "no process", "no such process", "too large"],
)
def test_a_file_that_says_nothing_proper_changes_nothing(
    agent: ApplicationSocket, state: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (state / "application" / "said" / "odd.json").write_bytes(data)
    until(lambda: agent.program() is not None and "odd.json is not taken" in caplog.text)
    assert agent.program().loaded is None
    assert not agent.is_busy()


def test_a_link_is_not_followed(
    agent: ApplicationSocket, state: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = say(state, "exam", call="busy", until_s=1e18).rename(tmp_path / "exam.json")
    (state / "application" / "said" / "link.json").symlink_to(elsewhere)
    until(lambda: agent.program() is not None and "link.json is not taken" in caplog.text)
    assert not agent.is_busy()


def test_a_file_of_another_user_cannot_speak_for_our_process(
    agent: ApplicationSocket, state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if os.geteuid() != 0:
        missing("only root can give a file to another user")
    said = {"manifest": NEW, "version": "2", "inferences": 1, "pid": os.getpid()}
    temporary = say(state, "plc", call="loaded", **said).rename(state / "foreign")
    os.chown(temporary, 65534, 65534)
    temporary.rename(state / "application" / "said" / "plc.json")
    until(lambda: agent.program() is not None and "plc.json is not taken" in caplog.text)
    assert agent.program().loaded is None


def test_only_so_many_files_are_read(agent: ApplicationSocket, state: Path) -> None:
    for number in range(16):
        say(state, f"a{number:02}", call="health", pid=os.getpid())
    say(state, "b", call="busy", until_s=time.monotonic() + 600)
    say(state, "a00", call="loaded", manifest=NEW, version="2", inferences=1, pid=os.getpid())
    until(lambda: agent.program().loaded is not None)
    assert not agent.is_busy()


def test_a_folder_that_is_in_the_way_does_not_stop_the_agent(
    state: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (state / "application").mkdir()
    (state / "application" / "said").write_bytes(b"")
    agent = ApplicationSocket(state / "application", lambda: RELEASE)
    agent.start()
    with Application.connect(state) as program:
        assert program.current() == RELEASE
    assert "cannot speak by files" in caplog.text
    agent.close()


def test_the_shell_script_of_the_documentation_is_heard(
    agent: ApplicationSocket, state: Path
) -> None:
    page = (REPOSITORY / "docs" / "application.md").read_text(encoding="utf-8")
    gateway, exam = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)[1:]
    script = state / "gateway"
    script.write_text(f"{gateway}\n{exam}\nread -r stop\n", encoding="utf-8")
    (state / "infer").write_text("#!/bin/sh\ntest -f $1/model.bin\n", encoding="utf-8")
    (state / "infer").chmod(0o755)
    (state / "frames").write_text("1\n2\n3\n", encoding="utf-8")
    (state / "current").symlink_to(f"releases/{NEW.removeprefix('sha256:')}")
    with subprocess.Popen(
        ["sh", script, state, "frames"], cwd=state, stdin=subprocess.PIPE
    ) as process:
        until(lambda: agent.program().loaded is not None)
        until(lambda: acknowledged(agent).inferences == 3)
        until(agent.is_busy)
        found = acknowledged(agent)
        assert (found.manifest, found.version) == (NEW, RELEASE.version)
        assert (found.pid, found.is_certain) == (process.pid, True)
        process.communicate(b"\n", timeout=10)
