"""Which layer of a float model answers what is no number."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asdic.contract.errors import QuantizationError
from asdic.contract.target import ModelFormat
from asdic.device.runner.postprocess import Prediction
from asdic.device.runner.preprocess import prepare
from asdic.quantization.backends.backend import FloatFiles
from asdic.quantization.calibration import Case
from asdic.quantization.graphs.graph import open_graph
from asdic.quantization.layers import first_nan


def is_finite(answers: Sequence[Prediction]) -> bool:
    """Return whether all that a model answered are numbers."""
    return all(np.isfinite(one).all() for answer in answers for one in answer.tensors.values())


def broken_layer(
    model_format: ModelFormat, paths: Sequence[Path], model: FloatFiles, cases: Sequence[Case]
) -> QuantizationError | None:
    """Return an error that names the first layer that answers NaN or infinity, and to what.

    None where every layer answers numbers to every case.
    """
    with open_graph(model_format, paths) as graph:
        for case in cases:
            layer = first_nan(graph, prepare(case.inputs, model.preprocessing))
            if layer is not None:
                return QuantizationError(
                    f"the layer {layer!r} of the float model answers NaN or infinity to "
                    f"{case.name}; no quantization can mend that"
                )
    return None
