"""One recipe carried out without a gate, for those who know what they do: tests and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from asdic.contract.target import ModelFormat
from asdic.quantization.backends.backend import FloatFiles, Tensors
from asdic.quantization.job import (
    CALIBRATION_FILE,
    ConvertJob,
    QuantizeJob,
    Workers,
    write_calibration,
)
from asdic.quantization.kinds import FloatModel
from asdic.quantization.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Once:
    """What came of it: the float files and the INT8 ones, and what their tensors mean."""

    model: FloatFiles
    float_paths: tuple[Path, ...]
    int8_paths: tuple[Path, ...]


def quantize_once(
    model: FloatModel,
    model_format: ModelFormat,
    recipe: Recipe,
    calibration: Sequence[Tensors],
    folder: Path,
) -> Once:
    """Convert and quantize ``model`` in ``folder``, which is made if it is missing.

    Raises:
        MissingPackageError: A package is not installed.
        UnsupportedModelError: The format cannot express the model.
        QuantizationError: The tools failed, or died.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = folder / CALIBRATION_FILE
    write_calibration(calibration, tensors)
    workers = Workers()
    source = folder / "float"
    job = ConvertJob(model=model, model_format=model_format, calibration=tensors)
    converted = workers.convert(job, source)
    files = workers.quantize(
        QuantizeJob(
            model=converted,
            source=source,
            model_format=model_format,
            recipe=recipe.name,
            calibration=tensors,
        ),
        folder / recipe.name,
    )
    return Once(
        model=converted,
        float_paths=tuple(source / name for name in converted.files),
        int8_paths=tuple(folder / recipe.name / name for name in files.files),
    )
