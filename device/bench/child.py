"""One fresh process of a benchmark: ``python -m asdic.device.bench.child REQUEST``.

The request is JSON in the first argument, the answer is JSON on stdout. A fresh process is what
makes a cold start cold, and what gives memory layout and thread placement a new throw of the dice.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.bench import Build, PackedSamples
from asdic.contract.errors import AsdicError, ConfigError
from asdic.contract.messages import RuntimeFacts

ANSWER_LIMIT_BYTES: Final = 4 << 20
CHILD_LIMIT_S: Final = 600.0
TURNS_LIMIT: Final = 2_000


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What to do: a cold start of ``folders[0]``, or, with two folders, both by turns.

    ``first`` is the number of the folder that is opened first.
    """

    folders: tuple[str, ...]
    seconds: float = 0.0
    first: int = 0
    threads: int | None = None
    simulate: bool = False


class ColdAnswer(msgspec.Struct, frozen=True, kw_only=True, tag="cold"):
    """What the first inference of a fresh process took, and where what it ran came from."""

    load_s: float
    build: Build | None
    first_ms: float
    memory_bytes: int


class PairAnswer(msgspec.Struct, frozen=True, kw_only=True, tag="pair"):
    """Latencies by turns, a b b a, and what ran each."""

    a: PackedSamples
    b: PackedSamples
    runtimes: tuple[RuntimeFacts, RuntimeFacts]


class Refusal(msgspec.Struct, frozen=True, kw_only=True, tag="refusal"):
    """Why it could not be done."""

    message: str


def ask(request: Request) -> ColdAnswer | PairAnswer:
    """Run ``request`` in a fresh process and return its answer.

    Raises:
        ConfigError: The process refused, crashed or took too long; the message says why.
    """
    command = [sys.executable, "-m", __name__, msgspec.json.encode(request).decode()]
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=CHILD_LIMIT_S + request.seconds * 2
        )
    except subprocess.TimeoutExpired as error:
        raise ConfigError(f"a fresh process did not answer in {error.timeout:.0f} s") from error
    try:
        answer = msgspec.json.decode(
            done.stdout[:ANSWER_LIMIT_BYTES], type=ColdAnswer | PairAnswer | Refusal
        )
    except msgspec.DecodeError as error:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise ConfigError(
            f"a fresh process ended with code {done.returncode}: {lines[-1][:300]}"
        ) from error
    if isinstance(answer, Refusal):
        raise ConfigError(answer.message)
    return answer


def main() -> int:
    """Do what the first argument asks for; the exit code is 0 whatever the answer."""
    request = msgspec.json.decode(sys.argv[1], type=Request)
    answer: ColdAnswer | PairAnswer | Refusal
    try:
        answer = _cold(request) if len(request.folders) == 1 else _pair(request)
    except AsdicError as error:
        answer = Refusal(message=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    sys.stdout.buffer.flush()
    # Some runtimes' threads hang or crash when the interpreter takes them down.
    os._exit(0)


def _cold(request: Request) -> ColdAnswer:
    from asdic.device.bench.bench import peak_memory_bytes
    from asdic.device.bench.frames import frames_for
    from asdic.device.runner.runner import Runner

    folder = Path(request.folders[0])
    with Runner.open(folder, simulate=request.simulate, threads=request.threads) as runner:
        frame = frames_for(runner, folder).next_frame()
        started = time.perf_counter_ns()
        runner.predict(frame)
        first_ms = (time.perf_counter_ns() - started) / 1e6
        return ColdAnswer(
            load_s=runner.load_s,
            build=runner.build,
            first_ms=first_ms,
            memory_bytes=peak_memory_bytes(),
        )


def _pair(request: Request) -> PairAnswer:
    from asdic.device.bench.frames import frames_for
    from asdic.device.bench.turns import by_turns, frame_for, opened_pair

    a, b = (Path(folder) for folder in request.folders)
    with opened_pair(a, b, request) as (runner_a, runner_b):
        frame = frames_for(runner_a, a).next_frame()
        other = frame_for(runner_b, frame, runner_a)
        times_a, times_b = by_turns(
            lambda: runner_a.predict(frame),
            lambda: runner_b.predict(other),
            seconds=request.seconds,
            turns=TURNS_LIMIT,
        )
        runtimes = runner_a.facts(), runner_b.facts()
    return PairAnswer(a=times_a.pack(), b=times_b.pack(), runtimes=runtimes)


if __name__ == "__main__":
    sys.exit(main())
