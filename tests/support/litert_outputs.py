"""What LiteRT answers, to the last bit: the same program runs on x86-64 and in the arm64 box.

``python litert_outputs.py MODEL INPUTS OUTPUTS`` reads ``inputs`` (n, 1, ...) from one ``.npz``
and writes one array for each output of the model to another.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from asdic.contract.target import Runtime
from asdic.device.runner.engine import open_engine


def litert_outputs(model: Path, inputs: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Return each output of the model, stacked over the inputs, by its name."""
    engine = open_engine(Runtime.LITERT, [model], threads=1)
    name = engine.inputs[0].name
    answers = [engine.run({name: one}) for one in inputs]
    engine.close()
    return {spec.name: np.stack([a[spec.name] for a in answers]) for spec in engine.outputs}


def main(model: Path, inputs: Path, outputs: Path) -> None:
    """Infer all of ``inputs`` and write ``outputs``."""
    with np.load(inputs, allow_pickle=False) as arrays:
        values = arrays["inputs"]
    np.savez(outputs, allow_pickle=False, **litert_outputs(model, values))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
