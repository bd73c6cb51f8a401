"""What a trial gives up: for the live model beside it, and because its model may be hostile."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import psutil
import pytest

from asdic.contract.variant import read_variant
from asdic.device.runner.cache import COMPILED_LIMIT_BYTES
from asdic.device.update.gate import file_limit_bytes
from asdic.device.update.trial import FILE_LIMIT_BYTES, own_folders
from tests.support.models import make_tiny_variant

PROGRAM = """
import json, os, sys
from pathlib import Path
from asdic.device.runner.engine import usable_threads
from asdic.device.update.trial import confine
before = sorted(os.sched_getaffinity(0))
given_up = confine(Path(sys.argv[1]), 1 << 30, 100)
print(json.dumps([given_up, before, sorted(os.sched_getaffinity(0)), os.nice(0), usable_threads(),
    os.sched_getscheduler(0)]))
"""


class Confined(msgspec.Struct, array_like=True):
    """What the process saw."""

    given_up: tuple[str, ...]
    before: list[int]
    after: list[int]
    niceness: int
    threads: int
    policy: int


def confined(folder: Path, cores: set[int]) -> Confined:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)],
        capture_output=True,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    return msgspec.json.decode(done.stdout, type=Confined)


def test_a_trial_leaves_a_core_free_and_takes_no_more_threads_than_are_left(tmp_path):
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        pytest.skip("one core only")
    found = confined(tmp_path, cores)
    assert "core" in found.given_up
    assert found.after == found.before[1:]
    assert found.threads <= len(found.after)


def test_a_trial_on_one_core_shares_it_with_low_priority(tmp_path):
    found = confined(tmp_path, {min(os.sched_getaffinity(0))})
    assert "core" not in found.given_up
    assert found.after == found.before
    assert found.niceness >= 10
    assert found.policy == os.SCHED_IDLE


WRITER = """
import json, sys
from pathlib import Path
from asdic.device.runner.cache import cache_folder, keep_in
from asdic.device.update.trial import confine
folder, cache, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
keep_in(cache)
given_up = confine(folder, 1 << 30, 100, file_bytes=size, cache=cache)
kept_in = cache_folder("tensorrt")
(kept_in / "a.plan").write_bytes(bytes(2 << 20))
print(json.dumps(given_up))
"""


def write_plan(folder: Path, limit_bytes: int) -> subprocess.CompletedProcess[bytes]:
    """Write 2 MiB into the release's cache as the trial does, once it is confined."""
    (folder / "cache").mkdir()
    return subprocess.run(
        [sys.executable, "-c", WRITER, str(folder), str(folder / "cache"), str(limit_bytes)],
        capture_output=True,
        check=False,
    )


def test_a_trial_can_keep_what_it_built_and_its_owner_takes_it_over(tmp_path):
    done = write_plan(tmp_path, 4 << 20)
    assert done.returncode == 0, done.stderr.decode()
    own_folders(tmp_path / "cache", os.geteuid())
    folder = tmp_path / "cache" / "tensorrt"
    assert folder.stat().st_uid == os.geteuid()
    assert (folder / "a.plan").stat().st_size == 2 << 20


def test_a_trial_that_builds_nothing_cannot_write_a_large_file(tmp_path):
    assert write_plan(tmp_path, FILE_LIMIT_BYTES).returncode != 0


@pytest.mark.parametrize(
    ("target", "simulate", "limit_bytes"),
    [
        ("jetson-orin-int8", False, COMPILED_LIMIT_BYTES),
        ("jetson-orin-int8", True, FILE_LIMIT_BYTES),
        ("x86-openvino-int8", False, FILE_LIMIT_BYTES),
    ],
)
def test_only_a_runtime_that_builds_may_write_much(tmp_path, target, simulate, limit_bytes):
    variant = read_variant(make_tiny_variant(tmp_path / "v", target=target))
    assert file_limit_bytes(variant, simulate=simulate) == limit_bytes


ATTACKS = """
import json, os, signal, socket, sys
from pathlib import Path
from asdic.device.update.trial import confine
state, port = Path(sys.argv[1]), int(sys.argv[2])
candidate, cache = state / "releases" / "candidate", state / "gated" / "candidate" / "cache"
given_up = confine(candidate, 1 << 30, 100, cache=cache, baseline=state / "releases" / "current")
def call(socket_name):
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(socket_name)
ATTEMPTS = {
    "call the agent": lambda: call(sys.argv[4]),
    "open a network socket": lambda: socket.socket(socket.AF_INET).close(),
    "reach the network": lambda: socket.create_connection(("127.0.0.1", port), timeout=5),
    "read the device's key": (state / "identity" / "key.pem").read_bytes,
    "list the state folder": lambda: os.listdir(state),
    "change the journal": lambda: (state / "journal.json").write_text("{}"),
    "change its own model": lambda: (candidate / "model.onnx").write_bytes(b""),
    "leave a file elsewhere": lambda: Path(sys.argv[3]).write_text("here"),
    "link out of its cache": lambda: os.rename(cache / "mine", sys.argv[3]),
    "signal the agent": lambda: os.kill(os.getppid(), signal.SIGCONT),
    "read its model": (candidate / "model.onnx").read_bytes,
    "read the current model": (state / "releases" / "current" / "model.onnx").read_bytes,
    "keep what it built": lambda: (cache / "mine").write_text("plan"),
}
def succeeds(attempt):
    try:
        attempt()
    except OSError:
        return False
    return True
print(json.dumps([given_up, {name: succeeds(ATTEMPTS[name]) for name in reversed(ATTEMPTS)}]))
"""
KERNELS = {"network", "paths", "signals", "sockets"}
ALLOWED = ("read its model", "read the current model", "keep what it built")
FORBIDDEN = (
    *("call the agent", "open a network socket", "reach the network"),
    *("read the device's key", "list the state folder"),
    *("change the journal", "change its own model", "leave a file elsewhere"),
    *("link out of its cache", "signal the agent"),
)


class Attempts(msgspec.Struct, array_like=True):
    """What a confined process gave up, and which of its attempts succeeded."""

    given_up: tuple[str, ...]
    succeeded: dict[str, bool]


def attempt_all(state: Path, *before: str) -> Attempts:
    """Let a trial in a state folder try everything; ``before`` is what the command starts with."""
    for release in ("candidate", "current"):
        (state / "releases" / release).mkdir(parents=True)
        (state / "releases" / release / "model.onnx").write_bytes(b"model")
    (state / "gated" / "candidate" / "cache").mkdir(parents=True)
    (state / "identity").mkdir()
    (state / "identity" / "key.pem").write_bytes(b"secret")
    (state / "identity" / "key.pem").chmod(0o600)
    (state / "journal.json").write_text("{}")
    words = (str(state), str(state.parent / "elsewhere"), str(state.parent / "agent.sock"))
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_server(words[2], family=socket.AF_UNIX),
    ):
        port = str(server.getsockname()[1])
        done = subprocess.run(
            [*before, sys.executable, "-c", ATTACKS, words[0], port, *words[1:]],
            capture_output=True,
            check=True,
        )
    return msgspec.json.decode(done.stdout, type=Attempts)


@pytest.fixture(scope="module")
def attempts(tmp_path_factory: pytest.TempPathFactory) -> Attempts:
    found = attempt_all(tmp_path_factory.mktemp("attempts") / "state")
    if not set(found.given_up) >= KERNELS:
        pytest.skip(f"this kernel lets a process give up {found.given_up} only")
    return found


@pytest.mark.parametrize("name", FORBIDDEN)
def test_a_trial_cannot(attempts, name):
    assert not attempts.succeeded[name]


@pytest.mark.parametrize("name", ALLOWED)
def test_a_trial_can(attempts, name):
    assert attempts.succeeded[name]


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace makes the kernel refuse")
def test_where_the_kernel_refuses_the_result_says_so(tmp_path):
    refuse = "inject=unshare,landlock_create_ruleset,prctl:error=EPERM"
    found = attempt_all(tmp_path / "state", "strace", "-f", "-o", os.devnull, "-e", refuse)
    assert not KERNELS & set(found.given_up)
    assert "memory" in found.given_up
    assert found.succeeded["reach the network"]


LIMITED = """
import sys
from pathlib import Path
from asdic.device.update.trial import confine
confine(Path(sys.argv[1]), 1 << 20, 1)
exec(sys.argv[2])
"""


def run_limited(folder: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run a program with a trial's smallest limits: 1 MiB and a second."""
    command = [sys.executable, "-c", LIMITED, str(folder), program]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_trial_is_capped_in_memory(tmp_path):
    done = run_limited(tmp_path, "bytearray(3 << 30)")
    assert "MemoryError" in done.stderr


def test_a_trial_is_capped_in_time(tmp_path):
    assert run_limited(tmp_path, "while True: pass").returncode == -signal.SIGKILL


AGENT = """
import sys
from pathlib import Path
from asdic.contract.variant import Limits
from asdic.device.update.gate import Trial
trial = Trial(Path(sys.argv[1]), Limits(), baseline=None, simulate=True, bench_s=1000.0)
print(trial._child.pid, flush=True)
sys.stdin.read()
"""


def test_a_trial_dies_with_its_agent(tmp_path):
    folder = make_tiny_variant(tmp_path / "v", target="jetson-orin-int8")
    command = [sys.executable, "-c", AGENT, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as agent:
        trial = psutil.Process(int(agent.stdout.readline()))
        wait_until_it_infers(trial)
        agent.kill()
        agent.wait()
        _, alive = psutil.wait_procs([trial], timeout=10)
    assert not alive


def wait_until_it_infers(trial: psutil.Process) -> None:
    """Return once the trial has loaded its runtime: long after it promised to end with us."""
    deadline = time.monotonic() + 30
    while not any("onnxruntime" in place.path for place in trial.memory_maps()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
