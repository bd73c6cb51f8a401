"""The runner process by itself, beside an agent that starts none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.variant import read_variant
from asdic.device.runner.frames import frames_for, image_paths, read_image
from asdic.device.runner.service import RunnerService
from tests.support.boxes import PATIENCE_S, Box, runs
from tests.support.desk import Desk, until
from tests.support.models import make_tiny_variant
from tests.support.yard import Yard

RUNNER = (sys.executable, "-m", "asdic.cli.runner")


@pytest.fixture(scope="module")
def box(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> Box:
    """A box that has 1.0.0."""
    made = Box.make(tmp_path_factory.mktemp("runner") / "box1", roots=yard.roots)
    assert made.install(yard.stick("1.0.0")).returncode == 0
    return made


@contextmanager
def runner(box: Box, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a runner process, stopped in the end."""
    process = subprocess.Popen(
        [*RUNNER, "--state", str(box.state.path), *options],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


def test_it_runs_images_out_of_a_folder(box: Box, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "grey.png"), np.zeros((40, 50), np.uint8))
    cv2.imwrite(str(tmp_path / "color.png"), np.zeros((40, 50, 3), np.uint8))
    with box:
        box.start("--no-runner")
        with runner(box, "--simulate", "--frames", str(tmp_path), "--fps", "20") as process:
            status = box.wait_until_runs("1.0.0")
            assert status.report is not None
            assert status.report.loaded is not None
            assert status.report.loaded.pid == process.pid
        box.wait_for(lambda status: runs(status) is None)
        assert box.stop() == 0


def test_it_outlives_a_restart_of_the_agent(box: Box) -> None:
    with box, runner(box, "--simulate") as process:
        for _ in range(2):
            box.start("--no-runner")
            status = box.wait_until_runs("1.0.0")
            assert status.report is not None
            assert status.report.loaded is not None
            assert status.report.loaded.pid == process.pid
            box.kill()


def test_it_ends_when_it_is_told_to(box: Box) -> None:
    with runner(box, "--simulate") as process:
        assert process.stderr is not None
        os.kill(process.pid, signal.SIGTERM)
        process.wait(PATIENCE_S)


def test_a_runner_with_a_frame_now_and_then_speaks_at_once(tmp_path: Path) -> None:
    stop = threading.Event()
    with Desk(tmp_path) as desk:
        desk.add("1.0.0", make_tiny_variant)
        desk.point("1.0.0")
        service = RunnerService(tmp_path, simulate=False, images=(), fps=0.001, stopped=stop.is_set)
        thread = threading.Thread(target=service.run)
        thread.start()
        try:
            until(lambda: desk.loaded is not None)
            until(lambda: desk.program.health is not None)
        finally:
            stop.set()
            thread.join()


def test_a_folder_without_images_is_one_clear_line(box: Box, tmp_path: Path) -> None:
    done = subprocess.run(
        [*RUNNER, "--state", str(box.state.path), "--frames", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "holds no images" in done.stderr


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match=r"broken\.png is not an 8-bit image"):
        read_image(tmp_path / "broken.png")


def test_frames_go_on_after_an_image_that_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((4, 5), np.uint8))
    variant = read_variant(make_tiny_variant(tmp_path / "variant"))
    frames = frames_for(variant, tmp_path, image_paths(tmp_path))
    with pytest.raises(DataError):
        next(frames)
    assert np.shape(next(frames)) == (4, 5)


def test_images_are_taken_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in image_paths(tmp_path)] == ["a.JPG", "b.png"]


def test_a_folder_that_is_not_there_holds_no_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no images"):
        image_paths(tmp_path / "missing")


def test_colors_come_as_red_green_blue(tmp_path: Path) -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[..., 0] = 255  # OpenCV's blue
    cv2.imwrite(str(tmp_path / "blue.png"), image)
    assert read_image(tmp_path / "blue.png")[0, 0].tolist() == [0, 0, 255]
