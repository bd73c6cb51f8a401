"""A network that INT8 kernels without VNNI cut off: large weights, non-negative activations.

Two products of an activation (up to 255) and a weight (up to 127) are 64,770 together, and 16
bits hold 32,767. With weights in 7 bits (up to 63) they are 32,130 at most.

``python -m tests.support.saturating MODEL.xml`` prints, as JSON, the dB that OpenVINO's kernels
and our simulation keep; run it with ``ONEDNN_MAX_CPU_ISA=AVX2`` for a processor without VNNI.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.target import ModelFormat, Runtime
from asdic.device.metrics import decibel
from asdic.device.runner.engine import Engine, open_engine
from asdic.quantization.simulation import open_simulation

CHANNELS: Final = 64
SIDE: Final = 8
SCALE: Final = np.float32(0.01)


def write_saturating(path: Path, *, largest: int) -> Path:
    """Write a pointwise convolution as NNCF would, its INT8 weights from 0.8 ``largest`` on."""
    import openvino
    from openvino import opset13 as ops

    def number(value: float) -> openvino.Node:
        return ops.constant(np.float32(value))

    x = ops.parameter((1, CHANNELS, SIDE, SIDE), np.float32, name="x")
    rounded = ops.fake_quantize(x, number(0), number(1), number(0), number(1), 256)
    stored = ops.constant(_weights(largest)[:, :, None, None])
    weights = ops.multiply(ops.convert(stored, np.float32), number(SCALE))
    y = ops.convolution(rounded, weights, [1, 1], [0, 0], [0, 0], [1, 1])
    y.set_friendly_name("conv")
    y.output(0).set_names({"y"})
    openvino.save_model(openvino.Model([y], [x], "saturating"), path, compress_to_fp16=False)
    return path


def kept_db(engine: Engine, *, largest: int) -> float:
    """Return the SQNR of an engine's answer against exact arithmetic on the same codes."""
    codes = np.random.default_rng(1).integers(170, 256, (CHANNELS, SIDE * SIDE))
    exact = (_weights(largest).astype(np.int64) @ codes) * (np.float64(SCALE) / 255)
    x = (codes / 255).astype(np.float32).reshape(1, CHANNELS, SIDE, SIDE)
    answer = engine.run({"x": x})["y"].reshape(exact.shape).astype(np.float64)
    return decibel(float(np.square(exact).sum()), float(np.square(exact - answer).sum()))


def _weights(largest: int) -> NDArray[np.int8]:
    random = np.random.default_rng(0)
    signs = random.choice([-1, 1], (CHANNELS, 1))
    weights = random.integers(int(0.8 * largest), largest + 1, (CHANNELS, CHANNELS)) * signs
    return weights.astype(np.int8)


def main(path: Path, largest: int) -> None:
    """Print what kernels and simulation keep."""
    engines = {
        "kernels": open_engine(Runtime.OPENVINO, [path]),
        "simulation": open_simulation(ModelFormat.OPENVINO_IR, [path]),
    }
    kept = {name: kept_db(one, largest=largest) for name, one in engines.items()}
    sys.stdout.write(json.dumps(kept))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
