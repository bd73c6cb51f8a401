"""Small models of every kind that asdic reads, made in a second or two."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from tests.support.disc_finder import SIDE, DiscFinder


class TwoInputs(nn.Module):
    """Takes an image and one number, and answers a mask and scores."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.finder = DiscFinder()
        self.head = nn.Linear(SIDE * SIDE, 3)

    def forward(self, image: Tensor, gain: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of a mask, and those of three classes."""
        logits = self.finder(image)
        return logits * gain.reshape(1, 1, 1, 1), self.head(logits.flatten(1))


class Clip(nn.Module):
    """Takes a clip of eight frames, (1, 1, 8, 16, 16), and answers four scores."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv3d(1, 4, 3, padding=1)
        self.head = nn.Linear(4, 4)

    def forward(self, clip: Tensor) -> Tensor:
        """Return the scores of a clip."""
        scores: Tensor = self.head(torch.relu(self.conv(clip)).mean(dim=(2, 3, 4)))
        return scores


def make_discs() -> nn.Module:
    """Return a disc finder: a factory, as users have them."""
    return DiscFinder()


def write_onnx(path: Path, network: nn.Module, *, open_sides: bool = False) -> Path:
    """Write an ONNX file; its batch is open, and with ``open_sides`` height and width as well."""
    sides = {0: torch.export.Dim("batch", max=8)}
    if open_sides:
        sides |= {2: torch.export.Dim("height", min=16, max=512)}
        sides |= {3: torch.export.Dim("width", min=16, max=512)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(),
            (torch.zeros(2, 1, SIDE, SIDE),),
            path,
            dynamo=True,
            opset_version=18,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=(sides,),
            external_data=False,
            verbose=False,
        )
    return path


def write_program(path: Path, network: nn.Module, *examples: Tensor, **options: Any) -> Path:
    """Write an exported program."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(network.eval(), examples, **options), path)
    return path


def with_external_weights(path: Path, location: str) -> Path:
    """Write the model at ``path`` again, as if its first weight lay in another file."""
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    path.write_bytes(model.SerializeToString())
    return path
