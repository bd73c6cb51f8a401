"""Every bad model is caught before ``committed``, and the box runs what it ran before.

Each is a real file in a validly signed release (``tests/support/bad_models.py``), installed by a
real agent out of a folder on a box that runs a good 1.0.0.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cv2
import msgspec
import pytest

from asdic.contract.messages import Loaded, UpdateState
from asdic.contract.release import hex_of
from asdic.contract.variant import Limits
from asdic.device.config import write_config
from asdic.device.status import DeviceStatus
from tests.support import bad_models as bad
from tests.support.boxes import PATIENCE_S, QUICK, Box, runs
from tests.support.models import labelled_discs, make_tiny_variant
from tests.support.yard import Yard

pytestmark = pytest.mark.alone

LAYERS: Final = 60
"""As many that the time of 1.0.0 is that of its model."""
DEFAULT: Final = Limits()
HANG_S: Final = 3.0
"""As long may the gate last where a model hangs in it."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A bad model, and the code and words with which it is refused."""

    name: str
    graph: bad.Graph
    code: str
    words: str
    limits: Limits = DEFAULT
    prepare: Callable[[Path], None] = lambda _folder: None
    deadlines_s: Mapping[str, float] = field(default_factory=dict)


def record_coarsely(folder: Path) -> None:
    """Let outputs differ as they may between engines, so that only the labels can tell."""
    bad.record_again(folder, labelled_discs(), allowed_drop=5.0, tolerance=20.0)


def record_mostly_dark(folder: Path) -> None:
    """Let two of 32 golden images be bright: if both are lost, the mean loses 6 of 10 points."""
    labelled = [*labelled_discs(30), *bad.bright_discs(2)]
    bad.record_again(folder, labelled, allowed_drop=10.0, tolerance=20.0)


IN_THE_GATE: Final = (
    Case(name="crashes", graph=bad.deadly, code="crash", words="was ended by signal 8"),
    Case(
        name="never ends loading",
        graph=bad.endless_to_load,
        code="timed-out",
        words="was gating for more than 3 s",
        deadlines_s={"gating": HANG_S},
    ),
    Case(
        name="never ends an inference",
        graph=bad.endless,
        code="timed-out",
        words="was gating for more than 3 s",
        deadlines_s={"gating": HANG_S},
    ),
    Case(name="answers NaN", graph=bad.not_a_number, code="release", words="holds NaN"),
    Case(
        name="says another shape",
        graph=bad.half_the_size,
        code="release",
        words="the variant promises the outputs",
    ),
    Case(
        name="has another shape than it says",
        graph=bad.secretly_half_the_size,
        code="golden",
        words="not of the recorded shape",
    ),
    Case(
        name="is three times slower",
        graph=lambda: bad.good(3 * LAYERS),
        code="slowdown",
        words="times as slow as the current one, 2.0 times are allowed",
    ),
    Case(
        name="eats memory",
        graph=bad.hungry,
        code="memory",
        words="200 MiB",
        limits=Limits(memory_bytes=200 << 20),
    ),
    Case(
        name="is less accurate than the set can show",
        graph=bad.less_accurate,
        code="golden",
        words="points, the limit is",
        prepare=record_coarsely,
    ),
    Case(
        name="is wrong for bright images alone",
        graph=bad.wrong_if_bright,
        code="golden",
        words="golden input 31: dice is",
        prepare=record_mostly_dark,
    ),
    Case(
        name="answers NaN for bright images alone",
        graph=bad.not_a_number_if_bright,
        code="golden",
        words="golden input 30: output 'logits' holds NaN",
        prepare=record_mostly_dark,
    ),
)

IN_PROBATION: Final = (
    Case(
        name="answers NaN to real frames",
        graph=bad.not_a_number_if_bright,
        code="unhealthy",
        words="the model fails while it runs: output 'logits' holds NaN",
    ),
    Case(
        name="ends the program that runs it",
        graph=bad.deadly_if_bright,
        code="crash",
        words="the runner crashed 3 times with it",
    ),
    Case(
        name="never ends an inference of a real frame",
        graph=bad.endless_if_bright,
        code="timed-out",
        words="was probation for more than 5 s",
        deadlines_s={"probation": 5.2, "rolling-back": 10.0},
    ),
    Case(
        name="eats memory with real frames",
        graph=bad.hungry_if_bright,
        code="unhealthy",
        words="MiB of memory, 200 MiB are allowed",
        limits=Limits(memory_bytes=200 << 20),
    ),
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """A yard whose 1.0.0 is good, and takes long enough to be compared with."""
    yard = Yard(tmp_path_factory.mktemp("bad-models"))
    variant = make_tiny_variant(yard.folder / "variants" / "1.0.0", target="jetson-orin-int8")
    bad.publish(yard, "1.0.0", bad.replace_model(variant, lambda: bad.good(LAYERS)))
    return yard


@pytest.fixture(scope="module")
def flown(bench: Yard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Box, int]]:
    """A box on which a program of its own runs 1.0.0, whatever its agent does."""
    box = Box.make(tmp_path_factory.mktemp("box") / "box1", roots=bench.roots)
    with program_of(box) as pid:
        done = box.install(bench.stick("1.0.0"), "--no-runner")
        assert done.returncode == 0, done.stderr
        yield box, pid


@pytest.fixture(scope="module")
def kept(bench: Yard, tmp_path_factory: pytest.TempPathFactory) -> Box:
    """A box whose agent keeps the runner, which has installed 1.0.0."""
    box = Box.make(tmp_path_factory.mktemp("kept") / "box1", roots=bench.roots)
    done = box.install(bench.stick("1.0.0"))
    assert done.returncode == 0, done.stderr
    return box


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real frames, which are brighter than all that the golden sets hold."""
    folder = tmp_path_factory.mktemp("frames")
    for number, (image, _) in enumerate(bad.bright_discs(2)):
        assert cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


@contextmanager
def program_of(box: Box) -> Iterator[int]:
    command = [sys.executable, "-m", "asdic.cli.runner", "--simulate", "--fps", "20"]
    with box.log.open("ab") as log:
        program = subprocess.Popen([*command, "--state", str(box.state.path)], stderr=log)
    try:
        yield program.pid
    finally:
        program.terminate()
        program.wait(PATIENCE_S)


def offer(case: Case, yard: Yard, number: int) -> Path:
    """Sign a case's model as a release of its own, and return a stick with it."""
    version = f"2.{number}.0"
    folder = yard.folder / "variants" / version
    make_tiny_variant(folder, target="jetson-orin-int8", limits=case.limits)
    case.prepare(folder)
    return bad.publish(yard, version, bad.replace_model(folder, case.graph))


def refuse(box: Box, stick: Path, case: Case, *options: str) -> DeviceStatus:
    """Install a bad release, check that it is refused as it should be, and return the status."""
    deadlines_s = {**QUICK.deadlines_s, **case.deadlines_s}
    timing = msgspec.structs.replace(QUICK, deadlines_s=deadlines_s)
    write_config(box.state, msgspec.structs.replace(box.config, timing=timing))
    done = box.install(stick, *options)
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("asdic-agent: ")]
    assert case.words in line
    assert done.returncode == 1
    assert box.status.journal.state is UpdateState.FAILED
    assert box.status.journal.refusal is not None
    assert box.status.journal.refusal.code == case.code
    return box.status


def loaded_by(box: Box) -> Loaded:
    """Return what the program says once an agent is there to hear that 1.0.0 is loaded."""
    with box:
        box.start("--no-runner")
        report = box.wait_until_runs("1.0.0").report
        box.stop()
    assert report is not None
    assert report.loaded is not None
    return report.loaded


def assert_only(box: Box, yard: Yard, version: str) -> None:
    """Check that the box holds one release and not a byte of another."""
    release = yard.layout.release(version)
    target = box.config.target
    digest = release.variants[target].digest
    blobs = {digest, *(blob.digest for blob in yard.layout.manifest(release, target).blobs)}
    state = box.state.path
    assert {path.name for path in (state / "store" / "blobs").iterdir()} == set(map(hex_of, blobs))
    assert [*(state / "store" / "partial").iterdir()] == []
    assert [path.name for path in (state / "releases").iterdir()] == [hex_of(digest)]
    assert [path.name for path in (state / "gated").iterdir()] == [hex_of(digest)]
    assert not (state / "candidate").is_symlink()
    assert box.status.current == digest


@pytest.mark.parametrize("case", IN_THE_GATE, ids=lambda case: case.name)
def test_the_gate_refuses_a_model_that(case: Case, flown: tuple[Box, int], bench: Yard) -> None:
    box, pid = flown
    refuse(box, offer(case, bench, IN_THE_GATE.index(case)), case, "--no-runner")
    assert_only(box, bench, "1.0.0")
    assert loaded_by(box).pid == pid


@pytest.mark.parametrize("case", IN_PROBATION, ids=lambda case: case.name)
def test_probation_ends_with_the_old_release_for_a_model_that(
    case: Case, kept: Box, bench: Yard, frames: Path
) -> None:
    stick = offer(case, bench, 100 + IN_PROBATION.index(case))
    status = refuse(kept, stick, case, "--frames", str(frames))
    assert_only(kept, bench, "1.0.0")
    assert runs(status) == "1.0.0"


def test_the_gate_refuses_a_model_at_whose_loading_the_process_dies(tmp_path: Path) -> None:
    target = "x86-openvino-int8"
    yard = Yard(tmp_path / "yard")
    yard.add("1.0.0", target=target)
    box = Box.make(tmp_path / "box1", roots=yard.roots, target=target, simulated=False)
    assert box.install(yard.stick("1.0.0", target=target)).returncode == 0
    case = Case(
        name="dies", graph=bad.deadly, code="crash", words="the trial of the model was ended by"
    )
    variant = bad.make_deadly_to_load(tmp_path / "variant")
    refuse(box, bad.publish(yard, "2.0.0", variant, target=target), case)
    assert_only(box, yard, "1.0.0")
