"""The C library of the application contract: compiled here, against the real agent's end."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from asdic.device.application import short_path
from tests.conftest import missing
from tests.support.desk import Desk, until

SOURCES = Path(str(files("asdic.device") / "c"))
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O2")
WATCHED = ("-std=c99", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
OK = b'{"manifest": "sha256:aa", "version": "1.0.0", "folder": "/r", "cache": null, "error": ""}\n'
NEW_FIELD = b'{"a": [1, -0.5e+3, true, false, null, "\\u0041"], "b": {}}'


def compiled(folder: Path, *options: str) -> Path:
    """Return the example, compiled; not a word of the compiler is taken."""
    if shutil.which("cc") is None:
        missing("no C compiler; install the package gcc")
    program = folder / "asdic-say"
    sources = map(str, sorted(SOURCES.glob("*.c")))
    done = subprocess.run(
        ["cc", *options, "-o", str(program), *sources], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return program


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("strict"), *STRICT)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example that ends at its first access outside of its memory."""
    return compiled(tmp_path_factory.mktemp("watched"), *WATCHED)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """An agent's end whose folder has a path that is too long for a socket's name."""
    state = tmp_path / ('long "path" ' * 12)
    state.mkdir()
    with Desk(state) as made:
        made.point("1.0.0")
        yield made


class Said:
    """The example, running: lines in, lines out."""

    def __init__(self, program: Path, state: Path) -> None:
        self._process = subprocess.Popen(
            [program, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid

    def say(self, line: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().rstrip("\n")

    def __enter__(self) -> Said:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()
        assert self._process.returncode == 0


@pytest.fixture
def program(watched: Path, desk: Desk) -> Iterator[Said]:
    with Said(watched, desk.state) as made:
        yield made


def test_the_strict_compiler_says_nothing(strict: Path, desk: Desk) -> None:
    with Said(strict, desk.state) as program:
        assert program.say("current").startswith("ok 1.0.0 sha256:")


def test_it_learns_what_to_run(program: Said, desk: Desk) -> None:
    wanted = desk.current
    assert program.say("current") == f"ok {wanted.version} {wanted.manifest} {wanted.folder}"


def test_no_model_is_an_empty_name(program: Said, desk: Desk) -> None:
    desk.point(None)
    assert program.say("current") == "ok no model"


def test_an_acknowledgement_carries_the_process(program: Said, desk: Desk) -> None:
    program.say("current")
    program.say("loaded 3")
    assert desk.loaded is not None
    assert (desk.loaded.version, desk.loaded.inferences) == ("1.0.0", 3)
    assert (desk.loaded.pid, desk.loaded.is_certain) == (program.pid, True)


def test_health_says_how_it_goes(program: Said, desk: Desk) -> None:
    program.say("current")
    program.say("loaded 1")
    program.say('health 18446744073709551 2 a "torn" frame\t(Größe)')
    health = desk.program.health
    assert health is not None
    assert (health.inferences, health.errors, health.latency_ms_p50) == (18446744073709551, 2, 12.5)
    assert health.reason == 'a "torn" frame\t(Größe)'


def test_a_long_reason_is_cut_before_a_character(program: Said, desk: Desk) -> None:
    program.say("current")
    program.say("health 1 1 x" + 400 * "ß")
    health = desk.program.health
    assert health is not None
    assert health.reason == "x" + 249 * "ß"


def test_health_of_nothing_lets_go_of_what_was_loaded(program: Said, desk: Desk) -> None:
    program.say("current")
    program.say("loaded 1")
    program.say("nothing")
    assert desk.loaded is None


def test_a_release_that_cannot_be_loaded_is_named_and_the_old_one_goes_on(
    program: Said, desk: Desk
) -> None:
    program.say("current")
    program.say("loaded 1")
    desk.point("2.0.0")
    program.say("health 2 0")
    program.say("failed no memory")
    said = desk.program
    assert said.health is not None
    assert (said.health.manifest, said.health.reason) == (desk.current.manifest, "no memory")
    assert said.loaded is not None
    assert said.loaded.version == "1.0.0"


def test_health_names_the_next_release(program: Said, desk: Desk) -> None:
    program.say("current")
    desk.point("2.0.0")
    assert program.say("health 1 0").startswith("ok 2.0.0 ")


def test_an_exam_begins_and_ends(program: Said, desk: Desk) -> None:
    program.say("busy 600")
    assert desk.socket.is_busy()
    program.say("busy 0")
    assert not desk.socket.is_busy()


def test_an_exam_ends_by_itself(program: Said, desk: Desk) -> None:
    program.say("busy 0.05")
    until(lambda: not desk.socket.is_busy())


def test_an_exam_outlives_the_program(watched: Path, desk: Desk) -> None:
    with Said(watched, desk.state) as program:
        program.say("busy 600")
    until(lambda: desk.loaded is None)
    assert desk.socket.is_busy()


@pytest.mark.parametrize("seconds", ["-1", "nan", "inf", "1e10"])
def test_an_exam_of_no_sensible_length_is_not_sent(program: Said, desk: Desk, seconds: str) -> None:
    assert program.say(f"busy {seconds}").startswith("argument an exam lasts 0 to 1e9 seconds")
    assert not desk.socket.is_busy()


def test_what_was_never_named_cannot_be_acknowledged(program: Said) -> None:
    assert program.say("loaded 1").startswith("argument a release without a manifest")


def test_an_error_of_the_agent_is_told_and_the_connection_stands(program: Said, desk: Desk) -> None:
    desk.error = 'the "release" is damaged'
    assert program.say("current") == 'refused the agent answers: the "release" is damaged'
    desk.error = ""
    assert program.say("current").startswith("ok 1.0.0")


def test_an_agent_that_ends_is_noticed(program: Said, desk: Desk) -> None:
    program.say("current")
    desk.socket.close()
    until(lambda: program.say("current").startswith("gone "))


def test_without_an_agent_there_is_one_clear_line(watched: Path, tmp_path: Path) -> None:
    done = subprocess.run([watched, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == f"no agent listens in {tmp_path}: No such file or directory\n"


class Impostor:
    """What listens in an agent's place, and answers each line with ``answer``."""

    def __init__(self, state: Path) -> None:
        self.answer = b""
        folder = state / "application"
        folder.mkdir()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with short_path(folder) as path:
            self._listener.bind(path)
        self._listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        try:
            while connection.recv(1 << 16):
                connection.sendall(self.answer)
        except OSError:
            pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def impostor(tmp_path: Path) -> Iterator[Impostor]:
    made = Impostor(tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (OK, "1.0.0 sha256:aa /r"),
        (b' { "folder" : "/r" ,"version":"1.0.0",\t"manifest":"sha256:aa" } \n', None),
        (OK.replace(b"/r", rb"/\u00fc\ud83d\ude00\n\t\"\\\/"), '1.0.0 sha256:aa /ü😀\n\t"\\/'),
        (OK.replace(b"{", b'{"new": ' + NEW_FIELD + b", "), None),
        (OK.replace(b"{", b'{"' + 900 * b"x" + b'": [], '), None),
        (OK.replace(b'"sha256:aa"', b"null"), "no model"),
        (b"{}\n", "no model"),
        (OK.replace(b"/r", b"/" + 4094 * b"r"), "1.0.0 sha256:aa /" + 4094 * "r"),
    ],
    ids=["plain", "spaces", "escapes", "new field", "long name", "null", "empty", "longest"],
)  # fmt: skip
def test_a_proper_answer_is_understood(
    watched: Path, tmp_path: Path, impostor: Impostor, answer: bytes, said: str | None
) -> None:
    impostor.answer = answer
    done = subprocess.run(
        [watched, tmp_path], input="current\n", capture_output=True, text=True, check=True
    )
    assert done.stdout == f"ok {said or '1.0.0 sha256:aa /r'}\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"\n",
        b"hello\n",
        b"[]\n",
        b"{\n",
        OK[:-2] + b"\n",
        OK[:-1] + b"}\n",
        OK.replace(b",", b"", 1),
        OK.replace(b'""}', b'"",}'),
        OK.replace(b'"1.0.0"', b"1"),
        OK.replace(b'"1.0.0"', b"nul"),
        OK.replace(b"1.0.0", b"a\x01b"),
        OK.replace(b"1.0.0", b"a\x00b"),
        OK.replace(b"1.0.0", rb"\u0000"),
        OK.replace(b"1.0.0", rb"\ud800"),
        OK.replace(b"1.0.0", rb"\ud800\u0041"),
        OK.replace(b"1.0.0", rb"\udc00"),
        OK.replace(b"1.0.0", rb"\u12g4"),
        OK.replace(b"1.0.0", rb"\x41"),
        OK.replace(b"1.0.0", 128 * b"9"),
        OK.replace(b"/r", b"/" + 4095 * b"r"),
        OK.replace(b"{", b'{"new": 01, '),
        OK.replace(b"{", b'{"new": 1., '),
        OK.replace(b"{", b'{"new": ' + 99 * b"[" + 99 * b"]" + b", "),
        OK.replace(b"{", b'{"new": "' + 20_000 * b"x" + b'", '),
        OK + OK,
        b"\\" * 16_384,
        b"x" * 1_000_000,
    ],
)
def test_garbage_is_refused_and_nothing_of_it_is_used(
    watched: Path, tmp_path: Path, impostor: Impostor, answer: bytes
) -> None:
    impostor.answer = answer
    done = subprocess.run(
        [watched, tmp_path], input=b"current\nloaded 1\n", capture_output=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert first.startswith(b"garbage what answers is no agent: ")
    assert second.startswith(b"argument a release without a manifest")


def test_every_cut_of_an_answer_is_refused(
    watched: Path, tmp_path: Path, impostor: Impostor
) -> None:
    for length in range(0, len(OK) - 1, 3):
        impostor.answer = OK[:length] + b"\n"
        done = subprocess.run(
            [watched, tmp_path], input=b"current\n", capture_output=True, check=True
        )
        assert done.stdout.startswith(b"garbage ")


def test_no_answer_is_waited_for_only_so_long(
    watched: Path, tmp_path: Path, impostor: Impostor
) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [watched, tmp_path], input=b"current\ncurrent\n", capture_output=True, check=True
    )
    assert 2.0 <= time.monotonic() - started < 4.0
    assert done.stdout.splitlines() == [
        b"gone the agent did not answer within 2000 ms",
        b"gone not connected; call asdic_connect",
    ]


def test_the_sources_come_with_the_package() -> None:
    found = {path.name for path in SOURCES.iterdir()}
    assert {"asdic_application.h", "asdic_application.c", "example.c"} <= found
