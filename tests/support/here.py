"""The quantizer's workers without their processes: importing torch once instead of each time."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from asdic.contract.target import ModelFormat
from asdic.quantization.backends.backend import FloatFiles
from asdic.quantization.frontends.found import Found
from asdic.quantization.job import ConvertJob, ReadJob, Workers, write_calibration
from asdic.quantization.kinds import FloatModel, SourceKind
from asdic.quantization.source import Reading, read_source
from asdic.quantization.worker import result_of


class Here(Workers):
    """Does the very jobs of the workers in this process."""

    def read(self, job: ReadJob, folder: Path) -> Found:
        """Do what a worker does with ``job``."""
        folder.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the tools, which a worker's log keeps
            found = result_of(job, folder)
        assert isinstance(found, Found)
        return found


def read(
    model: Path | str, workspace: Path, *, data: Path | None = None, reading: Reading | None = None
) -> FloatModel:
    """Read a model as ``asdic quantize`` does, in this process."""
    return read_source(model, workspace, data=data, reading=reading, workers=Here())


def convert(model: FloatModel, model_format: ModelFormat, folder: Path) -> FloatFiles:
    """Convert a model into ``folder``, which compares the result's answers with the source's.

    litert-torch runs in a worker: it brings JAX, and no process can fork quietly after that.
    """
    random = np.random.default_rng(0)
    inputs = {spec.name: random.random(spec.shape, np.float32) for spec in model.description.inputs}
    calibration = folder.with_suffix(".npz")
    write_calibration([inputs], calibration)
    job = ConvertJob(model=model, model_format=model_format, calibration=calibration)
    if model_format is ModelFormat.TFLITE and model.kind is not SourceKind.TFLITE:
        return Workers().convert(job, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        files = result_of(job, folder)
    assert isinstance(files, FloatFiles)
    return files
