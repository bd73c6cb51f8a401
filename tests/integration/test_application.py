"""The application contract over a real socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from asdic.contract.errors import ConfigError, LinkError
from asdic.device.application import Application, CurrentRelease, HealthCall
from asdic.device.application_socket import ApplicationSocket
from tests.support.desk import until

RELEASE = CurrentRelease(manifest="sha256:aa", version="1.0.0", folder="/releases/aa")


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with a path that is too long for a socket's name."""
    folder = tmp_path / ("long-" * 30)
    folder.mkdir()
    return folder


@pytest.fixture
def agent(state: Path) -> Iterator[ApplicationSocket]:
    made = ApplicationSocket(state / "application", lambda: RELEASE)
    made.start()
    yield made
    made.close()


def test_a_program_learns_what_to_run(agent: ApplicationSocket, state: Path) -> None:
    with Application.connect(state) as program:
        assert program.current() == RELEASE


def test_an_acknowledgement_carries_the_process_that_the_kernel_knows(
    agent: ApplicationSocket, state: Path
) -> None:
    with Application.connect(state) as program:
        program.loaded(RELEASE, inferences=1)
        loaded = agent.program().loaded
    assert loaded is not None
    assert (loaded.manifest, loaded.pid, loaded.inferences) == ("sha256:aa", os.getpid(), 1)


def test_nothing_is_loaded_before_it_is_acknowledged(agent: ApplicationSocket, state: Path) -> None:
    with Application.connect(state) as program:
        program.current()
        assert agent.program().loaded is None


def test_nothing_is_loaded_once_the_program_is_gone(agent: ApplicationSocket, state: Path) -> None:
    with Application.connect(state) as program:
        program.loaded(RELEASE, inferences=1)
    until(lambda: agent.program().loaded is None)


def test_health_counts_the_inferences(agent: ApplicationSocket, state: Path) -> None:
    with Application.connect(state) as program:
        program.loaded(RELEASE, inferences=1)
        program.health(HealthCall(manifest="sha256:aa", inferences=7))
        said = agent.program()
    assert said.loaded is not None
    assert said.loaded.inferences == 7


def test_a_program_that_lets_its_model_go_has_none_loaded(
    agent: ApplicationSocket, state: Path
) -> None:
    with Application.connect(state) as program:
        program.loaded(RELEASE, inferences=1)
        program.health(HealthCall())
        assert agent.program().loaded is None


def test_another_program_that_only_asks_does_not_take_the_place_of_the_one_that_infers(
    agent: ApplicationSocket, state: Path
) -> None:
    with Application.connect(state) as program, Application.connect(state) as monitor:
        program.loaded(RELEASE, inferences=1)
        monitor.current()
        assert agent.program().loaded is not None


def test_an_exam_ends_by_itself(agent: ApplicationSocket, state: Path) -> None:
    with Application.connect(state) as program:
        program.busy(0.05)
        until(lambda: not agent.is_busy())


def test_an_exam_may_end_early(agent: ApplicationSocket, state: Path) -> None:
    with Application.connect(state) as program:
        program.busy(600)
        assert agent.is_busy()
        program.busy(0)
        assert not agent.is_busy()


def test_an_exam_outlives_the_program_and_the_agent(agent: ApplicationSocket, state: Path) -> None:
    with Application.connect(state) as program:
        program.busy(600)
    agent.close()
    again = ApplicationSocket(state / "application", lambda: RELEASE)
    assert again.is_busy()


def test_an_exam_from_before_the_last_boot_is_over(state: Path) -> None:
    folder = state / "application"
    folder.mkdir()
    (folder / "busy.json").write_text('{"boot": "another", "until_s": 1e18}', encoding="ascii")
    assert not ApplicationSocket(folder, lambda: RELEASE).is_busy()


def test_an_exam_has_a_longest_time(state: Path) -> None:
    agent = ApplicationSocket(state / "application", lambda: RELEASE, busy_limit_s=0.05)
    agent.start()
    with Application.connect(state) as program:
        program.busy(1e9)
        until(lambda: not agent.is_busy())
    agent.close()


@pytest.mark.parametrize("line", [b"\x00\n", b"{}\n", b'{"call": "reboot"}\n', b"[" * 9999 + b"\n"])
def test_nonsense_is_answered_and_the_agent_lives(
    agent: ApplicationSocket, state: Path, line: bytes
) -> None:
    folder = os.open(state / "application", os.O_PATH)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as raw:
        raw.connect(f"/proc/self/fd/{folder}/agent.sock")
        os.close(folder)
        raw.sendall(line)
        assert b"not a call of the application contract" in raw.recv(1 << 16)
    with Application.connect(state) as program:
        assert program.current() == RELEASE


def test_an_error_of_the_agent_reaches_the_program_as_one(state: Path) -> None:
    def broken() -> CurrentRelease:
        raise ConfigError("the release is damaged")

    agent = ApplicationSocket(state / "application", broken)
    agent.start()
    with (
        Application.connect(state) as program,
        pytest.raises(ConfigError, match="the release is damaged"),
    ):
        program.current()
    agent.close()


def test_a_socket_that_a_killed_agent_left_behind_is_replaced(state: Path) -> None:
    (state / "application").mkdir()
    (state / "application" / "agent.sock").write_bytes(b"")
    agent = ApplicationSocket(state / "application", lambda: RELEASE)
    agent.start()
    with Application.connect(state) as program:
        assert program.current() == RELEASE
    agent.close()


def test_without_an_agent_there_is_one_clear_line(state: Path) -> None:
    with pytest.raises(LinkError, match="no agent listens in"):
        Application.connect(state)


def test_an_agent_that_ends_is_noticed(agent: ApplicationSocket, state: Path) -> None:
    with Application.connect(state) as program:
        program.current()
        agent.close()
        with pytest.raises(LinkError, match="the agent is gone"):
            program.current()


def test_a_model_that_cannot_be_loaded_ends_nothing_where_another_still_answers(
    agent: ApplicationSocket, state: Path
) -> None:
    with Application.connect(state) as program:
        program.loaded(RELEASE, inferences=1)
        program.health(HealthCall(manifest="sha256:bb", errors=1, still=RELEASE.manifest))
        said = agent.program()
    assert said.loaded is not None
    assert said.loaded.manifest == RELEASE.manifest
    assert said.health is not None
    assert said.health.manifest == "sha256:bb"


def test_a_model_that_cannot_be_loaded_is_all_there_is_where_nothing_else_answers(
    agent: ApplicationSocket, state: Path
) -> None:
    with Application.connect(state) as program:
        program.loaded(RELEASE, inferences=1)
        program.health(HealthCall(manifest="sha256:bb", errors=1))
        assert agent.program().loaded is None


def test_an_exam_goes_on_though_who_began_it_is_gone(agent: ApplicationSocket, state: Path) -> None:
    with Application.connect(state) as program:
        program.busy(600)
    with Application.connect(state) as program:
        program.health(HealthCall())
        assert agent.is_busy()


def test_an_exam_that_ended_stays_ended_after_a_restart(
    agent: ApplicationSocket, state: Path
) -> None:
    with Application.connect(state) as program:
        program.busy(600)
        program.busy(0)
    agent.close()
    assert not ApplicationSocket(state / "application", lambda: RELEASE).is_busy()


def test_neither_a_new_model_nor_health_ends_an_exam(agent: ApplicationSocket, state: Path) -> None:
    with Application.connect(state) as program:
        program.busy(600)
        program.loaded(RELEASE, inferences=1)
        program.health(HealthCall(manifest="sha256:aa", inferences=2))
        assert agent.is_busy()
