"""Samples that show the same, found by what they look like."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from asdic.training.data import Dataset, read_dataset
from asdic.training.duplicates import (
    Likeness,
    Pair,
    is_constant,
    overlaps,
    resembling_groups,
    signature_of,
)
from asdic.training.phantom import make_phantoms
from tests.support.disc_finder import write_discs


def _scan(number: int, side: int = 96) -> NDArray[np.uint8]:
    """Return a picture of speckle with some structure, another one for each number."""
    random = np.random.default_rng(number)
    noise = random.normal(size=(side, side)).astype(np.float32)
    field = 6 * cv2.GaussianBlur(noise, (0, 0), side / 24) + 0.15 * noise
    return np.clip(128 + 60 * field, 0, 255).astype(np.uint8)


def _alike(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> list[Pair]:
    return overlaps([signature_of({"": first})], [signature_of({"": second})])


@pytest.mark.parametrize(
    "changed",
    [
        lambda scan: cv2.resize(scan, (200, 180), interpolation=cv2.INTER_LINEAR),
        lambda scan: (scan * 0.7 + 20).astype(np.uint8),
        lambda scan: scan[1:-1, 1:-1],
        lambda scan: np.repeat(scan[:, :, None], 3, axis=2),
        lambda scan: np.where(np.random.default_rng(0).random(scan.shape) < 0.02, 255, scan),
    ],
    ids=["another size", "another gain", "cropped", "in color", "with salt"],
)
def test_an_image_that_was_changed_a_little_is_the_same(changed) -> None:
    scan = _scan(1)
    (pair,) = _alike(scan, np.ascontiguousarray(changed(scan), np.uint8))
    assert pair.likeness is Likeness.SAME


def test_images_of_the_same_kind_are_not_the_same() -> None:
    left, right = ([signature_of({"": _scan(n)}) for n in range(s, s + 50)] for s in (0, 100))
    assert overlaps(left, right) == []


def test_the_most_alike_is_the_one_that_is_named() -> None:
    scan = _scan(1)
    darker = np.clip(scan + np.random.default_rng(0).normal(0, 15, scan.shape), 0, 255)
    right = [signature_of({"": one}) for one in (_scan(2), darker.astype(np.uint8), scan)]
    (pair,) = overlaps([signature_of({"": scan})], right)
    assert pair.second == 2
    assert pair.correlation == pytest.approx(1.0)


def test_the_demos_phantoms_all_differ(tmp_path: Path) -> None:
    looks = make_phantoms(tmp_path / "p", count=24, seed=0).looks
    assert len(set(resembling_groups([look.signature for look in looks]).tolist())) == 24


def test_discs_on_noise_all_differ(tmp_path: Path) -> None:
    looks = read_dataset(write_discs(tmp_path)).looks
    assert len(set(resembling_groups([look.signature for look in looks]).tolist())) == len(looks)


def test_a_sweep_is_one_group_though_its_ends_differ() -> None:
    wide = np.asarray(_scan(3, side=192))
    frames = [np.ascontiguousarray(wide[:, n : n + 128]) for n in range(0, 64, 2)]
    assert not _alike(frames[0], frames[-1])
    assert len(set(resembling_groups([signature_of({"": one}) for one in frames]).tolist())) == 1


@pytest.fixture(scope="module")
def busi(shared_data: Path) -> Dataset:
    """Real images, of which those that show the same are marked by their group."""
    return read_dataset(shared_data / "busi")


def test_marked_groups_of_real_images_are_kept_together(busi: Dataset) -> None:
    found = resembling_groups([look.signature for look in busi.looks]).tolist()
    together: dict[str, set[int]] = {}
    for sample, group in zip(busi.samples, found, strict=True):
        together.setdefault(sample.group, set()).add(group)
    apart = sum(len(one) > 1 for one in together.values())
    assert apart <= 0.01 * len(together)


def test_real_images_of_different_groups_are_never_surely_the_same(busi: Dataset) -> None:
    sides = [
        [
            look.signature
            for one, look in zip(busi.samples, busi.looks, strict=True)
            if one.split == s
        ]
        for s in ("train", "calib")
    ]
    assert {pair.likeness for pair in overlaps(*sides)} == {Likeness.ALIKE}


def test_arrays_that_differ_by_gain_are_the_same_and_noisy_ones_are_not() -> None:
    random = np.random.default_rng(0)
    volume = random.normal(size=(12, 20, 20))
    right = [signature_of({"x": one}) for one in (3 * volume + 1, volume + random.normal(size=1))]
    noisy = signature_of({"x": volume + 0.2 * random.normal(size=volume.shape)})
    assert len(overlaps([signature_of({"x": volume})], right)) == 1
    assert overlaps([signature_of({"x": volume})], [noisy]) == []


def test_large_volumes_are_pooled() -> None:
    signature = signature_of({"x": np.random.default_rng(0).normal(size=(40, 50, 60))})
    assert signature is not None
    assert 512 <= signature.whole.size <= 1024


def test_arrays_of_another_shape_are_not_compared() -> None:
    ones = np.random.default_rng(0).normal(size=(16, 16))
    left, right = signature_of({"x": ones}), signature_of({"x": ones.reshape(8, 32)})
    assert overlaps([left], [right]) == []


def test_a_few_features_are_too_little_to_compare() -> None:
    assert signature_of({"x": np.array([1.0, 2.0, 4.0])}) is None


@pytest.mark.parametrize(
    ("array", "constant"),
    [
        (np.zeros((4, 4), np.uint8), True),
        (np.full((64, 64), 17, np.uint8) + np.eye(64, dtype=np.uint8), True),
        (np.eye(8, dtype=np.uint8) * np.uint8(255), False),
        (np.tile(np.array([255, 0, 0], np.uint8), (4, 4, 1)), True),
        (np.full((3, 3), 2.5), True),
        (np.array([1.0, 1.1]), False),
    ],
)
def test_what_shows_nothing_is_constant(array: NDArray[np.generic], constant: bool) -> None:
    assert is_constant({"x": array}) is constant
