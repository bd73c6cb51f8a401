"""Networks that are small enough for an edge box and made of what quantizes well.

Only convolution with batch normalization (folded at export), ReLU, max-pooling, nearest
upsampling and concatenation: every INT8 runtime that asdic targets has integer kernels for these.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor, nn

from asdic.contract.errors import ConfigError

WIDTHS: Final = (8, 16, 24, 32, 48)
"""Channels from the full resolution down to a sixteenth of it; about 120,000 parameters."""

BACKGROUND_LOGIT: Final = -2.5


class UNet(nn.Module):
    """A U-Net (Ronneberger et al., MICCAI 2015) without transposed convolutions.

    Takes (N, 1, H, W) float32 and returns the logits (N, 1, H, W); H and W are multiples of
    ``stride``.
    """

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        self.stride = 2 ** (len(widths) - 1)
        self.down = nn.ModuleList(_block(before, after) for before, after in pairwise((1, *widths)))
        self.up = nn.ModuleList(
            _block(below + beside, beside) for beside, below in reversed(list(pairwise(widths)))
        )
        self.pool = nn.MaxPool2d(2)
        self.enlarge = nn.Upsample(scale_factor=2, mode="nearest")
        self.head = nn.Conv2d(widths[0], 1, kernel_size=1)
        # Most pixels are background: beginning there saves the first epochs.
        self.head.bias = nn.Parameter(torch.tensor([BACKGROUND_LOGIT]))

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of ``image``."""
        features = image
        beside: list[Tensor] = []
        for number, block in enumerate(self.down):
            features = block(self.pool(features) if number else features)
            beside.append(features)
        for block, skipped in zip(self.up, reversed(beside[:-1]), strict=True):
            features = block(torch.cat([self.enlarge(features), skipped], dim=1))
        logits: Tensor = self.head(features)
        return logits


def small_unet(*, size: tuple[int, int] | None = None) -> UNet:
    """Return a new network with random weights (from torch's global generator).

    Args:
        size: Height and width that it will be used with, to be checked.

    Raises:
        ConfigError: A side is too small, or not a multiple of the network's stride.
    """
    network = UNet()
    fits = size is None or (
        min(size) >= 2 * network.stride and not any(side % network.stride for side in size)
    )
    if not fits:
        raise ConfigError(
            f"an input of {size} pixels does not fit the network; both sides must be multiples of "
            f"{network.stride}, at least {2 * network.stride}"
        )
    return network


def parameter_count(network: nn.Module) -> int:
    """Return how many numbers the network learns."""
    return sum(parameter.numel() for parameter in network.parameters())


def _block(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(*_convolution(before, after), *_convolution(after, after))


def _convolution(before: int, after: int) -> tuple[nn.Module, ...]:
    # The normalization has a bias of its own.
    convolution = nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(after), nn.ReLU()
