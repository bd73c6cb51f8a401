"""The example in C, compiled strictly and under watch, and a place for a ring."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from asdic.firmware_bridge.ring import SHARED_MEMORY
from tests.support.ring_writers import STRICT, WARNINGS, WATCHED, compiled


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("strict"), *STRICT["c99"], *WARNINGS)


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example that ends at its first access outside of its memory."""
    folder = tmp_path_factory.mktemp("watched")
    return compiled(folder, *WATCHED, "-fno-sanitize-recover=all")


@pytest.fixture
def path() -> Iterator[Path]:
    """A ring's file in shared memory, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="asdic-test-", dir=SHARED_MEMORY) as folder:
        yield Path(folder) / "ring"
