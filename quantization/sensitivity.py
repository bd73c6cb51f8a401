"""Which layers cost a model most when they are INT8, measured at its outputs.

A layer's sensitivity is the noise at the outputs with that layer alone in INT8. (Leaving it float
alone asks for the small difference of two large noises, which partly cancel: on 16 samples that
ranked by chance.) Measuring every layer would take one quantization each, so all are ranked
first by the noise that INT8 adds in the layer itself, and only the noisiest are measured, on
few samples, with statistics taken once. A guess remains: a layer that is quiet itself, but whose
noise the layers behind it amplify, may be passed over in a large network.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import QuantizationError
from asdic.contract.target import ModelFormat
from asdic.device.metrics import decibel
from asdic.device.runner.engine import open_engine
from asdic.quantization.backends.backend import FloatFiles, Tensors, Write
from asdic.quantization.graphs.graph import Graph, Layer, open_graph
from asdic.quantization.kinds import RUNTIMES

FEWEST: Final = 12
MOST: Final = 48
"""How many layers are measured, the noisiest first: ``FEWEST``, and then on until those measured
explain ``EXPLAINED`` of the noise with all in INT8, or there are ``MOST``."""

EXPLAINED: Final = 0.8
SAMPLES: Final = 16
"""How many calibration inputs calibrate; as many are asked, or fewer (at least
``FEWEST_SAMPLES``) where an answer has many values."""

FEWEST_SAMPLES: Final = 4
_ENOUGH_VALUES: Final = 1 << 16
_LOOKED_AT: Final = 2
_QUIETEST_DB: Final = 200.0
_SILENCE: Final = 10 ** (-_QUIETEST_DB / 10)
_THREADS: Final = 2


class Sensitivity(msgspec.Struct, frozen=True, kw_only=True):
    """What a layer does to the outputs: their SQNR in dB with ``layer`` alone in INT8.

    ``noise_share`` is its share, 0 to 1, of the noise of all layers that were measured: noises of
    different layers add up, so that much goes away if it stays float.
    """

    layer: str
    sqnr_db: float
    noise_share: float


class Sensitivities(msgspec.Struct, frozen=True, kw_only=True):
    """The layers that were measured, the most sensitive first, of ``layers`` that are INT8.

    ``sqnr_db`` is that of the outputs with none of them float, by ``samples`` inputs.
    """

    measured: tuple[Sensitivity, ...]
    layers: int
    sqnr_db: float
    samples: int
    files: tuple[str, ...] = ()

    def first(self, count: int) -> tuple[str, ...]:
        """Return the names of the ``count`` most sensitive layers."""
        return tuple(one.layer for one in self.measured[:count])


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """One model of one format, its float files in ``source``, and ``write`` to quantize it."""

    model: FloatFiles
    source: Path
    model_format: ModelFormat
    samples: Sequence[Tensors]
    write: Write

    def sensitivities(self, folder: Path) -> Sensitivities:
        """Measure in ``folder``, where nothing is left.

        Raises:
            QuantizationError: A tool failed, or the INT8 model has no layer in INT8.
        """
        floats = [self.source / name for name in self.model.files]
        exact = self._answers(floats)
        paths = self._written(folder / "all")
        all_int8 = _sqnr_db(exact, self._answers(paths))
        layers = self._noisiest(floats, paths)
        noise: dict[str, float] = {}
        for number, layer in enumerate(layers[:MOST]):
            explained = sum(noise.values()) * 10 ** (all_int8 / 10)
            if number >= FEWEST and explained >= EXPLAINED:
                break
            others = [one for one in layers if one != layer]
            noise[layer] = self._noise(folder / str(number), others, exact)
        shutil.rmtree(folder / "all")
        return Sensitivities(
            measured=_ranked(noise),
            layers=len(layers),
            sqnr_db=all_int8,
            samples=len(self._inputs),
        )

    @property
    def _inputs(self) -> list[Tensors]:
        values = sum(math.prod(spec.shape) for spec in self.model.outputs)
        count = max(FEWEST_SAMPLES, -(-_ENOUGH_VALUES // values))
        return list(self.model.laid_out(self.samples[:count]))

    def _noise(self, folder: Path, floats: Sequence[str], exact: Sequence[Tensors]) -> float:
        """Return the noise at the outputs for each unit of their power; 0 if all stays float."""
        try:
            paths = self._written(folder, floats)
        except QuantizationError:  # as TensorRT's rules refuse a graph without INT8
            return 0.0
        found = self._answers(paths)
        shutil.rmtree(folder)
        return float(10 ** (-_sqnr_db(exact, found) / 10))

    def _written(self, folder: Path, floats: Sequence[str] = ()) -> list[Path]:
        folder.mkdir()
        return [folder / name for name in self.write(folder, floats).files]

    def _answers(self, paths: Sequence[Path]) -> list[Tensors]:
        runtime = RUNTIMES[self.model_format]
        with closing(open_engine(runtime, paths, threads=_THREADS)) as engine:
            return [engine.run(one) for one in self._inputs]

    def _noisiest(self, floats: Sequence[Path], paths: Sequence[Path]) -> list[str]:
        """Return the names of the INT8 layers, the noisiest first."""
        with (
            open_graph(self.model_format, floats) as exact,
            open_graph(self.model_format, paths) as int8,
        ):
            answers = [exact.run(one) for one in self._inputs[:_LOOKED_AT]]
            known = {layer.name for layer in exact.layers}
            chosen = [one for one in int8.layers if one.is_int8 and one.name in known]
            noise = {
                layer.name: _weights_noise(exact, int8, layer.name)
                + _answer_noise(layer, [one[layer.name] for one in answers])
                for layer in chosen
            }
        if not noise:
            raise QuantizationError("the INT8 model has no layer in INT8")
        return sorted(noise, key=lambda name: (-noise[name], name))


def _ranked(noise: Mapping[str, float]) -> tuple[Sensitivity, ...]:
    total = sum(noise.values())
    return tuple(
        Sensitivity(
            layer=layer,
            sqnr_db=round(-10 * math.log10(max(noise[layer], _SILENCE)), 3),
            noise_share=round(noise[layer] / total, 6) if total else 0.0,
        )
        for layer in sorted(noise, key=lambda one: (-noise[one], one))
    )


def _weights_noise(exact: Graph, int8: Graph, layer: str) -> float:
    """Return the noise in a layer's weights for each unit of their own power."""
    weights, rounded = exact.weights(layer), int8.weights(layer)
    if weights is None or rounded is None or weights.shape != rounded.shape:
        return 0.0
    return _ratio(weights, rounded)


def _answer_noise(layer: Layer, answers: Sequence[NDArray[np.float32]]) -> float:
    """Return the noise of storing a layer's answer as INT8, for each unit of its power."""
    codes = layer.codes
    if codes is None:
        return 0.0
    stored = [((codes.of(one) - codes.zero_point) * codes.scale) for one in answers]
    return _ratio(np.stack(answers), np.stack(stored))


def _ratio(exact: NDArray[Any], rounded: NDArray[Any]) -> float:
    signal = float(np.square(exact, dtype=np.float64).sum())
    noise = float(np.square(np.subtract(exact, rounded, dtype=np.float64)).sum())
    return noise / signal if signal else 0.0


def _sqnr_db(exact: Sequence[Tensors], answers: Sequence[Tensors]) -> float:
    powers = np.sum(list(_powers(exact, answers)), axis=0)
    found = decibel(float(powers[0]), float(powers[1]))
    return min(found, _QUIETEST_DB)  # JSON has no infinity


def _powers(exact: Sequence[Tensors], answers: Sequence[Tensors]) -> Iterator[tuple[float, float]]:
    for one, other in zip(exact, answers, strict=True):
        for name, tensor in one.items():
            real = tensor.astype(np.float64)
            yield float(np.square(real).sum()), float(np.square(real - other[name]).sum())
