"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

import asdic.training  # noqa: F401 - it sets how torch's threads wait, before any test imports torch

REPOSITORY = Path(__file__).resolve().parent.parent

settings.register_profile("asdic", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("asdic")


def missing(reason: str) -> None:
    """Skip on a laptop, fail in CI: a prerequisite is not there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and models that no one here made."""
    folder = Path(os.environ.get("ASDIC_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        missing(f"no test data at {folder}; set ASDIC_DATA to the folder that holds busi/")
    return folder
