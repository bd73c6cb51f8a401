from __future__ import annotations

import zlib

import cv2
import numpy as np
import pytest

from asdic.contract.errors import DataError
from asdic.training.data import read_dataset
from asdic.training.splits import hashed_share

GREY = np.tile(np.arange(12, dtype=np.uint8), (10, 1))


def write(path, pixels=GREY):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def table(folder, *rows, images=("a.png", "b.png", "c.png")):
    for name in images:
        write(folder / name)
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_a_table_gives_mask_label_group_and_split(tmp_path):
    write(tmp_path / "m.png", np.full((10, 12), 255, np.uint8))
    rows = ("file,mask,label,dup_group,split", "a.png,m.png,benign,7,calib", "b.png,,,,train")
    first, second = read_dataset(table(tmp_path, *rows)).samples
    assert (first.label, first.group, first.split) == ("benign", "7", "calib")
    assert first.read_mask().sum() == 120
    assert (second.mask, second.label, second.group) == (None, None, "b.png")


def test_busi_is_read_as_it_is(shared_data):
    dataset = read_dataset(shared_data / "busi")
    assert (len(dataset.split("train")), len(dataset.split("calib"))) == (494, 116)
    assert sum(bool(sample.read_mask().any()) for sample in dataset.split("calib")) == 96


def test_timtrack_is_split_by_scanner(shared_data):
    dataset = read_dataset(shared_data / "timtrack")
    train, calib = ({sample.group for sample in dataset.split(name)} for name in ("train", "calib"))
    assert train
    assert calib
    assert not train & calib


def test_a_folder_without_a_table_is_read_recursively(tmp_path):
    write(tmp_path / "images" / "one" / "a.png")
    write(tmp_path / "images" / "b.jpg")
    write(tmp_path / "masks" / "one" / "a.png")
    write(tmp_path / "masks" / "b.png")
    write(tmp_path / ".thumbnails" / "a.png")
    samples = read_dataset(tmp_path).samples
    assert [sample.name for sample in samples] == ["images/b.jpg", "images/one/a.png"]
    assert [sample.mask.name for sample in samples] == ["b.png", "a.png"]


def test_images_without_masks_are_a_data_set_too(tmp_path):
    write(tmp_path / "a.png")
    assert read_dataset(tmp_path).samples[0].read_mask() is None


def test_a_split_that_is_not_given_takes_a_third_of_the_groups_for_calib(tmp_path):
    names = [f"{number}.png" for number in range(60)]
    rows = ["file,patient", *(f"{name},{number // 2}" for number, name in enumerate(names))]
    dataset = read_dataset(table(tmp_path, *rows, images=names))
    train, calib = ({sample.group for sample in dataset.split(name)} for name in ("train", "calib"))
    assert not train & calib
    assert 5 <= len(calib) <= 15


def test_an_image_does_not_change_sides_when_others_are_added():
    keys = [str(number) for number in range(200)]
    assert hashed_share(keys[:100], 1 / 3) == hashed_share(keys, 1 / 3) & set(keys[:100])


@pytest.mark.parametrize("share", [0.0001, 0.9999])
def test_a_share_is_never_nothing_and_never_all(share):
    assert 0 < len(hashed_share(["a", "b", "c"], share)) < 3


def test_a_single_group_is_split_by_file(tmp_path):
    rows = ("file,device", "a.png,x", "b.png,x", "c.png,x")
    dataset = read_dataset(table(tmp_path, *rows))
    assert len(dataset.split("train")) + len(dataset.split("calib")) == 3


def test_a_split_without_images_says_so(tmp_path):
    dataset = read_dataset(table(tmp_path, "file,split", "a.png,train"))
    with pytest.raises(DataError, match="no images in its split 'calib'"):
        dataset.split("calib")


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.array([[1, 2, 3]], np.uint8).reshape(1, 1, 3), [3, 2, 1]),
        (np.array([[1, 2, 3, 255]], np.uint8).reshape(1, 1, 4), [3, 2, 1]),
    ],
)
def test_colors_come_in_the_order_red_green_blue(tmp_path, pixels, expected):
    write(tmp_path / "a.png", pixels)
    assert read_dataset(tmp_path).samples[0].read_image().ravel().tolist() == expected


@pytest.mark.parametrize("white", [1, 255])
def test_masks_of_0_and_1_and_of_0_and_255_mean_the_same(tmp_path, white):
    write(tmp_path / "a.png", np.zeros((1, 2), np.uint8))
    write(tmp_path / "masks" / "a.png", np.array([[0, white]], np.uint8))
    assert read_dataset(tmp_path).samples[0].read_mask().tolist() == [[0, 1]]


def test_a_mask_of_class_numbers_is_not_taken_for_an_empty_one(tmp_path):
    write(tmp_path / "a.png", np.zeros((1, 2), np.uint8))
    write(tmp_path / "masks" / "a.png", np.array([[0, 3]], np.uint8))
    (sample,) = read_dataset(tmp_path).samples
    assert sample.read_reference("segmentation").tolist() == [[0, 3]]
    with pytest.raises(DataError, match=r"mask of a\.png holds numbers up to 3; a mask of two"):
        sample.read_mask()


def test_an_undecided_image_goes_where_its_twin_is(tmp_path):
    random = np.random.default_rng(0)
    for number in range(8):
        write(tmp_path / f"{number}.png", random.integers(0, 256, (16, 16), np.uint8))
    write(tmp_path / "twin.png", cv2.imread(str(tmp_path / "0.png"), cv2.IMREAD_GRAYSCALE))
    for side in ("train", "calib"):
        rows = [
            "file,split",
            f"0.png,{side}",
            *(f"{n}.png,train" for n in range(1, 8)),
            "twin.png,",
        ]
        (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
        dataset = read_dataset(tmp_path)
        assert dataset.samples[-1].split == side
        assert dataset.drawn


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no data folder .*nowhere"):
        read_dataset(tmp_path / "nowhere")


def test_an_empty_folder_says_what_was_expected(tmp_path):
    with pytest.raises(DataError, match=r"holds no images; expected labels\.csv or image files"):
        read_dataset(tmp_path)


def test_a_table_without_rows_holds_no_images(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        read_dataset(table(tmp_path, "file,mask"))


def test_unreadable_files_are_named_and_counted(tmp_path):
    for number in range(6):
        write(tmp_path / f"{number}.png")
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"5 of 6 samples .* 0\.png is .* 2\.png is .* and 2 more"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_a_truncated_image_is_unreadable_and_opencv_says_nothing(tmp_path, capfd, suffix):
    path = tmp_path / f"a.{suffix}"
    write(path, np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(DataError, match=rf"1 of 1 samples .* a\.{suffix} is not an image"):
        read_dataset(tmp_path)
    assert capfd.readouterr().err == ""


def test_an_empty_file_is_unreadable(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match=r"a\.png is not an image"):
        read_dataset(tmp_path)


def test_a_file_that_the_table_names_must_be_there(tmp_path):
    with pytest.raises(DataError, match=r"1 of 2 samples .*z\.png: No such file"):
        read_dataset(table(tmp_path, "file", "a.png", "z.png"))


def test_sixteen_bit_images_are_refused(tmp_path):
    write(tmp_path / "a.png", GREY.astype(np.uint16))
    with pytest.raises(DataError, match=r"a\.png has uint16 pixels, expected 8-bit ones"):
        read_dataset(tmp_path)


def test_an_image_of_too_many_pixels_is_refused(tmp_path):
    write(tmp_path / "a.png", np.zeros((8192, 8192), np.uint8))
    with pytest.raises(DataError, match=r"a\.png has .* pixels"):
        read_dataset(tmp_path)


def test_a_file_that_claims_to_be_huge_is_refused_before_memory_is_taken(tmp_path):
    write(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = (100_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png cannot be decoded: pixels <= "):
        read_dataset(tmp_path)


def test_a_mask_of_another_size_is_refused(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "masks" / "a.png", GREY[:5])
    with pytest.raises(DataError, match=r"mask of a\.png has 12x5 pixels, its image has 12x10"):
        read_dataset(tmp_path)


def test_a_mask_that_is_missing_among_others_is_named(tmp_path):
    for name in ("a.png", "b.png", "masks/a.png"):
        write(tmp_path / name)
    with pytest.raises(DataError, match=r"1 of 2 images .* have no mask in masks/: b\.png"):
        read_dataset(tmp_path)


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "x/../../a.png", ""])
def test_a_table_may_not_point_out_of_its_folder(tmp_path, name):
    with pytest.raises(DataError, match="not inside the data folder"):
        read_dataset(table(tmp_path, "file,label", f"{name},x"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("name,label", "a.png,x"), "no column 'file'; it has name, label"),
        (("file,split", "a.png,test"), "line 2 has split 'test', expected train or calib"),
        (("file", "a.png", "a.png"), r"names a\.png more than once"),
        (("file", '"a.png'), "is not a table"),
    ],
)
def test_a_wrong_table_is_explained(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        read_dataset(table(tmp_path, *rows))


def test_a_table_that_is_no_text_is_refused(tmp_path):
    write(tmp_path / "a.png")
    (tmp_path / "labels.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match="is not a table"):
        read_dataset(tmp_path)
