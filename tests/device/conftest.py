"""Releases for all device tests, built once, and a box that has had two of them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.boxes import Box
from tests.support.yard import Yard


@pytest.fixture(scope="session")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """1.0.0 and 1.1.0 are good; 1.2.0 does not answer as its golden set says."""
    made = Yard(tmp_path_factory.mktemp("yard"))
    made.add("1.0.0")
    made.add("1.1.0", offset=0.1)
    made.add("1.2.0", offset=0.2, golden_offset=0.0)
    return made


@pytest.fixture(scope="session")
def updated_state(yard: Yard, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of a box that runs 1.1.0, and ran 1.0.0 before; to be copied."""
    box = Box.make(tmp_path_factory.mktemp("updated") / "box1", roots=yard.roots)
    for version in ("1.0.0", "1.1.0"):
        done = box.install(yard.stick(version))
        assert done.returncode == 0, done.stderr
    return box.state.path


@pytest.fixture
def updated_box(updated_state: Path, tmp_path: Path) -> Iterator[Box]:
    """A box that runs 1.1.0, and ran 1.0.0 before; no agent works on it yet."""
    shutil.copytree(
        updated_state,
        tmp_path / "box1",
        symlinks=True,
        ignore=lambda _folder, names: {name for name in names if name.endswith(".sock")},
    )
    with Box(tmp_path / "box1") as box:
        yield box
