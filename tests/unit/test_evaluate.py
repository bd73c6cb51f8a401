from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.variant import ArrayOutput
from asdic.training.data import read_dataset
from asdic.training.description import ModelDescription
from asdic.training.evaluate import evaluate, judge, threshold_baseline
from asdic.training.export import segmentation_description

SIZE = (32, 32)


class Darker(nn.Module):
    """A network that finds what is darker than ``level``."""

    def __init__(self, level):
        super().__init__()
        self.level = level

    def forward(self, image):
        return self.level - image


class Loud(nn.Module):
    """A network that finds a lesion everywhere."""

    def forward(self, image):
        return torch.ones_like(image)


def square(level, *, rows=slice(8, 40), size=(64, 48)):
    """Return a grey image with a square lesion of ``level``, and its mask."""
    mask = np.zeros(size, np.uint8)
    mask[rows, 8:32] = 255
    return np.where(mask > 0, np.uint8(level), np.uint8(150)), mask


@pytest.fixture
def dataset(tmp_path):
    """Four images with a dark square and four without, half of each in ``calib``."""
    rows = ["file,mask,split"]
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for number in range(8):
        image, mask = square(40) if number < 4 else square(150, rows=slice(0, 0))
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), image)
        cv2.imwrite(str(tmp_path / f"masks/{number}.png"), mask)
        split = "calib" if number % 2 else "train"
        rows.append(f"images/{number}.png,masks/{number}.png,{split}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))
    return read_dataset(tmp_path)


@pytest.fixture
def description():
    return segmentation_description(name="square", size=SIZE, data="")


def test_a_network_is_judged_in_the_size_of_the_image(dataset, description):
    found = evaluate(Darker(0.3), dataset.split("calib"), description)
    assert list(found.scores) == ["images/1.png", "images/3.png"]
    assert found.mean > 95


def test_images_without_a_lesion_are_counted_apart(dataset, description):
    quiet, loud = (
        evaluate(network, dataset.split("calib"), description) for network in (Darker(0.3), Loud())
    )
    assert (quiet.false_alarm_percent, loud.false_alarm_percent) == (0, 100)
    assert list(loud.alarms) == ["images/5.png", "images/7.png"]


def test_without_empty_images_there_is_no_share_of_false_alarms(dataset):
    lesions = [sample for sample in dataset.samples if sample.read_mask().any()]
    assert judge(lesions, lambda image: (image < 90).astype(np.uint8)).false_alarm_percent is None


def test_a_metric_needs_a_lesion(dataset):
    empty = [sample for sample in dataset.samples if not sample.read_mask().any()]
    with pytest.raises(DataError, match="none of the 4 images shows a lesion"):
        judge(empty, lambda image: np.zeros(image.shape, np.uint8))


def test_an_image_without_a_mask_judges_nothing(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), square(40)[0])
    with pytest.raises(DataError, match=r"a\.png has no mask"):
        judge(read_dataset(tmp_path).samples, lambda image: image)


def test_only_a_network_from_image_to_mask_is_judged(dataset, description):
    raw = ModelDescription(
        name="raw",
        task="raw",
        weights="model.pt2",
        inputs=description.inputs,
        outputs=description.outputs,
        preprocessing=description.preprocessing,
        postprocessing=(ArrayOutput(tensor="logits"),),
    )
    with pytest.raises(ConfigError, match="raw is not a network from one image to one mask"):
        evaluate(Loud(), dataset.samples, raw)


def test_a_threshold_finds_what_is_plainly_darker(dataset):
    assert threshold_baseline(dataset) > 95


def test_a_threshold_finds_what_is_plainly_brighter(dataset):
    for sample in dataset.samples:
        cv2.imwrite(str(sample.image), 255 - sample.read_image())
    assert threshold_baseline(dataset) > 95


def test_a_threshold_learns_nothing_from_calib(dataset):
    for sample in dataset.split("calib"):
        cv2.imwrite(str(sample.image), 255 - sample.read_image())
    assert threshold_baseline(dataset) < 60


def test_a_threshold_needs_a_lesion_to_learn_from(dataset):
    for sample in dataset.split("train"):
        cv2.imwrite(str(sample.mask), np.zeros((64, 48), np.uint8))
    with pytest.raises(DataError, match="none of the 4 images shows a lesion"):
        threshold_baseline(dataset)
