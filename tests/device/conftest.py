"""Releases for all device tests, built once."""

from __future__ import annotations

import pytest

from tests.support.yard import Yard


@pytest.fixture(scope="session")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    """1.0.0 and 1.1.0 are good; 1.2.0 does not answer as its golden set says."""
    made = Yard(tmp_path_factory.mktemp("yard"))
    made.add("1.0.0")
    made.add("1.1.0", offset=0.1)
    made.add("1.2.0", offset=0.2, golden_offset=0.0)
    return made
