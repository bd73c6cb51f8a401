"""Images and masks as tensors for torch, and how they are varied while fitting."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from asdic.contract.errors import DataError
from asdic.contract.variant import ImageInput
from asdic.device.runner.preprocess import prepare_image
from asdic.training.data import Sample

PIXELS_LIMIT: Final = 1 << 29
"""What is held in memory at most: 2 GiB of images and as much of masks."""

ZOOM: Final = (0.8, 1.25)
SHIFT: Final = 0.2
GAMMA: Final = (0.8, 1.25)
GAIN: Final = (0.85, 1.15)
OFFSET: Final = 0.08


@dataclass(frozen=True, eq=False)
class Batch:
    """Images (N, 1, H, W) as the runner prepares them, and their masks of 0 and 1, float32."""

    images: Tensor
    masks: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def shuffled(self, size: int, generator: Generator) -> Iterator[Batch]:
        """Yield all images once in random order, ``size`` at a time."""
        for chosen in torch.split(torch.randperm(len(self), generator=generator), size):
            yield Batch(self.images[chosen], self.masks[chosen])

    def parts(self, size: int) -> Iterator[Batch]:
        """Yield all images once in their order, ``size`` at a time."""
        for begin in range(0, len(self), size):
            yield Batch(self.images[begin : begin + size], self.masks[begin : begin + size])


def load_batch(samples: Sequence[Sample], rule: ImageInput) -> Batch:
    """Return ``samples`` in the size of the network's input.

    Raises:
        DataError: A sample has no mask, a file is unreadable, or memory would not hold them all.
    """
    if len(samples) * rule.height * rule.width > PIXELS_LIMIT:
        raise DataError(
            f"{len(samples)} images of {rule.height}x{rule.width} are more than asdic fits at "
            f"once; use fewer or smaller ones"
        )
    unlabelled = [sample.name for sample in samples if sample.mask is None]
    if unlabelled:
        raise DataError(
            f"{len(unlabelled)} of {len(samples)} images have no mask to learn from, "
            f"such as {unlabelled[0]}"
        )
    images = np.concatenate([prepare_image(sample.read_image(), rule) for sample in samples])
    masks = np.stack([_mask_of(sample, rule) for sample in samples])
    return Batch(torch.from_numpy(images), torch.from_numpy(masks))


def varied(batch: Batch, generator: Generator) -> Batch:
    """Return ``batch`` with random flips, zooms, shifts, gain and gamma, on the same device.

    What comes in from beyond the border is mirrored, in image and mask alike.
    """
    count = len(batch)
    zoom = _uniform(count, ZOOM, generator)
    flip = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1
    transform = torch.zeros(count, 2, 3)
    transform[:, 0, 0] = zoom * flip
    transform[:, 1, 1] = zoom
    transform[:, :, 2] = (torch.rand(count, 2, generator=generator) * 2 - 1) * SHIFT
    grid = functional.affine_grid(transform, list(batch.images.shape), align_corners=False)
    grid = grid.to(batch.images.device)
    images = _sampled(batch.images, grid, "bilinear")
    masks = _sampled(batch.masks, grid, "nearest")
    return Batch(_toned(images, generator), masks)


def _sampled(values: Tensor, grid: Tensor, mode: str) -> Tensor:
    return functional.grid_sample(
        values, grid, mode=mode, padding_mode="reflection", align_corners=False
    )


def _toned(images: Tensor, generator: Generator) -> Tensor:
    """Change gamma, gain and offset of images in [0, 1], as the knobs of a scanner do."""
    gamma, gain, offset = (
        _uniform(len(images), ends, generator)[:, None, None, None].to(images.device)
        for ends in (GAMMA, GAIN, (-OFFSET, OFFSET))
    )
    return (images.clamp(0, 1) ** gamma * gain + offset).clamp(0, 1)


def _uniform(count: int, ends: tuple[float, float], generator: Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (ends[1] - ends[0]) + ends[0]


def _mask_of(sample: Sample, rule: ImageInput) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    mask = sample.read_mask()
    if mask is None:
        raise DataError(f"{sample.name} has no mask")
    size = (rule.width, rule.height)
    return cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)[None].astype(np.float32)
