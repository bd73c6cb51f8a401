"""A program of the user's own that follows the agent: swaps between frames, and loses none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from asdic.contract.errors import AsdicError, DataError, NoModelError
from asdic.contract.messages import UpdateState
from asdic.contract.variant import VARIANT_FILE
from asdic.device.runner.live import LiveRunner
from asdic.device.runner.postprocess import Prediction
from asdic.device.status import DeviceStatus
from tests.support.boxes import AGENT, Box
from tests.support.desk import Desk, until
from tests.support.models import labelled_discs, make_keyword_variant, make_tiny_variant
from tests.support.programs import Child
from tests.support.yard import Yard

pytestmark = pytest.mark.alone

FRAME = labelled_discs(1)[0][0]
OPENVINO = partial(make_tiny_variant, target="x86-openvino-int8")


def damaged(folder: Path) -> None:
    """Make a variant whose model is not what its description says."""
    make_tiny_variant(folder, target="x86-openvino-int8")
    model = next(path for path in folder.iterdir() if path.suffix == ".bin")
    model.write_bytes(model.read_bytes()[:-1] + b"\x55")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """An agent's end that names 1.0.0; 2.0.0 is there too."""
    with Desk(tmp_path) as made:
        made.add("1.0.0", OPENVINO)
        made.add("2.0.0", partial(OPENVINO, offset=0.1))
        made.point("1.0.0")
        yield made


@pytest.fixture
def live(desk: Desk) -> Iterator[LiveRunner]:
    """A runner that has 1.0.0, acknowledged."""
    with LiveRunner.connect(desk.state) as made:
        made.wait()
        run_until(made, lambda: acknowledges(desk, "1.0.0"))
        yield made


def frame(live: LiveRunner) -> Prediction:
    """Run one frame as a program would."""
    live.refresh()
    return live.predict(FRAME)


def doubt(status: DeviceStatus) -> str | None:
    """Return what the last report says against its program's word; None where there is no word."""
    loaded = status.report.loaded if status.report else None
    return loaded.doubt if loaded is not None else None


def refresh_until(live: LiveRunner, condition: Callable[[], object]) -> None:
    """Follow the agent, without a frame, until ``condition`` holds."""
    until(lambda: (live.refresh(), condition())[1])


def run_until(live: LiveRunner, condition: Callable[[], object]) -> None:
    """Run frames until ``condition`` holds; each has its result."""
    until(lambda: (frame(live), condition())[1])


def has_failed(desk: Desk) -> bool:
    """Return whether the program says that something went wrong."""
    health = desk.program.health
    return health is not None and health.errors > 0


def acknowledges(desk: Desk, version: str) -> bool:
    """Return whether the program says that it runs ``version``, and nothing speaks against it."""
    loaded = desk.loaded
    return loaded is not None and loaded.version == version and loaded.is_certain


def test_the_next_release_answers_without_a_frame_lost(desk: Desk, live: LiveRunner) -> None:
    desk.point("2.0.0")
    run_until(live, lambda: acknowledges(desk, "2.0.0"))
    assert live.release == desk.current


def test_refresh_says_once_that_the_model_was_swapped(desk: Desk, live: LiveRunner) -> None:
    desk.point("2.0.0")
    swaps: list[bool] = []
    until(lambda: (swaps.append(live.refresh()), live.release == desk.current)[1])
    swaps.append(live.refresh())
    assert sum(swaps) == 1


def test_a_release_is_acknowledged_only_after_its_first_inference(
    desk: Desk, live: LiveRunner
) -> None:
    desk.point("2.0.0")
    refresh_until(live, lambda: live.release == desk.current)
    refresh_until(live, lambda: desk.loaded is None)
    run_until(live, lambda: acknowledges(desk, "2.0.0"))


def test_a_litert_model_is_let_go_of_too(tmp_path: Path, shared_data: Path) -> None:
    words = np.zeros((1, 49, 10, 1), np.float32)
    with Desk(tmp_path) as desk:
        for version in ("1.0.0", "2.0.0"):
            desk.add(version, partial(make_keyword_variant, shared_data=shared_data))
        desk.point("1.0.0")
        with LiveRunner.connect(tmp_path) as live:
            live.wait()
            desk.point("2.0.0")
            until(lambda: (live.refresh(), live.predict(words), acknowledges(desk, "2.0.0"))[2])


def test_a_damaged_release_is_named_and_the_old_one_goes_on(desk: Desk, live: LiveRunner) -> None:
    desk.add("3.0.0", damaged)
    desk.point("3.0.0")
    run_until(live, lambda: has_failed(desk))
    said = desk.program
    assert said.health is not None
    assert said.health.manifest == desk.current.manifest
    assert "differs" in said.health.reason or "digest" in said.health.reason
    assert said.loaded is not None
    assert said.loaded.version == "1.0.0"


def test_a_release_that_came_back_is_as_good_as_before(desk: Desk, live: LiveRunner) -> None:
    desk.add("3.0.0", damaged)
    desk.point("3.0.0")
    run_until(live, lambda: has_failed(desk))
    desk.point("1.0.0")
    run_until(live, lambda: not has_failed(desk))
    assert desk.loaded is not None
    assert desk.loaded.version == "1.0.0"


def test_without_overlap_the_old_one_is_let_go_of_first(desk: Desk) -> None:
    with LiveRunner.connect(desk.state, overlap=False) as live:
        live.wait()
        run_until(live, lambda: acknowledges(desk, "1.0.0"))
        desk.point("2.0.0")
        refresh_until(live, lambda: live.release is None)
        with pytest.raises(NoModelError, match=r"no model: release 2\.0\.0 is being opened"):
            live.predict(FRAME)
        live.wait()
        run_until(live, lambda: acknowledges(desk, "2.0.0"))


def test_a_way_back_without_overlap_is_acknowledged_again(desk: Desk) -> None:
    with LiveRunner.connect(desk.state, overlap=False) as live:
        live.wait()
        run_until(live, lambda: acknowledges(desk, "1.0.0"))
        desk.add("3.0.0", damaged)
        desk.point("3.0.0")
        refresh_until(live, lambda: has_failed(desk))
        assert desk.loaded is None
        desk.point("1.0.0")
        live.wait()
        run_until(live, lambda: acknowledges(desk, "1.0.0"))


def test_no_model_is_an_error_and_never_the_last_result(desk: Desk, live: LiveRunner) -> None:
    desk.point(None)
    refresh_until(live, lambda: live.release is None)
    with pytest.raises(NoModelError, match="no model: no release is installed"):
        live.predict(FRAME)
    refresh_until(live, lambda: desk.loaded is None)


def test_no_model_says_what_is_wrong_with_the_agent(desk: Desk) -> None:
    desk.error = "the release is damaged"
    with (
        LiveRunner.connect(desk.state) as live,
        pytest.raises(NoModelError, match="the agent answers: the release is damaged"),
    ):
        live.wait(0.3)


def test_no_model_says_why_a_release_cannot_be_opened(desk: Desk) -> None:
    desk.add("3.0.0", damaged)
    desk.point("3.0.0")
    with LiveRunner.connect(desk.state) as live:
        refresh_until(live, lambda: has_failed(desk))
        with pytest.raises(NoModelError, match=r"release 3\.0\.0 cannot be opened: .*digest"):
            live.predict(FRAME)


def test_without_an_agent_it_says_so(tmp_path: Path) -> None:
    with (
        LiveRunner.connect(tmp_path) as live,
        pytest.raises(NoModelError, match="no model: no agent listens in"),
    ):
        live.wait(0.1)


def test_an_agent_that_is_gone_does_not_stop_inference(desk: Desk, live: LiveRunner) -> None:
    desk.socket.close()
    run_until(live, lambda: desk.loaded is None)
    assert frame(live).mask is not None
    with Desk(desk.state) as again:
        again.point("1.0.0")
        run_until(live, lambda: acknowledges(again, "1.0.0"))


def test_a_frame_that_does_not_fit_is_counted_and_raised(desk: Desk, live: LiveRunner) -> None:
    with pytest.raises(DataError):
        live.predict(np.zeros((2, 2, 7), np.uint8))
    until(lambda: frame(live) and (said := desk.program.health) is not None and said.errors == 1)


def test_a_description_that_is_missing_is_no_release(desk: Desk, live: LiveRunner) -> None:
    desk.add("3.0.0", lambda folder: (folder / VARIANT_FILE).mkdir())
    desk.point("3.0.0")
    run_until(live, lambda: has_failed(desk))
    assert frame(live).mask is not None


def test_what_must_be_prepared_with_a_release_may_refuse_it(desk: Desk) -> None:
    def refuse(_runner: object, _folder: Path) -> None:
        raise AsdicError("there is no table for this model")

    with LiveRunner(desk.state, prepare=refuse) as live:
        refresh_until(live, lambda: has_failed(desk))
        with pytest.raises(NoModelError, match="there is no table for this model"):
            live.predict(FRAME)


def test_a_stopped_agent_does_not_stop_a_frame(yard: Yard, tmp_path: Path) -> None:
    box = Box.make(tmp_path / "box1", roots=yard.roots)
    assert box.install(yard.stick("1.0.0")).returncode == 0
    with box:
        box.start("--no-runner")
        with LiveRunner.connect(box.state.path, simulate=True) as live:
            live.wait()
            pid = box.pid
            os.kill(pid, signal.SIGSTOP)
            try:
                run_until(live, lambda: live.silence_s > 1.5)
            finally:
                os.kill(pid, signal.SIGCONT)
            run_until(live, lambda: live.silence_s < 0.5)
        assert box.stop() == 0


def test_an_update_goes_through_while_a_program_of_ones_own_infers(
    yard: Yard, tmp_path: Path
) -> None:
    box = Box.make(tmp_path / "box1", roots=yard.roots)
    assert box.install(yard.stick("1.0.0")).returncode == 0
    command = [*AGENT, "install", str(yard.stick("1.1.0")), "--state", str(box.state.path)]
    with (
        subprocess.Popen([*command, "--no-runner"], stderr=subprocess.DEVNULL) as agent,
        LiveRunner.connect(box.state.path, simulate=True) as live,
    ):
        live.wait()
        run_until(live, lambda: agent.poll() is not None)
        assert live.release is not None
        assert live.release.version == "1.1.0"
    assert agent.returncode == 0
    report = box.status.report
    assert report is not None
    assert report.state is UpdateState.COMMITTED
    assert report.loaded is not None
    assert (report.loaded.pid, report.loaded.is_certain) == (os.getpid(), True)


def test_a_stopped_program_is_reported_until_it_goes_on(yard: Yard, tmp_path: Path) -> None:
    box = Box.make(tmp_path / "box1", roots=yard.roots)
    assert box.install(yard.stick("1.0.0")).returncode == 0
    with box:
        before = box.status.report
        box.start("--no-runner")
        box.wait_for(lambda status: status.report != before)  # it listens by now
        with Child(box.state.path) as child:
            child.tell(f"loaded {yard.manifest('1.0.0')}")
            box.wait_for(lambda status: doubt(status) == "")
            os.kill(child.pid, signal.SIGSTOP)
            box.wait_for(lambda status: doubt(status) == "silent")
            os.kill(child.pid, signal.SIGCONT)
            child.tell(f"health {yard.manifest('1.0.0')}")
            box.wait_for(lambda status: doubt(status) == "")
        assert box.stop() == 0


def test_the_library_needs_no_runtime_before_there_is_a_release() -> None:
    code = (
        "import sys; from asdic.device.runner.live import LiveRunner;"
        "print([name for name in ('openvino', 'onnxruntime', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
