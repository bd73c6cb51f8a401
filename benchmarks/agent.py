"""How soon the agent and the runner are there, and what they take, beside a bare Python with paho.

::

    .venv/bin/python -m benchmarks.agent > docs/benchmarks/agent.md
    .venv/bin/python -m benchmarks.agent --json

The bare Python connects to the same broker with the same settings and says the same words. All
programs are started by turns, in new processes, and looked at from outside: the clock starts
before the process does, and stops when the broker hands on its first word, or when its socket has
answered. Then a real agent installs a release, and what it and its trial take is sampled; last come
the frames that a swap costs (``benchmarks.swap``). Ten minutes in all.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import paho.mqtt.client as mqtt
import psutil
from paho.mqtt.enums import CallbackAPIVersion

from asdic.contract.broker import BrokerAddress
from asdic.contract.errors import LinkError
from asdic.contract.messages import up_topic
from asdic.device.application import Application, CurrentRelease
from asdic.device.application_socket import ApplicationSocket
from asdic.fleet.broker import open_broker
from benchmarks import swap
from benchmarks.device_footprint import TARGET, machine, warning
from tests.conftest import REPOSITORY
from tests.support.boxes import AGENT, Box
from tests.support.models import make_keyword_variant
from tests.support.yard import Yard

REPEATS: Final = 9
INSTALLS: Final = 3
PATIENCE_S: Final = 60.0
SETTLED_S: Final = 1.0
LOOK_S: Final = 0.005
START_AIM_S: Final = 0.5
MEMORY_AIM_MB: Final = 50.0

BARE: Final = """
import sys, time
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
host, port, topic = sys.argv[1], int(sys.argv[2]), sys.argv[3]
client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="bare")
client.on_connect = lambda *_: client.publish(topic, b"here", qos=1, retain=True)
client.connect_async(host, port, 30)
client.loop_start()
time.sleep(1000)
"""


@dataclass(frozen=True, kw_only=True)
class Start:
    """One new process: seconds until it was there, and its memory a while later."""

    linked_s: float | None = None
    answers_s: float | None = None
    resident_mb: float
    proportional_mb: float
    peak_mb: float


@dataclass(frozen=True, kw_only=True)
class Gating:
    """The most that was seen while a release was installed, in megabytes."""

    agent_mb: float
    trial_mb: float
    both_mb: float


@dataclass(frozen=True)
class Stand:
    """What all measurements share."""

    folder: Path
    broker: BrokerAddress
    variant: Path
    box: Box
    words: Words


class Words:
    """When the broker handed on the first word of each topic, on the monotonic clock."""

    def __init__(self, broker: BrokerAddress) -> None:
        self._heard: dict[str, float] = {}
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="words")
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=0)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = lambda _client, _data, message: self._heard.setdefault(
            message.topic, time.monotonic()
        )
        self._client.connect(broker.host, broker.port)
        self._client.loop_start()
        if not self._subscribed.wait(PATIENCE_S):
            raise LinkError("the broker does not answer")

    def forget(self) -> None:
        """Wait for first words anew."""
        self._heard.clear()

    def when(self, topic: str) -> float | None:
        """Return when the first word of ``topic`` came, or None."""
        return self._heard.get(topic)

    def close(self) -> None:
        """Hang up."""
        self._client.disconnect()
        self._client.loop_stop()


# The programs


def bare(stand: Stand) -> Start:
    """Start a bare Python with paho."""
    words = (stand.broker.host, str(stand.broker.port), "bare")
    return _started([sys.executable, "-c", BARE, *words], linked=lambda: stand.words.when("bare"))


def agent(stand: Stand) -> Start:
    """Start an agent that has no offer, without its runner."""
    topic = up_topic(stand.box.config.device, "presence")
    return _started(
        [*AGENT, "run", "--no-runner", "--state", str(stand.box.state.path)],
        linked=lambda: stand.words.when(topic),
        answers=lambda: _has_answered(stand.box.state.path),
    )


def idle_runner(stand: Stand) -> Start:
    """Start a runner to which the agent names no release."""
    return _runner(stand, CurrentRelease())


def loaded_runner(stand: Stand) -> Start:
    """Start a runner to which the agent names a release; it is there when it has inferred."""
    release = CurrentRelease(
        manifest="sha256:" + 64 * "0", version="1.0.0", folder=str(stand.variant)
    )
    return _runner(stand, release)


PROGRAMS: Final[Mapping[str, Callable[[Stand], Start]]] = {
    "a bare Python with paho": bare,
    "`asdic-agent` without an offer": agent,
    "`asdic-runner` without a release": idle_runner,
    "`asdic-runner`, tiny LiteRT model": loaded_runner,
}


def _runner(stand: Stand, release: CurrentRelease) -> Start:
    """Start a runner under an agent's socket that lives here."""
    state = stand.folder / "desk"
    state.mkdir(exist_ok=True)
    asked: list[float] = []

    def current() -> CurrentRelease:
        asked.append(time.monotonic())
        return release

    def is_there() -> float | None:
        if release.manifest is None:
            return asked[0] if asked else None
        return time.monotonic() if socket.program().loaded is not None else None

    socket = ApplicationSocket(state / "application", current)
    socket.start()
    try:
        command = [sys.executable, "-m", "asdic.cli.runner", "--state", str(state)]
        return _started(command, answers=is_there)
    finally:
        socket.close()


def _has_answered(state: Path) -> float | None:
    with suppress(LinkError, OSError), Application.connect(state) as application:
        application.current()
        return time.monotonic()
    return None


def _started(
    command: Sequence[str],
    *,
    linked: Callable[[], float | None] | None = None,
    answers: Callable[[], float | None] | None = None,
) -> Start:
    """Start a program, wait until it is there, and return what that took."""
    started = time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            there = [
                _wait(question) - started if question else None for question in (answers, linked)
            ]
            time.sleep(SETTLED_S)
            resident_mb, proportional_mb = _memory_mb(process.pid)
            return Start(
                answers_s=there[0],
                linked_s=there[1],
                resident_mb=resident_mb,
                proportional_mb=proportional_mb,
                peak_mb=_peak_mb(process.pid),
            )
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def _wait(question: Callable[[], float | None]) -> float:
    deadline = time.monotonic() + PATIENCE_S
    while (answer := question()) is None:
        if time.monotonic() > deadline:
            raise LinkError(f"no answer within {PATIENCE_S:.0f} s")
        time.sleep(LOOK_S)
    return answer


# Gating


def gating(stand: Stand, number: int) -> Gating:
    """Let a real agent install an update, and return the most that it and its trial took."""
    yard = Yard(stand.folder / f"yard{number}")
    box = Box.make(stand.folder / f"box{number}", roots=yard.roots, target=TARGET, simulated=False)
    for version in ("1.0.0", "1.1.0"):
        yard.layout.add_release(version, {TARGET: stand.variant}, security_counter=1)
        yard.image.sign(yard.layout, version)
    box.install(yard.stick("1.0.0", target=TARGET))
    stick = yard.stick("1.1.0", target=TARGET)
    command = [*AGENT, "install", str(stick), "--state", str(box.state.path)]
    seen = []
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            trial = _trial_under(process.pid)
            agent_mb, trial_mb = (
                _memory_mb(pid)[0] if pid else 0.0 for pid in (process.pid, trial)
            )
            seen.append(Gating(agent_mb=agent_mb, trial_mb=trial_mb, both_mb=agent_mb + trial_mb))
            time.sleep(LOOK_S)
    if process.returncode != 0 or not any(one.trial_mb for one in seen):
        raise LinkError(f"the update was not installed: {box.status.journal}")
    return Gating(
        agent_mb=max(one.agent_mb for one in seen if one.trial_mb),
        trial_mb=max(one.trial_mb for one in seen),
        both_mb=max(one.both_mb for one in seen if one.trial_mb),
    )


def _trial_under(pid: int) -> int | None:
    for child in psutil.Process(pid).children():
        with suppress(psutil.Error):
            if "asdic.device.update.trial" in child.cmdline():
                return child.pid
    return None


def _memory_mb(pid: int) -> tuple[float, float]:
    """Return what a process has resident, and its share of what it shares with others.

    Both are 0 once it is gone. https://docs.kernel.org/filesystems/proc.html, smaps_rollup
    """
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0.0, 0.0
    fields = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return _megabytes(fields["Rss"]), _megabytes(fields["Pss"])


def _peak_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return _megabytes(dict(line.split(":", 1) for line in lines)["VmHWM"])


def _megabytes(field: str) -> float:
    return int(field.split(maxsplit=1)[0]) * 1024 / 1e6


# The page


def main() -> None:
    """Print the page, or the figures as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.agent", description=__doc__)
    parser.add_argument("--repeats", type=int, default=REPEATS, help="new processes of each")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    with _stand() as stand:
        starts: dict[str, list[Start]] = {name: [] for name in PROGRAMS}
        for _ in range(options.repeats):
            for name, start in PROGRAMS.items():
                stand.words.forget()
                starts[name].append(start(stand))
        gatings = [gating(stand, number) for number in range(INSTALLS)]
    swaps = swap.measured(swap.options_of([]))
    medians = {name: _median(found) for name, found in starts.items()}
    worst = Gating(**{name: max(asdict(one)[name] for one in gatings) for name in _GATING})
    if options.json:
        figures = {name: asdict(start) for name, start in medians.items()}
        print(
            json.dumps(
                {
                    "programs": figures,
                    "gating": asdict(worst),
                    "swap": [asdict(row) for row in swaps],
                },
                indent=2,
            )
        )
    else:
        print("\n".join(_page(medians, worst, swaps, options.repeats)))


@contextmanager
def _stand() -> Iterator[Stand]:
    with tempfile.TemporaryDirectory(prefix="asdic-agent-") as name:
        folder = Path(name)
        data = Path(os.environ.get("ASDIC_DATA", REPOSITORY.parent / "shared" / "data"))
        variant = make_keyword_variant(folder / "variant", data, target=TARGET)
        yard = Yard(folder / "yard")
        with open_broker(folder, None) as broker:
            box = Box.make(folder / "box", roots=yard.roots, broker=broker)
            words = Words(broker)
            try:
                yield Stand(folder, broker, variant, box, words)
            finally:
                words.close()


_GATING: Final = ("agent_mb", "trial_mb", "both_mb")


def _median(starts: Sequence[Start]) -> Start:
    rows = [asdict(start) for start in starts]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return Start(
        **{
            name: None if None in values else statistics.median(values)
            for name, values in columns.items()
        }
    )


def _page(
    medians: Mapping[str, Start], worst: Gating, swaps: Sequence[swap.Measured], repeats: int
) -> Iterator[str]:
    yield from (
        "# The agent: how soon it is there, and what it takes",
        "",
        f"Printed by `python -m benchmarks.agent` on {datetime.datetime.now(datetime.UTC).date()}.",
        f"Machine: {machine()}.",
        f"Medians of {repeats} new processes, started by turns; 1 MB is 10^6 bytes. *Linked*:",
        "the broker has handed on the program's first word. *Answers*: the agent's socket has",
        "answered; a runner has asked what to run, or has acknowledged its first inference. Memory",
        f"is that of {SETTLED_S:.0f} s later; *proportional* counts a page that n processes share",
        "as 1/n, and several Pythons run here. The agent runs alone, without the runner below it.",
        *warning(),
        "",
        "| program | linked s | answers s | resident MB | proportional MB | peak MB |",
        "|---|---:|---:|---:|---:|---:|",
    )
    for name, start in medians.items():
        seconds = (start.linked_s, start.answers_s)
        shown = ["" if value is None else f"{value:.2f}" for value in seconds]
        memory = (start.resident_mb, start.proportional_mb, start.peak_mb)
        yield f"| {name} | {' | '.join([*shown, *(f'{value:.0f}' for value in memory)])} |"
    found = medians["`asdic-agent` without an offer"]
    took_s = max(found.linked_s or 0.0, found.answers_s or 0.0)
    yield from (
        "",
        f"Aims for the agent without an offer: {START_AIM_S} s ({_met(took_s, START_AIM_S)}) and "
        f"{MEMORY_AIM_MB:.0f} MB ({_met(found.peak_mb, MEMORY_AIM_MB)}).",
        "",
        "## While a candidate is in the gate",
        "",
        "MLPerf Tiny keyword spotting, INT8, 54 kB, out of a folder on a box that runs the same",
        f"model; the most that was resident in {INSTALLS} updates, looked at every "
        f"{LOOK_S * 1e3:.0f} ms.",
        "",
        "| agent MB | trial MB | both MB |",
        "|---:|---:|---:|",
        f"| {worst.agent_mb:.0f} | {worst.trial_mb:.0f} | {worst.both_mb:.0f} |",
        "",
        "## A swap at 60 frames a second",
        "",
        "What the columns mean, and the same by itself: `python -m benchmarks.swap`.",
        "",
        *swap.table(swaps),
    )


def _met(value: float, aim: float) -> str:
    return "met" if value <= aim else "missed"


if __name__ == "__main__":
    main()
