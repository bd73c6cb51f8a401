"""Small models of every kind that asdic reads, made in a second or two."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
import torch
from numpy.typing import NDArray
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


class Named(nn.Module):
    """Takes an image and answers a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.finder = DiscFinder()

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the logits of a mask, and their mean."""
        logits = self.finder(image)
        return {"lesion": logits, "quality": logits.mean((2, 3))}


def make_named() -> nn.Module:
    """Return a model that names its outputs."""
    return Named()


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


def write_graph(
    path: Path,
    nodes: Sequence[Any],
    weights: Mapping[str, NDArray[Any]],
    *,
    shape: Sequence[int] = (1, 2, 8, 8),
    outputs: Mapping[str, int | None] = MappingProxyType({"y": 4}),
    kind: int = onnx.TensorProto.FLOAT,
    opset: int = 18,
) -> Path:
    """Write an ONNX file with one input, ``x``, and outputs (name: rank) of open shapes.

    One whose rank is None has no shape at all, which ONNX Runtime takes and ONNX's checker does
    not.
    """
    info, number = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        list(nodes),
        "graph",
        [info("x", number, list(shape))],
        [
            info(name, kind, None if rank is None else [f"{name}_{side}" for side in range(rank)])
            for name, rank in outputs.items()
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    domains = {one.domain for one in nodes} - {""}
    opsets = [onnx.helper.make_opsetid("", opset)]
    opsets += [onnx.helper.make_opsetid(domain, 1) for domain in domains]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    """Return an ONNX node."""
    return onnx.helper.make_node(kind, inputs, outputs, **attributes)
