"""INT8 for OpenVINO, by NNCF.

NNCF works on OpenVINO's graph here: on a torch module it timed out compiling it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from asdic.contract.errors import MissingPackageError, QuantizationError
from asdic.quantization.backends.backend import FloatFiles, QuantizedFiles, Tensors, int8_share
from asdic.quantization.recipe import Recipe

FILES: Final = ("model.xml", "model.bin")
_LAYERS: Final = frozenset(
    {
        "Convolution",
        "GroupConvolution",
        "ConvolutionBackpropData",
        "GroupConvolutionBackpropData",
        "MatMul",
    }
)
_WEIGHT_AT_LEAST: Final = 16  # elements; smaller constants are shapes and scalars


def quantize(
    model: FloatFiles, source: Path, calibration: Sequence[Tensors], recipe: Recipe, folder: Path
) -> QuantizedFiles:
    """Write ``model.xml/.bin``."""
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise MissingPackageError(error.name or "openvino", "quantize") from error
    graph = openvino.Core().read_model(source / model.files[0])
    try:
        quantized = nncf.quantize(
            graph,
            nncf.Dataset([dict(one) for one in model.laid_out(calibration)]),
            subset_size=len(calibration),
            fast_bias_correction=True,
            ignored_scope=_ignored(nncf, graph, recipe),
            advanced_parameters=_parameters(nncf, recipe),
        )
    except Exception as error:
        raise QuantizationError(f"NNCF failed: {error}") from error
    openvino.save_model(quantized, folder / FILES[0], compress_to_fp16=False)
    return QuantizedFiles(files=FILES, int8_share=int8_share(_weights(quantized)))


def _ignored(nncf: Any, graph: Any, recipe: Recipe) -> Any:
    """Return what stays float: nothing, or all but the layers with weights."""
    if "layers" not in recipe.options:
        return None
    kinds = {node.get_type_name() for node in graph.get_ordered_ops()}
    between = sorted(kinds - _LAYERS - {"Parameter", "Constant", "Result"})
    return nncf.IgnoredScope(types=between, validate=False)


def _parameters(nncf: Any, recipe: Recipe) -> Any:
    from nncf.quantization.advanced_parameters import OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    fix = OverflowFix.ENABLE if "overflow" in recipe.options else OverflowFix.DISABLE
    ranges: dict[str, Any] = {}
    if recipe.range == "minmax":
        ranges["activations_range_estimator_params"] = RangeEstimatorParametersSet.MINMAX
    return nncf.AdvancedQuantizationParameters(
        overflow_fix=fix,
        disable_bias_correction="bias" not in recipe.options,
        weights_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
        **ranges,
    )


def _weights(graph: Any) -> Iterator[tuple[int, bool]]:
    kinds = {"f32": False, "f16": False, "i8": True, "u8": True}
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "Constant":
            continue
        count = math.prod(node.get_output_shape(0))
        kind = node.get_element_type().get_type_name()
        if kind in kinds and count >= _WEIGHT_AT_LEAST:
            yield count, kinds[kind]
