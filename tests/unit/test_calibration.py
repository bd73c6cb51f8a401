"""Which images calibrate and which judge."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.variant import ArrayInput, ClassOutput, ImageInput, MaskOutput, TensorSpec
from asdic.quantization.calibration import DataRules, read_inputs
from asdic.training.description import ModelDescription

SIDE = 8
TRAIN, CALIB = 40, 34

SEGMENTATION = ModelDescription(
    name="tiny",
    task="segmentation",
    weights="model.pt2",
    inputs=(TensorSpec(name="image", shape=(1, 1, SIDE, SIDE)),),
    outputs=(TensorSpec(name="mask", shape=(1, 1, SIDE, SIDE)),),
    preprocessing=(ImageInput(tensor="image", height=SIDE, width=SIDE),),
    postprocessing=(MaskOutput(tensor="mask"),),
)
CLASSIFICATION = ModelDescription(
    name="tiny",
    task="classification",
    weights="model.pt2",
    metric="top1",
    inputs=SEGMENTATION.inputs,
    outputs=(TensorSpec(name="scores", shape=(1, 2)),),
    preprocessing=SEGMENTATION.preprocessing,
    postprocessing=(ClassOutput(tensor="scores", labels=("benign", "malignant")),),
)


def _write(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def _pixels(number: int) -> NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE), np.uint8)


def _write_table(folder: Path, rows: Iterable[tuple[str, str, str]]) -> None:
    lines = ["file,label,split", *(",".join(row) for row in rows)]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """40 images to calibrate and 34 to judge, with labels and without masks."""
    rows = []
    for number in range(TRAIN + CALIB):
        name = f"{number:02}.png"
        _write(tmp_path / name, _pixels(number))
        label = "benign" if number % 2 else "malignant"
        rows.append((name, label, "train" if number < TRAIN else "calib"))
    _write_table(tmp_path, rows)
    return tmp_path


def test_calibration_is_prepared_as_the_runner_does_it(folder: Path) -> None:
    first = read_inputs(folder, SEGMENTATION, samples=5).calibration[0]["image"]
    assert (first.shape, first.dtype) == ((1, 1, SIDE, SIDE), np.float32)
    assert 0.0 <= first.min() < first.max() <= 1.0


def test_the_number_of_calibration_images_is_the_one_asked_for(folder: Path) -> None:
    assert len(read_inputs(folder, SEGMENTATION, samples=5).calibration) == 5


def test_the_same_seed_chooses_the_same_images(folder: Path) -> None:
    first, second = (read_inputs(folder, SEGMENTATION, samples=5, seed=3) for _ in range(2))
    assert first.digest == second.digest


def test_another_seed_chooses_other_images(folder: Path) -> None:
    first, second = (read_inputs(folder, SEGMENTATION, samples=5, seed=one) for one in (3, 4))
    assert first.digest != second.digest


def test_judges_without_masks_have_no_labels(folder: Path) -> None:
    inputs = read_inputs(folder, SEGMENTATION)
    assert not inputs.labelled
    assert len(inputs.cases) == CALIB


def test_a_class_label_becomes_its_number(folder: Path) -> None:
    inputs = read_inputs(folder, CLASSIFICATION)
    assert inputs.labelled
    assert {int(case.reference) for case in inputs.cases if case.reference is not None} == {0, 1}


def test_a_label_that_the_model_does_not_know_is_named(folder: Path) -> None:
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace("50.png,malignant", "50.png,cyst"))
    with pytest.raises(DataError, match=r"50\.png has the label 'cyst'; the model knows benign"):
        read_inputs(folder, CLASSIFICATION)


def test_an_image_on_both_sides_is_refused_and_the_pair_is_named(folder: Path) -> None:
    _write(folder / "00.png", _pixels(TRAIN))
    with pytest.raises(DataError, match=r"1 of 40 samples .* 00\.png and 40\.png .*--drop-overlap"):
        read_inputs(folder, SEGMENTATION)


def test_an_image_on_both_sides_can_be_left_out_of_calibration(folder: Path) -> None:
    _write(folder / "00.png", _pixels(TRAIN))
    inputs = read_inputs(folder, SEGMENTATION, rules=DataRules(drop_overlap=True))
    assert len(inputs.calibration) == TRAIN - 1
    assert "00.png and 40.png" in inputs.notes[0]


def test_splits_that_are_one_and_the_same_are_refused(folder: Path) -> None:
    for number in range(TRAIN):
        _write(folder / f"{number:02}.png", _pixels(TRAIN + number % CALIB))
    with pytest.raises(DataError, match="every sample of the split 'train'"):
        read_inputs(folder, SEGMENTATION, rules=DataRules(drop_overlap=True))


def test_a_single_calibration_image_is_warned_of(folder: Path) -> None:
    assert "a single image calibrates" in read_inputs(folder, SEGMENTATION, samples=1).notes[0]


def test_no_calibration_image_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="0 calibration images are too few"):
        read_inputs(folder, SEGMENTATION, samples=0)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        read_inputs(tmp_path, SEGMENTATION)


def test_no_folder_at_all_names_the_option() -> None:
    with pytest.raises(ConfigError, match="name them with --data"):
        read_inputs(None, SEGMENTATION)


def test_unreadable_files_are_named_and_counted(folder: Path) -> None:
    for name in ("03.png", "45.png"):
        (folder / name).write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"2 of 74 samples .*03\.png.*45\.png"):
        read_inputs(folder, SEGMENTATION)


def test_too_few_judges_are_refused(folder: Path) -> None:
    lines = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join(lines[: 1 + TRAIN + 10]) + "\n")
    with pytest.raises(DataError, match=r"10 samples to judge by .* at least 32 are needed"):
        read_inputs(folder, SEGMENTATION)


def test_a_model_that_takes_no_image_is_refused(folder: Path) -> None:
    description = ModelDescription(
        name="words",
        task="raw",
        weights="model.pt2",
        inputs=(TensorSpec(name="x", shape=(1, 4)),),
        outputs=(TensorSpec(name="scores", shape=(1, 2)),),
        preprocessing=(ArrayInput(tensor="x"),),
        postprocessing=(ClassOutput(tensor="scores"),),
    )
    with pytest.raises(DataError, match=r"takes the array x \(1, 4\); give an \.npz"):
        read_inputs(folder, description)
