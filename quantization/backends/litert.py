"""INT8 for LiteRT (TFLite): converted by litert-torch, quantized by ai-edge-quantizer.

Importing litert-torch takes 5 s on a quiet machine and up to 28 s on a busy one, so it happens
inside the function.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from asdic.contract.errors import MissingPackageError, QuantizationError
from asdic.contract.files import write_file
from asdic.contract.variant import ImageInput, InputRule, MaskOutput, OutputRule, TensorSpec
from asdic.quantization.backends.backend import (
    QuantizedFiles,
    Tensors,
    int8_share,
    unsupported,
)
from asdic.quantization.recipe import Recipe
from asdic.quantization.source import FloatModel

_Rule = TypeVar("_Rule", InputRule, OutputRule)

FLOAT_FILE: Final = "float.tflite"
FILE: Final = "model.tflite"
_LAYERS: Final = ("CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D_TRANSPOSE", "FULLY_CONNECTED")
_WEIGHT_AT_LEAST: Final = 16  # elements; smaller constants are shapes and scalars
_THREADS: Final = 2


def quantize(
    model: FloatModel, calibration: Sequence[Tensors], recipe: Recipe, folder: Path
) -> QuantizedFiles:
    """Write ``float.tflite`` and ``model.tflite``, both with images channels-last."""
    path = folder / FLOAT_FILE
    if not path.is_file():
        write_file(path, _converted(model))
    flipped = _flipped(model)
    samples = [
        {name: _channels_last(array) if name in flipped else array for name, array in one.items()}
        for one in calibration
    ]
    quantized = _quantized(path, samples, recipe)
    write_file(folder / FILE, quantized)
    description = model.description
    return QuantizedFiles(
        files=(FILE,),
        float_files=(FLOAT_FILE,),
        inputs=tuple(_last_spec(spec, flipped) for spec in description.inputs),
        outputs=tuple(_last_spec(spec, flipped) for spec in description.outputs),
        preprocessing=tuple(_last_rule(rule) for rule in description.preprocessing),
        postprocessing=tuple(_last_rule(rule) for rule in description.postprocessing),
        int8_share=int8_share(_weights(quantized)),
    )


def _converted(model: FloatModel) -> bytes:
    try:
        import litert_torch
        import torch
    except ImportError as error:
        raise MissingPackageError("litert-torch", "quantize") from error

    flipped = _flipped(model)
    inner = model.program.module()
    inputs = [spec.name for spec in model.description.inputs]
    outputs = [spec.name for spec in model.description.outputs]

    class ChannelsLast(torch.nn.Module):
        """The model with named, channels-last inputs and outputs, so TFLite needs no transpose."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, **named: Any) -> dict[str, Any]:
            arguments = [
                named[name].permute(0, 3, 1, 2) if name in flipped else named[name]
                for name in inputs
            ]
            answers = self.inner(*arguments)
            answers = answers if isinstance(answers, list | tuple) else (answers,)
            return {
                name: answer.permute(0, 2, 3, 1) if name in flipped else answer
                for name, answer in zip(outputs, answers, strict=True)
            }

    examples = {
        spec.name: torch.zeros(_last_spec(spec, flipped).shape) for spec in model.description.inputs
    }
    try:
        edge = litert_torch.convert(ChannelsLast(), sample_kwargs=examples)
        content: bytes = edge.model_content()
    except Exception as error:  # the converter raises whatever its many layers raise
        raise unsupported(error, converter="LiteRT") from error
    return content


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


def _flipped(model: FloatModel) -> frozenset[str]:
    """Return the names of the tensors that TFLite holds channels-last and the model does not."""
    rules = (*model.description.preprocessing, *model.description.postprocessing)
    return frozenset(
        rule.tensor
        for rule in rules
        if isinstance(rule, ImageInput | MaskOutput) and rule.layout == "nchw"
    )


def _channels_last(array: Any) -> Any:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def _last_spec(spec: TensorSpec, flipped: frozenset[str]) -> TensorSpec:
    if spec.name not in flipped:
        return spec
    batch, channels, height, width = spec.shape
    return msgspec.structs.replace(spec, shape=(batch, height, width, channels))


def _last_rule(rule: _Rule) -> _Rule:
    if isinstance(rule, ImageInput | MaskOutput):
        return msgspec.structs.replace(rule, layout="nhwc")
    return rule
