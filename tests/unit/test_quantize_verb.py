"""The verb ``asdic quantize`` before any work: its options."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from asdic.cli.console import run
from asdic.cli.quantize import quantize
from asdic.contract.errors import ConfigError


@pytest.mark.parametrize("size", ["256", "256x", "0x64", "axb", "-1x5"])
def test_a_size_that_is_none_is_refused(tmp_path: Path, size: str) -> None:
    arguments = ["model.pt", "--target", "x86-litert-int8", "--out", str(tmp_path), "--size", size]
    with pytest.raises(ConfigError, match="--size is HEIGHTxWIDTH in pixels, such as 256x320"):
        CliRunner().invoke(quantize, arguments, catch_exceptions=False)


def test_help_shows_examples() -> None:
    result = CliRunner().invoke(quantize, ["--help"])
    assert result.stdout.count("asdic quantize ") >= 3


def test_an_unknown_target_is_one_line_on_stderr_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["asdic", "model.pt", "--target", "toaster", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert run(quantize, "asdic") == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("asdic: unknown target 'toaster'; known targets: arm64-litert-int8")
