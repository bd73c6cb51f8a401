"""Samples in an .npz."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asdic.contract.errors import DataError
from asdic.training.arrays import read_npz
from asdic.training.sources import read_samples

X = np.arange(24, dtype=np.float32).reshape(4, 2, 3)


def _write(folder: Path, **arrays: Any) -> Path:
    path = folder / "samples.npz"
    np.savez_compressed(path, **arrays)
    return path


def test_x_is_the_only_input(tmp_path: Path) -> None:
    samples = read_npz(_write(tmp_path, x=X, y=np.arange(4)), ["image"])
    assert [one.reference for one in samples] == [0, 1, 2, 3]
    np.testing.assert_array_equal(samples[1].read_inputs()["image"], X[1])


def test_several_inputs_go_by_their_names(tmp_path: Path) -> None:
    (first, *_) = read_npz(_write(tmp_path, image=X, age=np.arange(4.0)), ["image", "age"])
    assert {name: one.shape for name, one in first.read_inputs().items()} == {
        "image": (2, 3),
        "age": (),
    }


def test_split_group_and_facts_are_columns(tmp_path: Path) -> None:
    path = _write(
        tmp_path,
        x=X,
        split=np.array(["train", "calib", "train", "calib"]),
        group=np.array([7, 7, 8, 9]),
        site=np.array(["A", "B", "A", "B"]),
    )
    first, second, *_ = read_npz(path, ["x"])
    assert (first.split, first.group, dict(first.facts)) == (
        "train",
        "7",
        {"group": "7", "site": "A"},
    )
    assert second.split == "calib"


def test_splits_may_be_numbers(tmp_path: Path) -> None:
    samples = read_npz(_write(tmp_path, x=X, split=np.array([0, 1, 1, 0])), ["x"])
    assert [one.split for one in samples] == ["train", "calib", "calib", "train"]


def test_masks_and_names_of_classes_are_references(tmp_path: Path) -> None:
    masks = np.ones((4, 2, 3), np.uint8)
    assert np.shape(read_npz(_write(tmp_path, x=X, y=masks), ["x"])[0].reference) == (2, 3)
    named = read_npz(_write(tmp_path, x=X, y=np.array(["cyst", "b", "c", "d"])), ["x"])
    assert named[0].reference == "cyst"


def test_shares_are_drawn_by_content_not_by_place(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 9, 9))
    one = read_samples(_write(tmp_path, x=x), inputs=["x"])
    other = read_samples(_write(tmp_path, x=x[::-1]), inputs=["x"])
    assert {s.split for s in one.samples} == {"train", "calib"}
    assert [s.split for s in one.samples] == [s.split for s in other.samples[::-1]]


def test_samples_of_one_group_stay_on_one_side(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(40, 9, 9))
    found = read_samples(_write(tmp_path, x=x, group=np.arange(40) // 4), inputs=["x"]).samples
    sides = {(one.group, one.split) for one in found}
    assert len(sides) == 10


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": X}, r"has no array x; the model's inputs are input, the file holds image"),
        ({"x": X, "y": np.arange(3)}, r"4 samples by x, and y \(3,\); the first axis"),
        ({"x": X, "scale": np.array(0.5)}, r"scale \(\); the first axis of every array"),
        ({"x": X, "other": X}, r"other of shape \(4, 2, 3\), which is no input of the model"),
        ({"x": X, "split": np.array(["train", "test", "", ""])}, "has split 'test', expected"),
        ({"x": X[:0]}, r"holds no samples: x has shape \(0, 2, 3\)"),
        ({"x": np.array(3.0)}, "holds no samples"),
        ({"x": X, "y": np.array(["a", None, 1, 2], object)}, "is no array of numbers"),
        ({"x": X.astype(np.complex64)}, "is no array of numbers"),
    ],
)
def test_arrays_that_do_not_belong_together_are_explained(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_npz(_write(tmp_path, **arrays), ["input"])


def test_a_file_that_is_no_archive_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "samples.npz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="is damaged"):
        read_npz(tmp_path / "samples.npz", ["x"])


def test_an_archive_that_would_unpack_to_too_much_is_refused_unread(tmp_path: Path) -> None:
    path = _write(tmp_path, x=X)
    data = bytearray(path.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[directory + 24 : directory + 28] = (3 << 30).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(DataError, match="would unpack to 1 members and 3221225472 bytes"):
        read_npz(path, ["x"])


def test_nan_is_refused_and_the_sample_named(tmp_path: Path) -> None:
    x = X.copy()
    x[2, 0, 0] = np.nan
    with pytest.raises(DataError, match="sample 2 holds NaN or infinity in 'x'"):
        read_samples(_write(tmp_path, x=x), inputs=["x"])


@pytest.mark.parametrize("name", ["nowhere", "nowhere.npz", "no module:x"])
def test_data_that_are_nowhere_say_what_asdic_reads(name: str) -> None:
    with pytest.raises(DataError, match=r"is not there; asdic reads a folder of images, an \.npz"):
        read_samples(name, inputs=["x"])


def test_keywords_are_read_as_they_are(shared_data: Path) -> None:
    found = read_samples(shared_data / "keywords" / "inputs_int8.npz", inputs=["input_1"])
    assert len(found.samples) == 1000
    assert 250 < len(found.of_split("calib")) < 420
