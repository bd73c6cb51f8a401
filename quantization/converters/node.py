"""One node of an ONNX graph, as the words for it in torch ask for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from asdic.contract.errors import UnsupportedModelError

Operator: TypeAlias = Callable[..., Tensor | tuple[Tensor, ...]]
"""Takes the node and its inputs, None for those left out, and returns its outputs."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """One node: its operator, its attributes, and those of its inputs that are constants."""

    kind: str
    name: str
    opset: int
    attributes: Mapping[str, Any]
    constants: Sequence[NDArray[Any] | None]

    def get(self, attribute: str, default: Any = None) -> Any:
        """Return an attribute, or its default."""
        return self.attributes.get(attribute, default)

    def numbers(self, place: int, attribute: str = "") -> list[Any] | None:
        """Return the constant input at ``place``, or the attribute that it once was, as a list.

        Raises:
            UnsupportedModelError: It is computed by the model.
        """
        if attribute in self.attributes:
            return list(self.attributes[attribute])
        if place >= len(self.constants):
            return None
        constant = self.constants[place]
        if constant is None:
            raise self.refused(f"computes its input {place} anew for every image")
        return list(np.atleast_1d(constant).tolist()) if constant.size else []

    def refused(self, why: str) -> UnsupportedModelError:
        """Return the error for what is not here."""
        return UnsupportedModelError(
            f"asdic cannot bring ONNX's {self.kind} (the node {self.name!r}) to LiteRT: it {why}; "
            "change it, give the torch model (.pt2, .pt), or choose a target of OpenVINO or Jetson"
        )
