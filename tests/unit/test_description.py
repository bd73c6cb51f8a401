from __future__ import annotations

import msgspec
import pytest

from asdic.contract.errors import ConfigError
from asdic.contract.variant import (
    ArrayInput,
    ArrayOutput,
    FrameFormat,
    ImageInput,
    MaskOutput,
    Requirements,
    TensorSpec,
)
from asdic.training.description import ModelDescription, read_description, write_description
from tests.conftest import REPOSITORY

DESCRIPTION = ModelDescription(
    name="breast",
    task="segmentation",
    weights="model.pt2",
    data="breast",
    inputs=(
        TensorSpec(name="image", shape=(1, 3, 64, 96)),
        TensorSpec(name="depth", shape=(1, 1)),
    ),
    outputs=(
        TensorSpec(name="logits", shape=(1, 1, 64, 96)),
        TensorSpec(name="quality", shape=(1, 4)),
    ),
    preprocessing=(
        ImageInput(tensor="image", height=64, width=96, color="rgb", mean=(0.1, 0.2, 0.3)),
        ArrayInput(tensor="depth"),
    ),
    postprocessing=(MaskOutput(tensor="logits", threshold=0.4), ArrayOutput(tensor="quality")),
)


def edited(folder, old, new):
    write_description(folder, DESCRIPTION)
    path = folder / "model.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return folder


def test_a_description_comes_back_as_it_was_written(tmp_path):
    write_description(tmp_path, DESCRIPTION)
    assert read_description(tmp_path) == DESCRIPTION


def test_the_example_in_the_documentation_is_a_description(tmp_path):
    page = (REPOSITORY / "docs" / "models.md").read_text()
    example = page.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "model.toml").write_text(example)
    description = read_description(tmp_path)
    assert [spec.name for spec in description.outputs] == ["lesion", "kind"]


def test_what_is_left_out_has_its_default(tmp_path):
    folder = edited(tmp_path, 'metric = "dice"\n', "")
    assert read_description(folder).metric == "dice"


def test_a_folder_without_a_description_is_no_model(tmp_path):
    with pytest.raises(ConfigError, match=r"holds no trained model \(model\.toml is missing\)"):
        read_description(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "breast"', 'name = "breast"\ncolour = 1', "colour"),
        ('color = "rgb"', 'color = "rgb"\ncolour = 1', r"unknown key preprocessing\.0\.colour"),
        ("threshold =", "threshhold =", r"unknown key postprocessing\.0\.threshhold"),
        ("height = 64", 'height = "tall"', "Expected `int`"),
        ('task = "segmentation"', 'task = "cooking"', "Invalid enum value 'cooking'"),
        ('name = "breast"', "name = ", "is wrong"),
        ("asdic-model/1", "asdic-model/9", "format 'asdic-model/9', this asdic reads"),
        ("model.pt2", "../model.pt2", "weights must be a file beside it"),
        ('tensor = "image"', 'tensor = "picture"', "speaks of the tensors depth, picture"),
        ('tensor = "quality"', 'tensor = "logits"', "speaks of the tensors logits, logits"),
    ],
)
def test_a_wrong_description_is_explained(tmp_path, old, new, message):
    with pytest.raises(ConfigError, match=message):
        read_description(edited(tmp_path, old, new))


def test_a_description_that_contradicts_itself_is_not_written(tmp_path):
    wrong = ModelDescription(
        name="x",
        task="raw",
        weights="model.pt2",
        inputs=(TensorSpec(name="x", shape=(1,)),),
        outputs=(),
        preprocessing=(),
        postprocessing=(),
    )
    with pytest.raises(ConfigError, match="speaks of the tensors none; the model has x"):
        write_description(tmp_path, wrong)
    assert not (tmp_path / "model.toml").exists()


def test_what_a_model_requires_of_its_box_comes_back(tmp_path):
    requires = Requirements(
        firmware=">=1.4.0,<2.0.0", board="nucleo", frames=FrameFormat(height=64, width=96)
    )
    description = msgspec.structs.replace(DESCRIPTION, requires=requires)
    write_description(tmp_path, description)
    assert read_description(tmp_path) == description


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('[requires]\nfirmwares = "1.0.0"\n', "unknown key requires.firmwares"),
        ('[requires]\nfirmware = "new"\n', "is not a range of firmware versions"),
        ("[requires.frames]\nheight = 64\n", "width"),
        ("[requires.frames]\nheight = 64\nwidth = 96\nfps = 30\n", "requires.frames.fps"),
        ("[requires.frames]\nheight = 64\nwidth = -1\n", "cannot be"),
    ],
)
def test_a_requirement_that_cannot_be_is_refused(tmp_path, table, message):
    write_description(tmp_path, DESCRIPTION)
    path = tmp_path / "model.toml"
    path.write_text(path.read_text() + "\n" + table)
    with pytest.raises(ConfigError, match=message):
        read_description(tmp_path)
