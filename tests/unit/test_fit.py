from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.variant import ImageInput
from asdic.training.batches import Batch, load_batch, varied
from asdic.training.data import read_dataset
from asdic.training.fit import fit, segmentation_loss
from asdic.training.models import parameter_count, small_unet
from asdic.training.phantom import make_phantoms

SIZE = (32, 32)
RULE = ImageInput(tensor="image", height=32, width=32)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    return make_phantoms(tmp_path_factory.mktemp("data") / "p", count=24, seed=1, size=(48, 48))


def weights_of(result):
    return torch.cat([value.float().ravel() for value in result.network.state_dict().values()])


def test_the_network_has_about_a_hundred_thousand_parameters():
    assert 80_000 < parameter_count(small_unet()) < 130_000


def test_the_network_answers_in_the_size_of_its_input():
    with torch.inference_mode():
        assert small_unet().eval()(torch.zeros(2, 1, 48, 64)).shape == (2, 1, 48, 64)


@pytest.mark.parametrize("size", [(16, 128), (128, 100), (0, 0)])
def test_an_input_that_does_not_fit_the_network_is_refused(size):
    with pytest.raises(ConfigError, match="multiples of 16, at least 32"):
        small_unet(size=size)


def test_a_batch_holds_what_the_runner_prepares(phantoms):
    batch = load_batch(phantoms.samples[:3], RULE)
    assert batch.images.shape == batch.masks.shape == (3, 1, 32, 32)
    assert 0 <= batch.images.min() < batch.images.max() <= 1
    assert set(batch.masks.unique().tolist()) <= {0, 1}


def test_images_without_masks_cannot_be_learnt_from(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 32), np.uint8))
    with pytest.raises(
        DataError, match=r"1 of 1 images have no mask to learn from, such as a\.png"
    ):
        load_batch(read_dataset(tmp_path).samples, RULE)


def test_more_images_than_memory_are_refused(phantoms):
    rule = ImageInput(tensor="image", height=16384, width=16384)
    with pytest.raises(DataError, match="use fewer or smaller ones"):
        load_batch(phantoms.samples, rule)


def test_variation_moves_image_and_mask_together():
    masks = torch.zeros(8, 1, 32, 32)
    masks[:, :, 6:20, 4:16] = 1
    found = varied(Batch(masks * 0.5 + 0.25, masks), torch.Generator().manual_seed(0))
    inside, outside = found.images[found.masks == 1], found.images[found.masks == 0]
    assert inside.mean() > outside.mean() + 0.3
    assert not torch.equal(found.masks, masks)


def test_the_loss_is_least_for_the_right_answer():
    masks = torch.zeros(2, 1, 8, 8)
    masks[0, :, :4] = 1
    right, unsure, wrong = (
        float(segmentation_loss(sign * 20 * (masks - 0.5), masks)) for sign in (1, 0, -1)
    )
    assert right == pytest.approx(0, abs=0.01)
    assert right < unsure < wrong


def test_fitting_lowers_the_loss(phantoms):
    result = fit(phantoms, size=SIZE, epochs=4)
    assert result.epochs[-1].loss < result.epochs[0].loss - 0.05


def test_the_same_seed_fits_the_same_network(phantoms):
    first, again, other = (fit(phantoms, size=SIZE, epochs=1, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(weights_of(first), weights_of(again))
    assert not torch.equal(weights_of(first), weights_of(other))


def test_fitting_leaves_the_random_numbers_of_others_alone(phantoms):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    fit(phantoms, size=SIZE, epochs=1, seed=9)
    assert torch.equal(torch.rand(1), expected)


def test_the_best_epoch_is_kept(phantoms):
    result = fit(phantoms, size=SIZE, epochs=3)
    assert result.best.dice == max(epoch.dice for epoch in result.epochs)
    assert not result.network.training


def test_calib_is_never_learnt_from(phantoms):
    result = fit(phantoms, size=SIZE, epochs=1)
    assert result.fitted + result.held_back == len(phantoms.split("train"))
    assert result.held_back > 0


def test_no_epoch_begins_after_the_time_given(phantoms):
    epochs = []
    fit(phantoms, size=SIZE, epochs=50, seconds=0, progress=lambda *told: epochs.append(told[1]))
    assert epochs == [50]


def test_one_group_of_images_is_too_few(tmp_path):
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(tmp_path / name), np.zeros((32, 32), np.uint8))
    (tmp_path / "labels.csv").write_text("file,group,split\na.png,1,train\nb.png,1,train\n")
    with pytest.raises(DataError, match="images of two groups at least, there is 1"):
        fit(read_dataset(tmp_path), size=SIZE, epochs=1)


@pytest.mark.parametrize("device", ["abacus", "meta:99999999999"])
def test_a_device_that_torch_does_not_have_is_named(phantoms, device):
    with pytest.raises(ConfigError, match=f"torch cannot compute on '{device}'"):
        fit(phantoms, size=SIZE, epochs=1, device=device)


def test_training_needs_an_epoch(phantoms):
    with pytest.raises(ConfigError, match="at least one epoch, not 0"):
        fit(phantoms, size=SIZE, epochs=0)


def test_training_further_needs_a_run(phantoms, tmp_path):
    with pytest.raises(ConfigError, match=r"no weights to begin with \(weights\.pt is missing\)"):
        fit(phantoms, size=SIZE, epochs=1, initial=tmp_path)
