"""What unit tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.stage import Stage, stage_in


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Releases and disks for a simulated device; a third of a second."""
    with stage_in(tmp_path_factory.mktemp("stage")) as made:
        yield made
