"""``asdic firmware`` from the outside, against a simulated board on loopback."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from asdic.contract.files import sha256_of
from asdic.contract.target import Runtime
from asdic.contract.variant import FileRef, FrameFormat, Requirements, Variant, encode_variant
from asdic.firmware_bridge.image import parse_image
from asdic.firmware_bridge.simulated_board import Boots, SimulatedBoard
from asdic.firmware_bridge.smp_server import SmpServer, WireFault
from tests.support.firmware import PROGRAM, firmware_image

FACTS = ["--version", "1.5.0+3", "--board", "simulated", "--slot-bytes", "0x10000"]
MODEL = b"\x1c\0\0\0TFL3" + bytes(range(256)) * 4


def asdic(*words: object, folder: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from asdic.cli.main import main; sys.argv[0] = 'asdic'; main()"
    command = [sys.executable, "-c", code, "firmware", *map(str, words)]
    return subprocess.run(
        command, cwd=folder, check=False, capture_output=True, text=True, timeout=120
    )


def done(*words: object, folder: Path) -> str:
    found = asdic(*words, folder=folder)
    assert found.returncode == 0, found.stderr
    return found.stdout


def refused(*words: object, folder: Path) -> str:
    found = asdic(*words, folder=folder)
    assert (found.returncode, found.stdout) == (1, ""), found.stdout
    assert "Traceback" not in found.stderr
    return found.stderr.splitlines()[-1]


def server(*faults: WireFault, boots: Boots = Boots.TESTED) -> SmpServer:
    board = SimulatedBoard(
        name="simulated", version="1.0.0", slot_bytes=64 << 10, boots=boots, clock=time.monotonic
    )
    return SmpServer(board, faults=faults)


def test_from_a_key_to_a_confirmed_image_and_each_step_twice(tmp_path: Path) -> None:
    (tmp_path / "program.bin").write_bytes(PROGRAM)
    done("key", "--out", "firmware.pem", folder=tmp_path)
    made = ["--key", "firmware.pem", "--out", "image.bin"]
    done("image", "program.bin", *FACTS, *made, folder=tmp_path)
    with server() as board:
        to = board.address
        for expected in ("holds it now: 1.5.0+3", "held it already: 1.5.0+3"):
            assert expected in done("upload", to, "image.bin", "--test", folder=tmp_path)
        assert "testing    1.5.0+3" in done("reset", to, folder=tmp_path)
        for expected in ("is confirmed now", "was confirmed already"):
            assert expected in done("confirm", to, folder=tmp_path)
        found = json.loads(done("info", to, "--json", folder=tmp_path))
    assert (found["version"], found["slots"][0]["state"]) == ("1.5.0+3", "confirmed")


def test_info_is_a_table_for_people(tmp_path: Path) -> None:
    with server(boots=Boots.HIGHEST) as board:
        said = done("info", board.address, folder=tmp_path)
    assert re.search(r"^board +simulated$", said, re.MULTILINE)
    assert re.search(r"^boots on trial +no: a reset boots for good$", said, re.MULTILINE)
    assert re.search(r"^0 +confirmed +1\.0\.0 +code +[0-9a-f]{16}$", said, re.MULTILINE)


def test_an_image_for_another_board_is_refused_before_a_byte_is_sent(tmp_path: Path) -> None:
    (tmp_path / "image.bin").write_bytes(firmware_image(board="other"))
    with server() as board:
        said = refused("upload", board.address, "image.bin", folder=tmp_path)
        assert said == (
            "asdic: the image is for the board 'other', and this is 'simulated'; nothing was sent"
        )
        assert len(board.board.slots()[1].version or "") == 0
        said = refused(
            "upload", board.address, "image.bin", "--board", "simulated", folder=tmp_path
        )
        assert "'other', not 'simulated'" in said


def test_a_board_that_cannot_test_keeps_the_image_and_says_what_a_reset_does(
    tmp_path: Path,
) -> None:
    (tmp_path / "image.bin").write_bytes(firmware_image())
    with server(boots=Boots.HIGHEST) as board:
        said = refused("upload", board.address, "image.bin", "--test", folder=tmp_path)
        assert "cannot boot it on trial (not-supported)" in said
        assert board.board.slots()[1].version == "1.1.0"
        assert "1.1.0" in done("reset", board.address, folder=tmp_path)


def test_a_board_that_says_nothing_ends_in_one_line(tmp_path: Path) -> None:
    with server(WireFault.SILENT) as board:
        said = refused("info", board.address, "--timeout", "0.1", folder=tmp_path)
    assert said.startswith(f"asdic: no answer from the microcontroller at {board.address}")


def test_a_damaged_image_is_refused_by_every_verb(tmp_path: Path) -> None:
    image = bytearray(firmware_image())
    image[5000] ^= 1
    (tmp_path / "image.bin").write_bytes(image)
    assert "damaged" in refused("inspect", "image.bin", folder=tmp_path)
    with server() as board:
        assert "damaged" in refused("upload", board.address, "image.bin", folder=tmp_path)
        assert board.requests == 0


@pytest.mark.parametrize(
    "words",
    [
        ["info", "nowhere"],
        ["upload", "udp://127.0.0.1", "missing.bin"],
        ["inspect", "missing.bin"],
        ["export-c", "missing.tflite", "--out", "src"],
        ["image", "missing.bin", *FACTS, "--out", "image.bin"],
    ],
    ids=lambda words: str(words[0]),
)
def test_what_is_not_there_is_said_in_one_line(words: list[str], tmp_path: Path) -> None:
    assert refused(*words, folder=tmp_path).startswith("asdic: ")
    assert list(tmp_path.iterdir()) == []


def variant(folder: Path, runtime: Runtime = Runtime.LITERT) -> Path:
    """A variant of which only what firmware needs is real."""
    folder.mkdir()
    model = folder / "model.tflite"
    model.write_bytes(MODEL)
    described = Variant(
        model="vessel",
        target="arm64-litert-int8",
        runtime=runtime,
        runtime_version="2.3.0",
        task="segmentation",
        files=(FileRef(name=model.name, digest=sha256_of(model), size_bytes=len(MODEL)),),
        inputs=(),
        outputs=(),
        preprocessing=(),
        postprocessing=(),
        recipe="static",
        requires=Requirements(frames=FrameFormat(height=96, width=128)),
    )
    (folder / "variant.json").write_bytes(encode_variant(described))
    return folder


def test_a_variant_becomes_a_model_partition_with_its_frames(tmp_path: Path) -> None:
    variant(tmp_path / "variant")
    needs = ["--needs-firmware", "1.4.0", "--out", "model.bin"]
    done("model-image", "variant", *FACTS, *needs, folder=tmp_path)
    found = parse_image((tmp_path / "model.bin").read_bytes())
    assert (found.frames, found.is_bootable) == (FrameFormat(height=96, width=128), False)
    said = json.loads(done("inspect", "model.bin", "--json", folder=tmp_path))
    assert said["dependencies"] == [{"image": 0, "version": "1.4.0"}]
    with server() as board:
        to = ["upload", board.address, "model.bin"]
        assert "image 0 is the firmware" in refused(*to, folder=tmp_path)
        assert "needs firmware 1.4.0" in refused(*to, "--number", "1", folder=tmp_path)


def test_a_variant_becomes_c(tmp_path: Path) -> None:
    variant(tmp_path / "variant")
    done("export-c", "variant", "--out", "src", "--name", "vessel_model", folder=tmp_path)
    header = (tmp_path / "src" / "vessel_model.h").read_text()
    assert f"vessel_model[{len(MODEL)}]" in header
    assert "#define VESSEL_MODEL_FRAME_WIDTH 128" in header


def test_a_variant_of_another_runtime_is_no_model_for_firmware(tmp_path: Path) -> None:
    variant(tmp_path / "variant", Runtime.OPENVINO)
    assert "firmware runs TFLite" in refused("export-c", "variant", "--out", "src", folder=tmp_path)


def test_a_simulated_board_can_be_tried_without_hardware(tmp_path: Path) -> None:
    code = "import sys; from asdic.cli.main import main; main()"
    command = [sys.executable, "-c", code, "firmware", "simulate", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as simulated:
        assert simulated.stdout is not None
        address = simulated.stdout.readline().split()[-1]
        assert "1.0.0" in done("info", address, folder=tmp_path)
        simulated.send_signal(signal.SIGTERM)
        assert simulated.wait(10) == 0
