"""Models of Keras: what is read, and what is not opened."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from asdic.contract.errors import ConfigError
from asdic.contract.variant import ImageInput
from tests.support.disc_finder import SIDE
from tests.support.here import read
from tests.support.keras_module import keras_module


@pytest.fixture(scope="module")
def keras_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with classes.keras and the SavedModel classes."""
    keras = keras_module()
    folder = tmp_path_factory.mktemp("keras")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, 1), name="image"),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.BatchNormalization(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="scores"),
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations between its own modules
        model.save(folder / "classes.keras")
        model.export(str(folder / "classes"), verbose=False)
    return folder


@pytest.mark.parametrize("name", ["classes.keras", "classes"])
def test_keras_models_are_read_with_their_names(
    keras_folder: Path, tmp_path: Path, name: str
) -> None:
    description = read(keras_folder / name, tmp_path).description
    assert [spec.name for spec in description.inputs] == ["image"]
    assert isinstance(description.preprocessing[0], ImageInput)
    assert description.outputs[0].shape == (1, 3)


def test_a_keras_model_with_two_inputs_and_outputs_keeps_its_names(tmp_path: Path) -> None:
    keras = keras_module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _two_inputs(keras).save(tmp_path / "two.keras")
    description = read(tmp_path / "two.keras", tmp_path).description
    assert sorted(spec.name for spec in description.inputs) == ["extra", "image"]
    assert sorted(spec.name for spec in description.outputs) == ["mask", "scores"]


def _two_inputs(keras: Any) -> Any:
    image, extra = keras.Input((SIDE, SIDE, 1), name="image"), keras.Input((3,), name="extra")
    mask = keras.layers.Conv2D(1, 3, padding="same")(image)
    scores = keras.layers.Add()([keras.layers.Dense(3)(keras.layers.Flatten()(mask)), extra])
    return keras.Model({"image": image, "extra": extra}, {"mask": mask, "scores": scores})


def test_a_saved_model_that_writes_files_is_not_opened(tmp_path: Path) -> None:
    keras_module()
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel()
    node = saved.meta_graphs.add().graph_def.node.add()
    node.name, node.op = "notes", "WriteFile"
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(saved.SerializeToString())
    with pytest.raises(ConfigError, match=r"uses WriteFile \(the node 'notes'\)"):
        read(tmp_path / "saved", tmp_path)


def test_code_in_a_keras_file_is_not_run(tmp_path: Path) -> None:
    keras = keras_module()
    trap = tmp_path / "sprung"
    place = str(trap)
    layer = keras.layers.Lambda(lambda x, path=place: (Path(path).touch(), x)[1])
    model = keras.Sequential([keras.Input((4,)), layer])
    model.save(tmp_path / "lambda.keras")
    trap.unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "lambda.keras", tmp_path)
    assert not trap.exists()
