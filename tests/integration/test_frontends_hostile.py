"""Models that would run code, read other files or fill the memory, and plain rubbish."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch

from asdic.contract.errors import ConfigError
from asdic.contract.variant import TensorSpec
from asdic.quantization.frontends import sizes
from asdic.quantization.source import Reading
from tests.support.disc_finder import SIDE, DiscFinder, example
from tests.support.here import read
from tests.support.keras_module import keras_module
from tests.support.small_models import make_discs, with_external_weights, write_onnx, write_program

IMAGE = TensorSpec(name="image", shape=(1, 1, SIDE, SIDE))
FACTORY = f"{make_discs.__module__}:{make_discs.__name__}"


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd"])
def test_weights_out_of_the_models_folder_are_refused(tmp_path: Path, location: str) -> None:
    path = with_external_weights(write_onnx(tmp_path / "discs.onnx", DiscFinder()), location)
    with pytest.raises(ConfigError, match="out of the model's folder"):
        read(path, tmp_path)


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite", "model.keras", "model.pt2"])
def test_rubbish_is_one_clear_line(tmp_path: Path, name: str) -> None:
    if name.endswith("keras"):
        keras_module()
    (tmp_path / name).write_bytes(b"rubbish" * 100)
    with pytest.raises(ConfigError, match=rf"{name} is not [^\n]*$"):
        read(tmp_path / name, tmp_path)


def test_weights_that_are_a_pickle_are_not_opened(tmp_path: Path) -> None:
    torch.save({"finder": DiscFinder()}, tmp_path / "weights.pt")
    reading = Reading(shapes={"image": IMAGE.shape}, weights=tmp_path / "weights.pt")
    with pytest.raises(ConfigError, match="holds more than weights"):
        read(FACTORY, tmp_path, reading=reading)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Symbol(", "__import__('pathlib').Path('sprung').touch() or Symbol("),
        ("torch.ops.aten.conv2d.default", "torch.os.remove"),
        ("torch.ops.aten.conv2d.default", "torch.ops.aten.from_file.default"),
    ],
)
def test_code_in_a_program_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    monkeypatch.chdir(tmp_path)
    trapped = _edited(_open_program(tmp_path), tmp_path / "trapped.pt2", old, new)
    with pytest.raises(ConfigError, match="which is code; it is not opened"):
        read(trapped, tmp_path, reading=Reading(shapes={"": IMAGE.shape}))
    assert not (tmp_path / "sprung").exists()


SPRINGS = "__import__('pathlib').Path('sprung').touch() is None"


def test_code_in_the_guards_of_a_program_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trapped = _edited(
        _open_program(tmp_path),
        tmp_path / "trapped.pt2",
        '"guards_code": [',
        f'"guards_code": [{json.dumps(SPRINGS)}, ',
    )
    read(trapped, tmp_path, reading=Reading(shapes={"": IMAGE.shape}))
    assert not (tmp_path / "sprung").exists()


def _open_program(folder: Path) -> Path:
    """Write a program whose height and width are open, and which has guards about them."""
    sides = {2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
    return write_program(
        folder / "open.pt2", torch.nn.Conv2d(1, 8, 3), example(), dynamic_shapes=(sides,)
    )


def _edited(source: Path, target: Path, old: str, new: str) -> Path:
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for name in before.namelist():
            content = before.read(name)
            if name.endswith("models/model.json"):
                assert old.encode() in content
                content = content.replace(old.encode(), new.encode(), 1)
            after.writestr(name, content)
    return target


def test_torchscript_that_writes_files_is_not_opened(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.pt", "w") as archive:
        archive.writestr("model/constants.pkl", b"")
        archive.writestr("model/code/__torch__.py", b"def forward(self, x):\n  torch.save(x, 'f')")
    with pytest.raises(ConfigError, match=r"calls torch\.save"):
        read(tmp_path / "model.pt", tmp_path)


def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "MODEL_LIMIT_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "model.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", bytes(2 << 20))
    with pytest.raises(ConfigError, match=r"holds 2097152 bytes in 1 files"):
        read(tmp_path / "model.pt2", tmp_path)
