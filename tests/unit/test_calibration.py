"""Which images calibrate and which judge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.variant import ArrayInput, ClassOutput, ImageInput, MaskOutput, TensorSpec
from asdic.quantization.calibration import DataAudit, DataRules, read_inputs
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


def test_an_image_that_resembles_one_that_judges_is_refused(folder: Path) -> None:
    _write(folder / "03.png", (_pixels(TRAIN) * 0.8 + 10).astype(np.uint8))
    with pytest.raises(DataError, match=r"03\.png and 40\.png \(correlation 1\.000\)"):
        read_inputs(folder, SEGMENTATION)


def test_images_that_only_look_alike_are_named(folder: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 22, (SIDE, SIDE))
    _write(folder / "03.png", np.clip(_pixels(TRAIN) + noise, 0, 255).astype(np.uint8))
    inputs = read_inputs(folder, SEGMENTATION)
    assert "1 sample(s) of 'train' look much like one of 'calib': 03.png and" in inputs.notes[0]
    assert inputs.audit is not None
    assert inputs.audit.resembling == 1


def test_a_split_that_is_ours_keeps_what_looks_alike_on_one_side(tmp_path: Path) -> None:
    for number in range(150):
        pixels = _pixels(number // 2) if number % 2 else _pixels(number // 2) * 0.9 + 3
        _write(tmp_path / f"{number:03}.png", pixels.astype(np.uint8))
    inputs = read_inputs(tmp_path, SEGMENTATION)
    names = {int(case.name[:3]) for case in inputs.cases}
    assert names == {number ^ 1 for number in names}
    assert inputs.notes == ()


def test_splits_that_are_one_and_the_same_are_refused(folder: Path) -> None:
    for number in range(TRAIN):
        _write(folder / f"{number:02}.png", _pixels(TRAIN + number % CALIB))
    with pytest.raises(DataError, match="every sample of the split 'train'"):
        read_inputs(folder, SEGMENTATION, rules=DataRules(drop_overlap=True))


def test_a_single_calibration_image_is_warned_of(folder: Path) -> None:
    assert "a single sample calibrates" in read_inputs(folder, SEGMENTATION, samples=1).notes[0]


def test_no_calibration_image_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="0 calibration samples are too few"):
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


def test_columns_of_the_table_become_facts_of_the_cases(folder: Path) -> None:
    inputs = read_inputs(_with_column(folder, "site", "AB"), SEGMENTATION)
    assert {(case.facts["site"], case.facts["label"]) for case in inputs.cases} == {
        ("A", "malignant"),
        ("B", "benign"),
    }


def test_the_classes_of_a_classifier_are_no_facts(folder: Path) -> None:
    assert not any("label" in case.facts for case in read_inputs(folder, CLASSIFICATION).cases)


def test_a_column_with_too_many_values_is_no_fact(folder: Path) -> None:
    inputs = read_inputs(_with_column(folder, "serial", [str(n) for n in range(99)]), SEGMENTATION)
    assert not any("serial" in case.facts for case in inputs.cases)


def test_columns_that_are_asked_for_are_the_only_facts(folder: Path) -> None:
    rules = DataRules(group_columns=("serial",))
    table = _with_column(folder, "serial", [str(n) for n in range(99)])
    assert {tuple(one.facts) for one in read_inputs(table, SEGMENTATION, rules=rules).cases} == {
        ("serial",)
    }


def test_a_column_that_is_not_there_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="has no column site to judge by; it has label"):
        read_inputs(folder, SEGMENTATION, rules=DataRules(group_columns=("site",)))


def test_constant_images_do_not_calibrate_and_are_named(folder: Path) -> None:
    _write(folder / "05.png", np.full((SIDE, SIDE), 9, np.uint8))
    inputs = read_inputs(folder, SEGMENTATION)
    assert len(inputs.calibration) == TRAIN - 1
    assert inputs.notes == ("1 sample(s) are constant and do not calibrate: 05.png",)


def test_constant_images_alone_are_refused(folder: Path) -> None:
    for number in range(TRAIN):
        _write(folder / f"{number:02}.png", np.full((SIDE, SIDE), number, np.uint8))
    with pytest.raises(DataError, match=r"every sample of the split 'train' .* is constant"):
        read_inputs(folder, SEGMENTATION)


def test_a_few_unreadable_files_can_be_left_out(folder: Path) -> None:
    (folder / "03.png").write_bytes(b"not an image")
    inputs = read_inputs(folder, SEGMENTATION, rules=DataRules(skip_unreadable=True))
    assert "1 sample(s) cannot be used and are left out: 03.png is not an" in inputs.notes[0]
    assert inputs.audit == DataAudit(
        seen=TRAIN + CALIB, calibrating=TRAIN - 1, judging=CALIB, unreadable=1
    )


def test_many_unreadable_files_cannot_be_left_out(folder: Path) -> None:
    for number in range(4):
        (folder / f"{number:02}.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"4 of 74 .* cannot be used \(at most 5 % may be left out"):
        read_inputs(folder, SEGMENTATION, rules=DataRules(skip_unreadable=True))


def test_a_split_without_samples_that_calibrate_is_refused(folder: Path) -> None:
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace(",train", ",calib"))
    with pytest.raises(DataError, match="has no samples in its split 'train'"):
        read_inputs(folder, SEGMENTATION)


def test_judges_without_a_label_among_others_are_counted(folder: Path) -> None:
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace("50.png,malignant", "50.png,"))
    inputs = read_inputs(folder, CLASSIFICATION)
    assert len(inputs.cases) == CALIB - 1
    assert "1 sample(s) of 'calib' have no label and do not judge" in inputs.notes


def _with_column(folder: Path, name: str, values: Sequence[str]) -> Path:
    """Add a column to the table whose values go round."""
    head, *rows = (folder / "labels.csv").read_text().splitlines()
    lines = [f"{row},{values[n % len(values)]}" for n, row in enumerate(rows)]
    (folder / "labels.csv").write_text("\n".join([f"{head},{name}", *lines]) + "\n")
    return folder
