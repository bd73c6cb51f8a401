"""Which layer of a float model answers what is no number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from asdic.contract.errors import QuantizationError
from asdic.contract.target import ModelFormat
from asdic.quantization.graphs.graph import Tensors, open_graph
from asdic.quantization.layers import first_nan


def broken_layer(
    model_format: ModelFormat, paths: Sequence[Path], samples: Iterable[tuple[str, Tensors]]
) -> QuantizationError | None:
    """Return an error that names the first layer that answers NaN or infinity, and to what.

    None where every layer answers numbers.

    Args:
        model_format: How the model is stored.
        paths: Its files.
        samples: What to call them, and the file's own inputs.
    """
    with open_graph(model_format, paths) as graph:
        for name, tensors in samples:
            layer = first_nan(graph, tensors)
            if layer is not None:
                return QuantizationError(
                    f"the layer {layer!r} of the float model answers NaN or infinity to {name}; "
                    "no quantization can mend that"
                )
    return None
