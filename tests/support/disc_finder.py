"""A float model that finds bright discs, and images of such discs: made in a second, no training.

The network is a mean of 3 x 3 pixels, a ReLU and a gain: a pixel is foreground where its
surroundings are brighter than half of white.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from asdic.contract.variant import ImageInput, MaskOutput, TensorSpec
from asdic.training.description import ModelDescription, write_description

SIDE: Final = 32
CHANNELS: Final = 8
GAIN: Final = 16.0
TRAIN, WITH_DISC, WITHOUT = 40, 34, 6


class DiscFinder(nn.Module):
    """Takes (1, 1, H, W) in [0, 1] and returns logits (1, 1, H, W)."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.gain = nn.Conv2d(CHANNELS, 1, 1)
        random = np.random.default_rng(0)
        share = torch.from_numpy(random.uniform(0.5, 1.5, CHANNELS).astype(np.float32))
        with torch.no_grad():
            self.mean.weight.copy_(share.view(-1, 1, 1, 1).expand(CHANNELS, 1, 3, 3) / 9)
            self.mean.bias.zero_()
            self.gain.weight.copy_((GAIN / CHANNELS / share).view(1, -1, 1, 1))
            self.gain.bias.fill_(-GAIN / 2)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of ``image``."""
        logits: Tensor = self.gain(torch.relu(self.mean(image)))
        return logits


class WithOperator(nn.Module):
    """A disc finder that ends in an operator which no INT8 runtime has."""

    def __init__(self) -> None:
        super().__init__()
        self.finder = DiscFinder()

    def forward(self, image: Tensor) -> Tensor:
        """Return the Bessel function of the logits."""
        logits: Tensor = torch.special.bessel_j0(self.finder(image))
        return logits


def example() -> Tensor:
    """Return an input of the size that the networks here take."""
    return torch.zeros(1, 1, SIDE, SIDE)


def description_of(data: Path | None = None) -> ModelDescription:
    """Return the description of the networks here."""
    return ModelDescription(
        name="discs",
        task="segmentation",
        weights="model.pt2",
        data=str(data or ""),
        inputs=(TensorSpec(name="image", shape=(1, 1, SIDE, SIDE)),),
        outputs=(TensorSpec(name="logits", shape=(1, 1, SIDE, SIDE)),),
        preprocessing=(ImageInput(tensor="image", height=SIDE, width=SIDE),),
        postprocessing=(MaskOutput(tensor="logits"),),
    )


def write_run(folder: Path, data: Path, network: nn.Module | None = None) -> Path:
    """Write a training run's folder and return it."""
    folder.mkdir(parents=True)
    program = torch.export.export((network or DiscFinder()).eval(), (example(),))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, folder / "model.pt2")
    write_description(folder, description_of(data))
    return folder


def write_discs(folder: Path, *, masks: bool = True) -> Path:
    """Write 40 images to calibrate and 40 to judge, 6 of these without a disc."""
    random = np.random.default_rng(7)
    rows = ["file,mask,split"]
    for number in range(TRAIN + WITH_DISC + WITHOUT):
        image, mask = _disc(random, empty=number >= TRAIN + WITH_DISC)
        name = f"{number:02}.png"
        _write_png(folder / "images" / name, image)
        _write_png(folder / "masks" / name, mask * np.uint8(255))
        split = "train" if number < TRAIN else "calib"
        rows.append(f"images/{name},{f'masks/{name}' if masks else ''},{split}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


def _disc(
    random: np.random.Generator, *, empty: bool
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    row, column = random.uniform(SIDE / 3, 2 * SIDE / 3, 2)
    radius = 0.0 if empty else random.uniform(5, 9)
    mask = (np.hypot(rows - row, columns - column) < radius).astype(np.uint8)
    grey = np.where(mask, 0.7, 0.25) + random.normal(0, 0.08, (SIDE, SIDE))
    return (np.clip(grey, 0, 1) * 255).astype(np.uint8), mask


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), pixels):
        raise OSError(f"cannot write {path}")
