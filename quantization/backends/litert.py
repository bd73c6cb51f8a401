"""INT8 for LiteRT (TFLite), by ai-edge-quantizer."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from asdic.contract.errors import MissingPackageError, QuantizationError
from asdic.contract.files import write_file
from asdic.quantization.backends.backend import FloatFiles, QuantizedFiles, Tensors, int8_share
from asdic.quantization.recipe import Recipe

FILE: Final = "model.tflite"
_LAYERS: Final = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED")
_WEIGHT_AT_LEAST: Final = 16  # elements; smaller constants are shapes and scalars
_THREADS: Final = 2


def quantize(
    model: FloatFiles, source: Path, calibration: Sequence[Tensors], recipe: Recipe, folder: Path
) -> QuantizedFiles:
    """Write ``model.tflite``."""
    quantized = _quantized(source / model.files[0], model.laid_out(calibration), recipe)
    write_file(folder / FILE, quantized)
    return QuantizedFiles(files=(FILE,), int8_share=int8_share(_weights(quantized)))


def _quantized(path: Path, samples: Sequence[Tensors], recipe: Recipe) -> bytes:
    try:
        from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe_manager
        from ai_edge_quantizer.utils import qsv_utils
    except ImportError as error:
        raise MissingPackageError("ai-edge-quantizer", "quantize") from error
    names = _LAYERS if "layers" in recipe.options else ("ALL_SUPPORTED",)
    plan = recipe_manager.RecipeManager()
    for name in names:
        operation = qtyping.TFLOperationName[name]
        plan.add_static_config(
            regex=".*", operation_name=operation, activation_num_bits=8, weight_num_bits=8
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            observer = calibrator.Calibrator(
                str(path),
                num_threads=_THREADS,
                # The same ranges as by keeping all tensors, in a quarter of the time.
                mode=calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED,
                qsv_update_func=qsv_utils.min_max_update,
            )
            observer.calibrate({"serving_default": samples}, plan)
            result = quantizer.Quantizer(str(path), plan.get_quantization_recipe()).quantize(
                observer.get_model_qsvs(), enable_progress_report=False
            )
    except Exception as error:
        raise QuantizationError(f"ai-edge-quantizer failed: {error}") from error
    return bytes(result.quantized_model)


def _weights(content: bytes) -> Iterator[tuple[int, bool]]:
    from ai_edge_litert import schema_py_generated as schema

    model: Any = schema.ModelT.InitFromPackedBuf(content, 0)
    kinds = {schema.TensorType.FLOAT32: False, schema.TensorType.INT8: True}
    for tensor in (tensor for graph in model.subgraphs for tensor in graph.tensors):
        count = int(np.prod(tensor.shape)) if tensor.shape is not None else 0
        is_constant = model.buffers[tensor.buffer].data is not None
        if is_constant and tensor.type in kinds and count >= _WEIGHT_AT_LEAST:
            yield count, kinds[tensor.type]
