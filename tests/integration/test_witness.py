"""What the agent reports of a program is what the program said and what its process shows."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from asdic.contract.files import parse_json
from asdic.contract.messages import Loaded
from asdic.device.application import Application, HealthCall
from asdic.device.application_socket import ApplicationSocket
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


def test_a_program_that_keeps_the_old_file_mapped_is_reported_as_such(
    agent: ApplicationSocket, state: Path
) -> None:
    with Child(state, model(state, OLD)) as child:
        child.tell(f"loaded {NEW}")
        assert str(model(state, OLD)) in child.maps
        assert acknowledged(agent).manifest == NEW
        assert acknowledged(agent).holds == (OLD,)
        assert acknowledged(agent).doubt == "also maps aaaaaaaa"
        child.tell("unmap")
        assert str(model(state, OLD)) not in child.maps
        until(lambda: acknowledged(agent).is_certain)


def test_a_program_may_map_what_it_acknowledged(agent: ApplicationSocket, state: Path) -> None:
    with Child(state, model(state, NEW)) as child:
        child.tell(f"loaded {NEW}")
        assert acknowledged(agent).is_certain


def test_a_file_that_both_releases_have_is_no_doubt(agent: ApplicationSocket, state: Path) -> None:
    model(state, NEW).unlink()
    model(state, NEW).hardlink_to(model(state, OLD))
    with Child(state, model(state, OLD)) as child:
        child.tell(f"loaded {NEW}")
        assert acknowledged(agent).is_certain


def test_a_mapped_release_that_was_removed_meanwhile_is_still_seen(
    agent: ApplicationSocket, state: Path
) -> None:
    with Child(state, model(state, OLD)) as child:
        child.tell("ready")
        folder = model(state, OLD).parent
        shutil.rmtree(folder.rename(folder.with_name(f".{folder.name}.removed")))
        child.tell(f"loaded {NEW}")
        assert acknowledged(agent).holds == (OLD,)


def test_a_release_mapped_through_another_path_is_seen(
    agent: ApplicationSocket, state: Path, tmp_path: Path
) -> None:
    (tmp_path / "copy").hardlink_to(model(state, OLD))
    with Child(state, tmp_path / "copy") as child:
        child.tell(f"loaded {NEW}")
        assert acknowledged(agent).holds == (OLD,)


def test_a_program_stopped_by_a_signal_is_silent_until_it_goes_on(
    agent: ApplicationSocket, state: Path
) -> None:
    with Child(state) as child:
        child.tell(f"loaded {NEW}")
        assert acknowledged(agent).is_certain
        os.kill(child.pid, signal.SIGSTOP)
        until(lambda: acknowledged(agent).silent)
        os.kill(child.pid, signal.SIGCONT)
        until(lambda: acknowledged(agent).is_certain)


def test_a_program_that_says_nothing_for_five_seconds_is_silent(state: Path) -> None:
    clock = Clock()
    agent = ApplicationSocket(state / "application", lambda: RELEASE, clock=clock)
    agent.start()
    with Application.connect(state) as program:
        program.loaded(RELEASE, inferences=1)
        clock.ahead_s = 4.5
        assert not acknowledged(agent).silent
        clock.ahead_s = 5.5
        assert acknowledged(agent).silent
        program.health(HealthCall(manifest=NEW, inferences=2))
        assert not acknowledged(agent).silent
    agent.close()


def test_a_process_that_is_gone_is_silent_though_its_child_keeps_the_connection(
    agent: ApplicationSocket, state: Path
) -> None:
    code = (
        "import os, sys, time; from pathlib import Path;"
        "from asdic.device.application import Application, CurrentRelease;"
        "program = Application.connect(Path(sys.argv[1]));"
        "program.loaded(CurrentRelease(manifest=sys.argv[2], version='1'), inferences=1);"
        "os.fork() and os._exit(0);"
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(state), NEW], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        until(lambda: acknowledged(agent).silent)
        os.kill(child, signal.SIGKILL)


def test_a_report_from_before_there_were_doubts_is_certain() -> None:
    old = b'{"manifest": "sha256:aa", "version": "1", "pid": 7, "inferences": 3}'
    assert parse_json(old, Loaded, what="a report").is_certain
