"""A model as C: what the compiler puts into the object is the file, byte for byte, and aligned."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from asdic.contract.errors import ConfigError
from asdic.contract.variant import FrameFormat
from asdic.firmware_bridge.c_array import ALIGNMENT_BYTES, c_source, write_c_source
from tests.conftest import missing

MODEL = b"\x1c\0\0\0TFL3" + bytes(range(256)) * 33 + b"\0??/\\\"'"
FRAMES = FrameFormat(height=96, width=128, dtype="uint8", scale=1 / 255, channels="grey")
STRICT = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-Os"]
LOOK = """
#include "vessel_model.h"
extern const unsigned char *look(size_t *bytes);
const unsigned char *look(size_t *bytes) { *bytes = vessel_model_bytes; return vessel_model; }
_Static_assert(sizeof(vessel_model) == %d, "the header states the size");
_Static_assert(VESSEL_MODEL_FRAME_HEIGHT == 96 && VESSEL_MODEL_FRAME_WIDTH == 128, "frames");
"""


ARM = ("arm-none-eabi-", ("-mcpu=cortex-m7", "-mthumb"))
HOST = ("", ())


@pytest.fixture(params=[ARM, HOST], ids=["arm", "host"])
def tools(request: pytest.FixtureRequest) -> Tools:
    return found(*request.param)


class Tools(NamedTuple):
    """A compiler with its flags, and what takes its objects apart."""

    compiler: list[str]
    objcopy: str
    objdump: str


def found(prefix: str, flags: tuple[str, ...]) -> Tools:
    names = [f"{prefix}{tool}" for tool in ("gcc", "objcopy", "objdump")]
    for name in names:
        if shutil.which(name) is None:
            missing(f"no {name}; install the Debian package gcc-arm-none-eabi, or gcc")
    return Tools([names[0], *flags, *STRICT], names[1], names[2])


@pytest.mark.parametrize(
    ("machine", "language"),
    [
        (ARM, ["-std=c11"]),
        (ARM, ["-std=c++17", "-x", "c++", "-fno-exceptions"]),
        (HOST, ["-std=c11"]),
    ],
    ids=["arm-c", "arm-c++", "host-c"],
)
def test_the_object_holds_the_file(
    machine: tuple[str, tuple[str, ...]], language: list[str], tmp_path: Path
) -> None:
    tools = found(*machine)
    _, source = write_c_source(tmp_path, c_source(MODEL, "vessel_model", frames=FRAMES))
    parts = ["-fdata-sections", "-c", source.name, "-o", "model.o"]
    run([*tools.compiler, *language, *parts], tmp_path)
    copied = ["-O", "binary", "--only-section=.rodata.vessel_model", "model.o", "model.bin"]
    run([tools.objcopy, *copied], tmp_path)
    assert (tmp_path / "model.bin").read_bytes() == MODEL
    headers = run([tools.objdump, "-h", "model.o"], tmp_path)
    line = next(line for line in headers.splitlines() if ".rodata.vessel_model " in f"{line} ")
    assert 1 << int(line.rpartition("**")[2]) >= ALIGNMENT_BYTES


def test_firmware_finds_it_by_its_header(tools: Tools, tmp_path: Path) -> None:
    write_c_source(tmp_path, c_source(MODEL, "vessel_model", frames=FRAMES))
    (tmp_path / "look.c").write_text(LOOK % len(MODEL))
    run([*tools.compiler, "-std=c11", "-c", "look.c", "vessel_model.c"], tmp_path)


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", ["", "1st", "a-b", "while", "x;", "ü", "a" * 70, "template"])
def test_what_is_no_name_in_c_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name in C"):
        c_source(MODEL, name)


@pytest.mark.parametrize("data", [b"", bytes((16 << 20) + 1)], ids=["empty", "large"])
def test_an_empty_or_immense_file_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError, match="1 to"):
        c_source(data, "model")
