"""INT8 for LiteRT (TFLite), by ai-edge-quantizer.

Its calibration is a moving average of extremes, which clips. It takes any ranges, so they are
ours: extremes as its profiler counts them in C++, others from ``ranges.py``.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import MissingPackageError, QuantizationError
from asdic.contract.files import write_file
from asdic.contract.target import Runtime
from asdic.contract.variant import TensorSpec
from asdic.device.runner.engine import open_engine
from asdic.quantization.backends.backend import (
    FloatFiles,
    QuantizedFiles,
    Tensors,
    Write,
)
from asdic.quantization.backends.litert_bias import correct_biases
from asdic.quantization.backends.ranges import BEST, best_range, bounds_of, judges_for, observe
from asdic.quantization.recipe import Recipe

FILE: Final = "model.tflite"
# What ai-edge-quantizer calls the layers with weights, and what the file does.
_LAYERS: Final = MappingProxyType(
    {
        "CONV_2D": "CONV_2D",
        "DEPTHWISE_CONV_2D": "DEPTHWISE_CONV_2D",
        "CONV_2D_TRANSPOSE": "TRANSPOSE_CONV",
        "FULLY_CONNECTED": "FULLY_CONNECTED",
    }
)
_THREADS: Final = 2
_SIGNATURE: Final = "serving_default"


def prepare(
    model: FloatFiles, source: Path, calibration: Sequence[Tensors], recipe: Recipe
) -> Write:
    """Take the ranges; what is returned writes ``model.tflite``."""
    path = source / model.files[0]
    samples = model.laid_out(calibration)
    try:
        ranges = _ranges(path, samples, recipe, model.outputs)
        return partial(_write, path, (samples, ranges), recipe)
    except (MissingPackageError, QuantizationError):
        raise
    except Exception as error:
        raise QuantizationError(f"ai-edge-quantizer failed: {error}") from error


def _write(
    path: Path,
    calibrated: tuple[Sequence[Tensors], Mapping[str, Any]],
    recipe: Recipe,
    folder: Path,
    floats: Sequence[str] = (),
) -> QuantizedFiles:
    if missing := sorted(set(floats) - _outputs(path.read_bytes())):
        raise QuantizationError(f"there is no layer {missing[0]!r} to leave float")
    samples, ranges = calibrated
    content = _quantized(path, ranges, recipe, floats)
    if "full-bias" in recipe.options:
        content = correct_biases(content, path.read_bytes(), samples)
    write_file(folder / FILE, content)
    return QuantizedFiles(files=(FILE,))


def _quantized(
    path: Path, ranges: Mapping[str, Any], recipe: Recipe, floats: Sequence[str] = ()
) -> bytes:
    plan = _plan(recipe, floats).get_quantization_recipe()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = (
                _tools()
                .quantizer.Quantizer(str(path), plan)
                .quantize(dict(ranges), enable_progress_report=False)
            )
    except Exception as error:
        raise QuantizationError(f"ai-edge-quantizer failed: {error}") from error
    return bytes(result.quantized_model)


def _ranges(
    path: Path, samples: Sequence[Tensors], recipe: Recipe, outputs: Sequence[TensorSpec]
) -> dict[str, Any]:
    """Return the bounds of every tensor as the quantizer wants them."""
    ranges = _extremes(path, samples, recipe)
    if recipe.range in {"minmax", "average"}:
        return ranges
    names = _activations(path.read_bytes(), layers_only="layers" in recipe.options)
    seen = observe(_tensors(path, samples, names), histograms=True)

    def by(range_: str) -> dict[str, Any]:
        bounds = bounds_of(seen, range_, symmetric=False)
        return ranges | {
            name: {"min": _one(low), "max": _one(high)} for name, (low, high) in bounds.items()
        }

    if recipe.range != BEST:
        return by(recipe.range)
    some = samples[: judges_for(outputs)]
    exact = _answers(path.read_bytes(), some)

    def answers_by(range_: str) -> list[dict[str, NDArray[Any]]]:
        return _answers(_quantized(path, by(range_), recipe), some)

    return by(best_range(answers_by, exact))


def _tools() -> Any:
    try:
        import ai_edge_quantizer
        from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe_manager
    except ImportError as error:
        raise MissingPackageError("ai-edge-quantizer", "quantize") from error
    del calibrator, qtyping, quantizer, recipe_manager  # imported, they are its attributes
    return ai_edge_quantizer


def _plan(recipe: Recipe, floats: Sequence[str]) -> Any:
    tools = _tools()
    operations = tools.qtyping.TFLOperationName
    plan = tools.recipe_manager.RecipeManager()
    for name in _LAYERS if "layers" in recipe.options else ("ALL_SUPPORTED",):
        plan.add_static_config(
            regex=".*",
            operation_name=operations[name],
            activation_num_bits=8,
            weight_num_bits=8,
        )
    for name in floats:  # a scope is the names of an operator's outputs, each with a semicolon
        plan.add_quantization_config(
            regex=f"(^|;){re.escape(name)};",
            operation_name=operations.ALL_SUPPORTED,
            algorithm_key=tools.algorithm_manager.AlgorithmName.NO_QUANTIZE,
        )
    return plan


def _extremes(path: Path, samples: Sequence[Tensors], recipe: Recipe) -> dict[str, Any]:
    """Return the extremes of every tensor: of all inputs, or the mean of each one's.

    The same as by keeping all tensors, in a quarter of the time.
    """
    calibrator = _tools().calibrator

    def keep(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
        return {end: np.append(old[end], new[end]) for end in ("min", "max")}

    observer = calibrator.Calibrator(
        str(path),
        num_threads=_THREADS,
        mode=calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED,
        qsv_update_func=keep,
    )
    observer.calibrate({_SIGNATURE: samples}, _plan(recipe, ()))
    low, high = (np.mean, np.mean) if recipe.range == "average" else (np.min, np.max)
    found = observer.get_model_qsvs()
    for name, ends in found.items():
        if not (np.isfinite(ends["min"]).all() and np.isfinite(ends["max"]).all()):
            raise QuantizationError(f"the tensor {name!r} holds NaN or infinity")
    return {
        name: {"min": _one(low(ends["min"])), "max": _one(high(ends["max"]))}
        for name, ends in found.items()
    }


def _tensors(
    path: Path, samples: Sequence[Tensors], names: Container[str]
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield what the tensors called ``names`` hold, one input after another."""
    interpreter = _interpreter(path.read_bytes(), experimental_preserve_all_tensors=True)
    run = interpreter.get_signature_runner(_SIGNATURE)
    places = {
        one["name"]: one["index"]
        for one in interpreter.get_tensor_details()
        if one["dtype"] is np.float32 and one["name"] in names
    }
    for sample in samples:
        run(**sample)
        yield {name: interpreter.get_tensor(index) for name, index in places.items()}


def _answers(content: bytes, samples: Sequence[Tensors]) -> list[dict[str, NDArray[Any]]]:
    """Return what a model answers, by the runtime that flies."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE
        path.write_bytes(content)
        with closing(open_engine(Runtime.LITERT, [path], threads=_THREADS)) as engine:
            return [engine.run(sample) for sample in samples]


def _interpreter(content: bytes, **options: Any) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that keeping all tensors takes memory
        interpreter = Interpreter(model_content=content, num_threads=_THREADS, **options)
    interpreter.allocate_tensors()
    return interpreter


def _activations(content: bytes, *, layers_only: bool) -> set[str]:
    """Return the names of the tensors that get a range: what layers take and give, or all."""
    schema, model = _model(content)
    codes = [getattr(schema.BuiltinOperator, name) for name in _LAYERS.values()]
    return {
        graph.tensors[place].name.decode()
        for graph in model.subgraphs
        for operator in graph.operators
        if not layers_only or model.operatorCodes[operator.opcodeIndex].builtinCode in codes
        for place in (*operator.inputs, *operator.outputs)
        if place >= 0 and model.buffers[graph.tensors[place].buffer].data is None
    }


def _outputs(content: bytes) -> set[str]:
    _, model = _model(content)
    return {
        graph.tensors[place].name.decode()
        for graph in model.subgraphs
        for operator in graph.operators
        for place in operator.outputs
    }


def _model(content: bytes) -> tuple[Any, Any]:
    from ai_edge_litert import schema_py_generated as schema

    return schema, schema.ModelT.InitFromPackedBuf(content, 0)


def _one(value: Any) -> NDArray[np.float32]:
    return np.array([value], np.float32)
