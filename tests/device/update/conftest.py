"""Boxes for the update in this process: one without a release, and one that runs 1.0.0."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dock import Dock, docked
from tests.support.yard import Yard


@pytest.fixture
def dock(yard: Yard, tmp_path: Path) -> Iterator[Dock]:
    with docked(Dock.with_trial(yard, tmp_path)) as made:
        yield made


@pytest.fixture(scope="session")
def box_on_1(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a box that has committed 1.0.0, to be copied."""
    with docked(Dock.with_trial(yard, tmp_path_factory.mktemp("template"))) as template:
        template.commit("1.0.0")
        return template.box.state.path


@pytest.fixture
def running(yard: Yard, box_on_1: Path, tmp_path: Path) -> Iterator[Dock]:
    """A box that runs 1.0.0."""
    shutil.copytree(box_on_1, tmp_path / "box1", symlinks=True)
    with docked(Dock.with_trial(yard, tmp_path)) as made:
        made.program.infer(yard.manifest("1.0.0"))
        made.until_over()
        yield made
