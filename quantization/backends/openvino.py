"""INT8 for OpenVINO, by NNCF.

NNCF works on OpenVINO's graph here: on a torch module it timed out compiling it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from asdic.contract.errors import MissingPackageError, QuantizationError
from asdic.quantization.backends.backend import (
    FloatFiles,
    QuantizedFiles,
    Tensors,
    Write,
)
from asdic.quantization.backends.ranges import OUTLIERS
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
_SMOOTH: Final = 0.5
"""Half of an outlier goes into the weights, as in SmoothQuant (Xiao et al., ICML 2023)."""

_SATURATION: Final = (
    "weights have 8 bits: on x86 processors without VNNI or AMX sums may saturate, which the "
    "golden set finds on the device; recipes with -overflow are safe there"
)

# Which statistic of each input, and how those of all inputs become one.
_ESTIMATORS: Final = MappingProxyType(
    {
        "minmax": (("MIN", "MIN"), ("MAX", "MAX")),
        "average": (("MIN", "MEAN"), ("MAX", "MEAN")),
        "percentile": (("QUANTILE", "MEAN"), ("QUANTILE", "MEAN")),
        "mse": (("RAW", "HISTOGRAM"), ("RAW", "HISTOGRAM")),
    }
)


def prepare(
    model: FloatFiles, source: Path, calibration: Sequence[Tensors], recipe: Recipe
) -> Write:
    """Read nothing yet: NNCF takes its statistics of the layers that it quantizes, anew each time.

    What is returned writes ``model.xml/.bin``.
    """
    samples = [dict(one) for one in model.laid_out(calibration)]
    return partial(_write, source / model.files[0], samples, recipe)


def _write(
    path: Path,
    samples: Sequence[dict[str, Any]],
    recipe: Recipe,
    folder: Path,
    floats: Sequence[str] = (),
) -> QuantizedFiles:
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise MissingPackageError(error.name or "openvino", "quantize") from error
    graph = openvino.Core().read_model(path)
    try:
        quantized = nncf.quantize(
            graph,
            nncf.Dataset(samples),
            subset_size=len(samples),
            preset=nncf.QuantizationPreset.MIXED
            if "mixed" in recipe.options
            else nncf.QuantizationPreset.PERFORMANCE,
            model_type=nncf.ModelType.TRANSFORMER if "smooth" in recipe.options else None,
            fast_bias_correction="full-bias" not in recipe.options,
            ignored_scope=_ignored(nncf, graph, recipe, floats),
            advanced_parameters=_parameters(nncf, recipe),
        )
    except Exception as error:
        raise QuantizationError(f"NNCF failed: {error}") from error
    openvino.save_model(quantized, folder / FILES[0], compress_to_fp16=False)
    notes = () if "overflow" in recipe.options else (_SATURATION,)
    return QuantizedFiles(files=FILES, notes=notes)


def _ignored(nncf: Any, graph: Any, recipe: Recipe, floats: Sequence[str]) -> Any:
    """Return what stays float: the layers named, and with ``layers`` all that have no weights."""
    between: list[str] = []
    if "layers" in recipe.options:
        kinds = {node.get_type_name() for node in graph.get_ordered_ops()}
        between = sorted(kinds - _LAYERS - {"Parameter", "Constant", "Result"})
    return nncf.IgnoredScope(names=sorted(floats), types=between, validate=False)


def _parameters(nncf: Any, recipe: Recipe) -> Any:
    from nncf.quantization.advanced_parameters import (
        AdvancedSmoothQuantParameters,
        OverflowFix,
    )
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    smooth = _SMOOTH if "smooth" in recipe.options else -1.0
    return nncf.AdvancedQuantizationParameters(
        overflow_fix=OverflowFix.ENABLE if "overflow" in recipe.options else OverflowFix.DISABLE,
        disable_bias_correction=not recipe.options & {"bias", "full-bias"},
        smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=smooth, matmul=smooth),
        activations_range_estimator_params=_estimator(recipe.range),
        weights_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
    )


def _estimator(range_: str) -> Any:
    from nncf.quantization import range_estimator as tools

    low, high = (
        tools.StatisticsCollectorParameters(
            statistics_type=tools.StatisticsType[statistic],
            aggregator_type=tools.AggregatorType[aggregator],
            quantile_outlier_prob=OUTLIERS,
        )
        for statistic, aggregator in _ESTIMATORS[range_]
    )
    return tools.RangeEstimatorParameters(min=low, max=high)
