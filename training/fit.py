"""Fitting a network to the ``train`` split; the ``calib`` split is never looked at.

The same data, size, epochs and seed give the same network on the same machine with the same
number of threads, unless ``seconds`` cuts the run short.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from asdic.contract.errors import ConfigError, DataError
from asdic.contract.variant import ImageInput, MaskOutput
from asdic.device.metrics import dice
from asdic.device.runner.postprocess import mask_of
from asdic.training.batches import Batch, load_batch, varied
from asdic.training.data import Dataset, Sample
from asdic.training.export import read_weights
from asdic.training.models import UNet, small_unet
from asdic.training.splits import hashed_share

BATCH: Final = 8
LEARNING_RATE: Final = 4e-3
RESUMED_RATE: Final = 0.3
"""What a network that has learnt already gets of the learning rate, not to lose its place."""

WEIGHT_DECAY: Final = 1e-3
WARM_UP: Final = 0.1
HELD_BACK: Final = 0.15
"""The share of the groups in ``train`` that chooses the best epoch and is not learnt from."""

IMAGES_SEEN: Final = 8_000
EPOCHS: Final = (10, 60)

Progress = Callable[["Epoch", int], None]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One pass over the images: its mean loss, and the Dice (points) on those held back."""

    number: int
    loss: float
    dice: float


@dataclass(frozen=True, kw_only=True)
class FitResult:
    """The network of the best epoch, ready for inference on the CPU, and how it came about."""

    network: UNet
    best: Epoch
    epochs: tuple[Epoch, ...]
    seconds: float
    fitted: int
    held_back: int


def fit(
    dataset: Dataset,
    *,
    size: tuple[int, int],
    epochs: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    initial: Path | None = None,
    seconds: float | None = None,
    progress: Progress | None = None,
) -> FitResult:
    """Return a segmentation network that was fitted to the ``train`` split.

    The loss is binary cross-entropy plus soft Dice (F. Milletari et al., 3DV 2016); the optimizer
    is AdamW with a warm-up and a cosine.

    Args:
        dataset: Images with masks.
        size: Height and width of the network's input.
        epochs: How many; by default so many that about ``IMAGES_SEEN`` images are seen.
        seed: Of weights, order and variation.
        device: Where torch computes, such as ``cpu`` or ``cuda``.
        initial: The folder of a run whose weights to begin with; they are random without it.
        seconds: No epoch begins after so long; the result then depends on the machine.
        progress: Called after each epoch, with the number of epochs that there will be.

    Raises:
        DataError: There are too few images, or some without a mask.
        ConfigError: Size, epochs, device or initial weights do not fit.
    """
    began = time.monotonic()
    place = _device_named(device)
    learnt, held = _hold_back(dataset.split("train"))
    total = _default_epochs(len(learnt)) if epochs is None else epochs
    if total < 1:
        raise ConfigError(f"training needs at least one epoch, not {total}")
    network = _first_network(size, seed, initial)
    rule = ImageInput(tensor="image", height=size[0], width=size[1])
    fitting = _Fitting(
        network.to(place),
        load_batch(learnt, rule),
        load_batch(held, rule),
        epochs=total,
        rate=LEARNING_RATE * (1 if initial is None else RESUMED_RATE),
        seed=seed,
    )
    history: list[Epoch] = []
    for number in range(1, total + 1):
        history.append(fitting.run_epoch(number))
        if progress:
            progress(history[-1], total)
        if seconds is not None and time.monotonic() - began > seconds:
            break
    return FitResult(
        network=fitting.best_network(),
        best=max(history, key=lambda epoch: epoch.dice),
        epochs=tuple(history),
        seconds=time.monotonic() - began,
        fitted=len(learnt),
        held_back=len(held),
    )


class _Fitting:
    """A network on its way: optimizer, learning rate, and the best weights so far."""

    def __init__(
        self, network: UNet, learnt: Batch, held: Batch, *, epochs: int, rate: float, seed: int
    ) -> None:
        self._network = network
        self._device = next(network.parameters()).device
        self._learnt = learnt
        self._held = held
        self._generator = torch.Generator().manual_seed(seed)
        steps = epochs * math.ceil(len(learnt) / BATCH)
        self._optimizer = AdamW(network.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
        self._schedule = LambdaLR(self._optimizer, lambda step: _rate(step / steps))
        self._best_dice = -1.0
        self._best_weights: dict[str, Tensor] = {}

    def run_epoch(self, number: int) -> Epoch:
        """Learn from every image once, then look at those held back."""
        self._network.train()
        losses = [self._learn(batch) for batch in self._learnt.shuffled(BATCH, self._generator)]
        found = self._held_back_dice()
        if found > self._best_dice:
            self._best_dice = found
            self._best_weights = copy.deepcopy(self._network.state_dict())
        return Epoch(number=number, loss=float(np.mean(losses)), dice=found)

    def best_network(self) -> UNet:
        """Return the network of the best epoch."""
        self._network.load_state_dict(self._best_weights)
        return self._network.to("cpu").eval()

    def _learn(self, batch: Batch) -> float:
        batch = varied(self._moved(batch), self._generator)
        loss = segmentation_loss(self._network(batch.images), batch.masks)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        self._optimizer.step()
        self._schedule.step()
        return float(loss.detach())

    @torch.inference_mode()
    def _held_back_dice(self) -> float:
        self._network.eval()
        rule = MaskOutput(tensor="logits")
        points = []
        for batch in self._held.parts(BATCH):
            logits = self._network(self._moved(batch).images).cpu().numpy()
            masks = batch.masks.numpy().astype(np.uint8)
            points += [
                dice(mask_of(one[None], rule), mask[0])
                for one, mask in zip(logits, masks, strict=True)
            ]
        return float(np.mean(points))

    def _moved(self, batch: Batch) -> Batch:
        # Channels last halves the time of convolutions with so few channels on a CPU.
        images = batch.images.to(self._device, memory_format=torch.channels_last)
        return Batch(images, batch.masks.to(self._device))


def segmentation_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Return binary cross-entropy plus one minus the mean soft Dice of the images.

    Args:
        logits: (N, 1, H, W) float32.
        masks: (N, 1, H, W) float32, 0 or 1.
    """
    axes = (1, 2, 3)
    probability = torch.sigmoid(logits)
    overlap = (probability * masks).sum(axes)
    # The 1 makes an image without a lesion count: it is right where nothing is found.
    ratio = (2 * overlap + 1) / (probability.sum(axes) + masks.sum(axes) + 1)
    return functional.binary_cross_entropy_with_logits(logits, masks) + 1 - ratio.mean()


def _rate(done: float) -> float:
    """Return the learning rate, as a share of its peak, when ``done`` of the steps are done."""
    if done < WARM_UP:
        return (done + 0.01) / (WARM_UP + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))


def _default_epochs(images: int) -> int:
    return min(max(IMAGES_SEEN // images, EPOCHS[0]), EPOCHS[1])


def _hold_back(samples: Sequence[Sample]) -> tuple[list[Sample], list[Sample]]:
    groups = {sample.group for sample in samples}
    if len(groups) < 2:
        raise DataError(f"training needs images of two groups at least, there is {len(groups)}")
    held = hashed_share(groups, HELD_BACK, salt="held back:")
    return (
        [sample for sample in samples if sample.group not in held],
        [sample for sample in samples if sample.group in held],
    )


def _first_network(size: tuple[int, int], seed: int, initial: Path | None) -> UNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = small_unet(size=size)
    if initial is not None:
        read_weights(network, initial)
    return network


def _device_named(name: str) -> torch.device:
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"torch cannot compute on {name!r}: {reason}") from error
