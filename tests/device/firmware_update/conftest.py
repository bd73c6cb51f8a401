"""A box that runs a model, and a board with firmware beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.boards import Board
from tests.support.dock import Dock, docked
from tests.support.firmware_yard import DEAD, Cable, make_firmware_yard
from tests.support.yard import Yard


@pytest.fixture(scope="session")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Yard:
    return make_firmware_yard(tmp_path_factory.mktemp("yard"))


@pytest.fixture
def cable() -> Cable:
    return Cable(Board(dead=[DEAD]))


@pytest.fixture
def dock(yard: Yard, cable: Cable, tmp_path: Path) -> Iterator[Dock]:
    with docked(Dock(yard, tmp_path, open_link=cable.opened)) as made:
        made.install("1.0.0")
        made.states.clear()
        made.stick.followed.clear()
        yield made
