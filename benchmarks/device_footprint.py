"""What asdic takes on a device, beside the bare runtime: megabytes on disk, seconds, memory.

::

    python -m benchmarks.device_footprint > docs/benchmarks/device-footprint.md

It makes one fresh environment with LiteRT alone and one with ``asdic[litert]``, and measures new
processes in them, five each; the table holds medians. The agent is enrolled at a real manager and
takes a release from it, so what it holds in memory is what it holds in a fleet. For arm64 only
sizes are given: there is no ARM processor here, and an emulated time says nothing.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

from asdic.contract.release import Layout
from asdic.device.config import StateFolder
from asdic.device.status import read_status
from asdic.fleet.manager import Fleet, FleetConfig, Push
from asdic.fleet.server import running
from asdic.fleet.signing import ImageRepository
from tests.conftest import REPOSITORY
from tests.support.arm64_system import CONSTRAINTS, device_requirements, install_arm64_wheels
from tests.support.models import make_keyword_variant
from tests.support.paper_box import wait_for

RUNTIME: Final = "ai-edge-litert"
TARGET: Final = "x86-litert-int8"
REPEATS: Final = 5
PATIENCE_S: Final = 120.0
PARTS: Final = (
    *("cli", "contract", "device", "firmware_bridge", "fleet", "quantization", "training"),
    *("pyproject.toml", "README.md", "LICENSE"),
)
LISTED_FROM_MB: Final = 3.0

# Each probe prints how long its imports took, and ends right after its first inference. The
# argument is the time at which it was started, on the clock that all processes share.
BARE: Final = """
import sys, time
started = time.monotonic()
import numpy
from ai_edge_litert.interpreter import Interpreter
imported_s = time.monotonic() - started
interpreter = Interpreter(model_path=sys.argv[2] + "/model.tflite", num_threads=1)
interpreter.allocate_tensors()
tensor = interpreter.get_input_details()[0]
interpreter.set_tensor(tensor["index"], numpy.zeros(tensor["shape"], tensor["dtype"]))
interpreter.invoke()
answer = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
"""
RUNNER: Final = """
import sys, time
started = time.monotonic()
from pathlib import Path
import numpy
from asdic.device.runner.runner import Runner
imported_s = time.monotonic() - started
runner = Runner.open(Path(sys.argv[2]), threads=1)
answer = runner.predict(numpy.zeros(runner.inputs[0].shape, numpy.float32)).label
"""
AGENT: Final = """
import sys, time
started = time.monotonic()
import asdic.cli.agent, asdic.cli.agent_run, asdic.device.agent, asdic.device.link
imported_s = time.monotonic() - started
"""
FIGURES: Final = """
import json
ready_s = time.monotonic() - float(sys.argv[1])
print(json.dumps({"imported_s": imported_s, "ready_s": ready_s, "status":
      open("/proc/self/status").read()}))
"""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One program: seconds to import, seconds from start to ready, resident megabytes."""

    imported_s: float | None
    ready_s: float | None
    resident_mb: float
    peak_mb: float


@dataclass(frozen=True)
class Place:
    """A fresh environment."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, *requirements: str) -> Place:
        """Make the environment and install into it; it holds nothing else, pip neither."""
        venv.create(folder, with_pip=False)
        pip = (sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"))
        subprocess.run([*pip, "install", "-qq", "-c", str(CONSTRAINTS), *requirements], check=True)
        return cls(folder)

    @property
    def packages(self) -> Path:
        """Its site-packages."""
        return next(self.folder.glob("lib/python3*/site-packages"))

    def command(self, *words: str | Path) -> list[str]:
        """Return a command line of one of its programs."""
        name, *rest = map(str, words)
        return [str(self.folder / "bin" / name), *rest]

    def probe(self, program: str, variant: Path) -> Figures:
        """Run a probe in a new process and return what it took."""
        words = self.command("python", "-c", program + FIGURES, str(time.monotonic()), variant)
        done = subprocess.run(words, check=True, capture_output=True)
        said = json.loads(done.stdout)
        resident_mb, peak_mb = _memory_mb(said["status"])
        return Figures(
            imported_s=said["imported_s"],
            ready_s=said["ready_s"],
            resident_mb=resident_mb,
            peak_mb=peak_mb,
        )


def sizes_mb(packages: Path) -> dict[str, float]:
    """Return what each distribution in a folder takes, compiled files included."""
    sizes = {}
    for one in distributions(path=[str(packages)]):
        files = {Path(str(file.locate())) for file in one.files or ()}
        sizes[one.name] = sum(file.stat().st_size for file in files if file.is_file()) / 1e6
    return sizes


def main() -> None:
    """Print the document."""
    with tempfile.TemporaryDirectory(prefix="asdic-footprint-") as name:
        folder = Path(name)
        data = Path(os.environ.get("ASDIC_DATA", REPOSITORY.parent / "shared" / "data"))
        variant = make_keyword_variant(folder / "variant", data, target=TARGET)
        bare = Place.make(folder / "bare", RUNTIME)
        full = Place.make(folder / "full", f"{_source(folder / 'source')}[litert]")
        programs = {
            **_by_turns(bare, full, variant),
            **_fleet_figures(full, variant, folder),
        }
        installs = {
            "x86-64": (sizes_mb(bare.packages), sizes_mb(full.packages)),
            "arm64": _arm64_sizes(folder, own_mb=sizes_mb(full.packages)["asdic"]),
        }
        print("\n".join(_document(programs, installs)))


def _by_turns(bare: Place, full: Place, variant: Path) -> dict[str, Figures]:
    """Measure the runtime and the runner by turns, so that both see the same machine."""
    turns = [(bare.probe(BARE, variant), full.probe(RUNNER, variant)) for _ in range(REPEATS)]
    return {
        f"{RUNTIME} alone, one inference": _median(first for first, _ in turns),
        "asdic's `Runner`, one inference": _median(second for _, second in turns),
    }


def _source(folder: Path) -> Path:
    """Copy what the wheel is made of, so that building it leaves nothing in the checkout."""
    folder.mkdir()
    for name in PARTS:
        path = REPOSITORY / name
        if path.is_dir():
            shutil.copytree(path, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, folder / name)
    return folder


def _arm64_sizes(folder: Path, *, own_mb: float) -> tuple[dict[str, float], dict[str, float]]:
    """Return the sizes of the same two installs from aarch64 wheels; asdic's own is the same."""
    install_arm64_wheels(folder / "arm64-bare", [RUNTIME])
    install_arm64_wheels(folder / "arm64-full", device_requirements())
    return sizes_mb(folder / "arm64-bare"), {
        **sizes_mb(folder / "arm64-full"),
        "asdic": own_mb,
    }


# The agent, at a real manager


def _fleet_figures(place: Place, variant: Path, folder: Path) -> dict[str, Figures]:
    layout = Layout.create(folder / "releases")
    layout.add_release("1.0.0", {TARGET: variant}, security_counter=1)
    ImageRepository(folder / "releases", folder / "keys").sign(layout, "1.0.0")
    config = FleetConfig(state=folder / "fleet", releases=folder / "releases")
    state = StateFolder(folder / "box")
    imports = _median(place.probe(AGENT, variant) for _ in range(REPEATS))
    with running(config) as (serving, fleet):
        token = fleet.inventory.new_token(time.time())
        words = ("--server", serving.url, "--token", token, "--device", "box-1")
        subprocess.run(
            place.command("asdic-agent", "enrol", *words, "--state", state.path),
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with _agent(place, state) as process:
            _install(fleet)
            updated = _process_figures(process.pid, imports.imported_s)
        rest = _median_after_start(place, state, imports)
    return {
        "`asdic-agent`, just after an update": updated,
        "`asdic-agent`, started with a release": rest[0],
        "`asdic-runner` under it": rest[1],
    }


def _install(fleet: Fleet) -> None:
    rollout = fleet.push(Push(version="1.0.0"))

    def is_over() -> bool:
        return fleet.records.get(rollout.id).state.value in {"finished", "halted"}

    wait_for(is_over, "the rollout ends", PATIENCE_S)
    assert fleet.records.get(rollout.id).state.value == "finished"


def _median_after_start(
    place: Place, state: StateFolder, imports: Figures
) -> tuple[Figures, Figures]:
    agents, runners = [], []
    for _ in range(REPEATS):
        before = _running_program(state)
        started = time.monotonic()
        with _agent(place, state) as process:
            wait_for(_other_program(state, before), "the runner's first inference", PATIENCE_S)
            ready_s = time.monotonic() - started
            agents.append(_process_figures(process.pid, imports.imported_s))
            runners.append(_process_figures(_running_program(state), None, ready_s))
    return _median(agents), _median(runners)


def _running_program(state: StateFolder) -> int:
    report = read_status(state).report
    return report.loaded.pid if report is not None and report.loaded is not None else 0


def _other_program(state: StateFolder, before: int) -> Callable[[], bool]:
    return lambda: _running_program(state) not in {0, before}


@contextmanager
def _agent(place: Place, state: StateFolder) -> Iterator[subprocess.Popen[bytes]]:
    words = place.command("asdic-agent", "run", "--state", state.path)
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def _process_figures(pid: int, imported_s: float | None, ready_s: float | None = None) -> Figures:
    resident_mb, peak_mb = _memory_mb(Path(f"/proc/{pid}/status").read_text())
    return Figures(imported_s=imported_s, ready_s=ready_s, resident_mb=resident_mb, peak_mb=peak_mb)


def _memory_mb(status: str) -> tuple[float, float]:
    """Return VmRSS and VmHWM of a ``/proc/PID/status`` in megabytes."""
    fields = dict(line.split(":", 1) for line in status.splitlines())
    resident, peak = (int(fields[name].split()[0]) * 1024 / 1e6 for name in ("VmRSS", "VmHWM"))
    return resident, peak


def _median(figures: Iterable[Figures]) -> Figures:
    rows = list(figures)

    def of(name: str) -> Any:
        values = [getattr(row, name) for row in rows]
        return None if None in values else statistics.median(values)

    names = ("imported_s", "ready_s", "resident_mb", "peak_mb")
    return Figures(**{name: of(name) for name in names})


# The document


def _document(
    programs: Mapping[str, Figures],
    installs: Mapping[str, tuple[dict[str, float], dict[str, float]]],
) -> Iterator[str]:
    yield from (
        "# What asdic takes on a device",
        "",
        f"Printed by `python -m benchmarks.device_footprint` on {datetime.date.today()}.",
        f"Machine: {machine()}.",
        f"Model: MLPerf Tiny keyword spotting, INT8, 54 kB. Medians of {REPEATS} new processes;",
        "1 MB is 10^6 bytes. Resident memory includes pages of libraries that processes share.",
        *warning(),
        "",
        "## Time and memory, x86-64",
        "",
        "| process | import s | start to first inference s | resident MB | peak MB |",
        "|---|---:|---:|---:|---:|",
        *(f"| {name} | {_row(figures)} |" for name, figures in programs.items()),
        "",
        "`asdic-runner`'s start is counted from the start of the agent that starts it, to the",
        "agent's report of its first inference: digests checked, golden inputs read, and up to",
        "0.2 s until the agent looks. The row of the agent after an update is of one process; it",
        "imports neither a runtime nor numpy, and python-tuf comes in with the first offer.",
        "",
        "## Install size, MB",
        "",
        "| | x86-64 | arm64 |",
        "|---|---:|---:|",
    )
    (bare, full), (arm_bare, arm_full) = installs["x86-64"], installs["arm64"]
    yield f"| {RUNTIME} alone | {sum(bare.values()):.0f} | {sum(arm_bare.values()):.0f} |"
    yield f"| asdic[litert] | {sum(full.values()):.0f} | {sum(arm_full.values()):.0f} |"
    largest = sorted(full, key=lambda name: full[name], reverse=True)
    for name in largest:
        if full[name] >= LISTED_FROM_MB or name == "asdic":
            yield f"| of which {name} | {full[name]:.1f} | {arm_full.get(name, 0.0):.1f} |"
    yield from (
        "",
        "The arm64 sizes are of the aarch64 wheels that the tests' emulated box runs. Its times",
        "are left out: they are those of an emulator.",
    )


def warning() -> Iterator[str]:
    """Yield a line where others worked on the machine meanwhile."""
    if os.getloadavg()[0] > len(os.sched_getaffinity(0)) / 2:
        yield "Others worked on the machine meanwhile: read the seconds as upper bounds."


def _row(figures: Figures) -> str:
    seconds = (figures.imported_s, figures.ready_s)
    shown = ["" if value is None else f"{value:.2f}" for value in seconds]
    return " | ".join([*shown, f"{figures.resident_mb:.0f}", f"{figures.peak_mb:.0f}"])


def machine() -> str:
    """Return what a table's reader has to know of this machine."""
    info = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in info if "model name" in line), "unknown")
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return (
        f"{model}, {cores} cores, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, load average {load:.1f} when printed"
    )


if __name__ == "__main__":
    main()
