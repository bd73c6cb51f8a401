"""A ring, its writer, and readers of either kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from asdic.firmware_bridge.frame_writer import FrameWriter
from asdic.firmware_bridge.frames import RingReader
from tests.support.small_rings import FRAMES, SLOTS


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ring"


@pytest.fixture
def writer(path: Path) -> Iterator[FrameWriter]:
    with FrameWriter(path, FRAMES, slots=SLOTS) as made:
        yield made


@pytest.fixture
def reader(writer: FrameWriter, path: Path) -> Iterator[RingReader]:
    with RingReader.open(path) as made:
        yield made


@pytest.fixture
def in_order(writer: FrameWriter, path: Path) -> Iterator[RingReader]:
    with RingReader.open(path, in_order=True) as made:
        yield made
