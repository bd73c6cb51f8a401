"""The verb ``asdic quantize`` before any work: its options."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from asdic.cli.console import run
from asdic.cli.quantize import quantize
from asdic.contract.errors import ConfigError


@pytest.mark.parametrize("size", ["256", "256x", "0x64", "axb", "-1x5"])
def test_a_size_that_is_none_is_refused(tmp_path: Path, size: str) -> None:
    arguments = ["model.pt", "--target", "x86-litert-int8", "--out", str(tmp_path), "--size", size]
    with pytest.raises(ConfigError, match="--size is HEIGHTxWIDTH in pixels, such as 256x320"):
        CliRunner().invoke(quantize, arguments, catch_exceptions=False)


@pytest.mark.parametrize("shape", ["1x", "axb", "image=", "0x1", "1x1x-4"])
def test_an_input_shape_that_is_none_is_refused(tmp_path: Path, shape: str) -> None:
    arguments = ["model.onnx", "--target", "x86-litert-int8", "--out", str(tmp_path)]
    with pytest.raises(ConfigError, match="is no input shape; expected 1x1x256x256, or NAME="):
        CliRunner().invoke(quantize, [*arguments, "--input-shape", shape], catch_exceptions=False)


def test_a_ladder_has_at_least_one_rung(tmp_path: Path) -> None:
    arguments = ["model.onnx", "--target", "x86-litert-int8", "--out", str(tmp_path)]
    result = CliRunner().invoke(quantize, [*arguments, "--max-rung", "0"])
    assert result.exit_code == 2


@pytest.mark.parametrize(
    "example",
    [
        "runs/first",
        "scripted.pt",
        "model.onnx",
        "model.keras",
        "keywords.tflite",
        "nets.unet:build",
    ],
)
def test_help_shows_an_example_of_each_front_end(example: str) -> None:
    assert f"asdic quantize {example} " in CliRunner().invoke(quantize, ["--help"]).stdout


@pytest.mark.parametrize(
    ("option", "begun", "completed"),
    [
        ("--target", "jet", ["jetson-orin-int8"]),
        ("--target", "x86-o", ["x86-openvino-gpu-int8", "x86-openvino-int8"]),
        ("--metric", "d", ["dice"]),
    ],
)
def test_a_shell_completes_targets_and_metrics(
    option: str, begun: str, completed: list[str]
) -> None:
    shell = ShellComplete(quantize, {}, "quantize", "_QUANTIZE_COMPLETE")
    found = shell.get_completions(["model.pt", option], begun)
    assert [one.value for one in found] == completed


def test_an_unknown_target_is_one_line_on_stderr_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["asdic", "model.pt", "--target", "toaster", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert run(quantize, "asdic") == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("asdic: unknown target 'toaster'; known targets: arm64-litert-int8")
