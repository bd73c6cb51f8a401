"""Keras, where it is installed."""

from __future__ import annotations

import importlib
import os
from typing import Any

import pytest


def keras_module() -> Any:
    """Return Keras; without it the test is skipped, and fails in CI."""
    if os.environ.get("CI"):
        return importlib.import_module("keras")
    return pytest.importorskip("keras", reason="needs tensorflow: install asdic[keras]")
