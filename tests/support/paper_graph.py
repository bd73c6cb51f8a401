"""A graph on paper: what each layer answers is a function of the input, without any file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from asdic.quantization.graphs.graph import Codes, Layer, Tensors

Answer = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class PaperGraph:
    """Takes one input, ``x``, of 16 numbers.

    Args:
        answers: What each layer answers, in order.
        codes: How a layer's answer is stored; float where it is not named. Answers are rounded.
        weights: Of the layers that have any.
    """

    def __init__(
        self,
        answers: Mapping[str, Answer],
        *,
        codes: Mapping[str, Codes] | None = None,
        weights: Mapping[str, Sequence[float]] | None = None,
    ) -> None:
        self._answers, self._codes, self._weights = answers, codes or {}, weights or {}
        self.layers = tuple(
            Layer(name=name, kind="conv", shape=(16,), codes=self._codes.get(name))
            for name in answers
        )

    def run(self, tensors: Tensors) -> dict[str, NDArray[np.float32]]:
        """Return what every layer answers."""
        return {
            name: self._rounded(name, answer(tensors["x"]))
            for name, answer in self._answers.items()
        }

    def weights(self, layer: str) -> NDArray[np.float32] | None:
        """Return a layer's weights, or None."""
        found = self._weights.get(layer)
        return None if found is None else np.array(found, np.float32)

    def close(self) -> None:
        """Do nothing."""

    def _rounded(self, name: str, values: NDArray[np.float32]) -> NDArray[np.float32]:
        codes = self._codes.get(name)
        if codes is None:
            return values
        return np.asarray((codes.of(values) - codes.zero_point) * codes.scale, np.float32)


def codes_of(scale: float, zero_point: int = 0, *, low: int = -128, high: int = 127) -> Codes:
    """Return codes with one scale for all."""
    return Codes(scale=np.array(scale), zero_point=np.array(float(zero_point)), low=low, high=high)
