"""The process that does one job: ``python -m asdic.quantization.worker FOLDER PARENT``.

It is started by ``job.py``, which explains why, and ends with it (``PARENT`` is its number). An
expected error is part of the answer; anything else keeps its traceback, in the log. So does a
want of memory, whatever a tool made of it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name
from types import MappingProxyType
from typing import Final, cast

import msgspec

from asdic.contract.errors import AsdicError
from asdic.contract.files import canonical_json, read_bounded, sha256_of, write_file
from asdic.device.process import end_with_parent
from asdic.quantization.backends.backend import (
    BACKENDS,
    Backend,
    FloatFiles,
    QuantizedFiles,
    Tensors,
    Write,
)
from asdic.quantization.frontends.found import Found
from asdic.quantization.job import (
    ANSWER_FILE,
    JOB_FILE,
    OUT_OF_MEMORY,
    Answer,
    ConvertJob,
    FrontEnd,
    Job,
    QuantizeJob,
    ReadJob,
    SensitivityJob,
    decode_job,
    failure_of,
    read_calibration,
)
from asdic.quantization.recipe import parse_recipe
from asdic.quantization.sensitivity import SAMPLES, Measurement, Sensitivities

READERS: Final = MappingProxyType(
    {
        FrontEnd.PROGRAM: "asdic.quantization.frontends.torch:from_program",
        FrontEnd.TORCHSCRIPT: "asdic.quantization.frontends.torchscript:from_torchscript",
        FrontEnd.FACTORY: "asdic.quantization.frontends.factory:from_factory",
        FrontEnd.ONNX: "asdic.quantization.frontends.onnx:from_onnx",
        FrontEnd.KERAS: "asdic.quantization.frontends.keras:from_keras",
        FrontEnd.SAVED_MODEL: "asdic.quantization.frontends.keras:from_saved_model",
        FrontEnd.TFLITE: "asdic.quantization.frontends.tflite:from_tflite",
    }
)
_JOB_LIMIT_BYTES: Final = 8 << 20


def main(folder: Path, parent: int) -> None:
    """Do the job in ``folder`` and write the answer beside it."""
    end_with_parent(parent)
    _be_private()
    write_file(folder / ANSWER_FILE, canonical_json(_answer(folder)))


def _answer(folder: Path) -> Answer:
    content = read_bounded(folder / JOB_FILE, _JOB_LIMIT_BYTES)
    job = decode_job(content)
    try:
        result = result_of(job, folder)
    except AsdicError as error:
        if _wants_memory(error):
            raise
        return Answer(failure=failure_of(error))
    digests = {name: sha256_of(folder / name) for name in result.files}
    return Answer(result=msgspec.Raw(msgspec.json.encode(result)), digests=digests)


def _wants_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
            return True
        error = error.__cause__
    return False


def result_of(job: Job, folder: Path) -> Found | FloatFiles | QuantizedFiles | Sensitivities:
    """Do a job in ``folder`` and return what it gave, in this very process."""
    match job:
        case ReadJob():
            return _read(job, folder)
        case ConvertJob():
            return _converted(job, folder)
        case QuantizeJob():
            return _quantized(job, folder)
        case SensitivityJob():
            return _measured(job, folder)


def _read(job: ReadJob, folder: Path) -> Found:
    read = resolve_name(READERS[job.front_end])
    match job.front_end:
        case FrontEnd.FACTORY:
            sys.path.insert(0, str(Path.cwd()))  # as where the person stands
            found = read(job.factory, job.weights, folder, job.shapes)
        case FrontEnd.TORCHSCRIPT:
            found = read(job.path, folder, job.shapes, job.size)
        case _:
            found = read(job.path, folder, job.shapes)
    return cast("Found", found)


def _converted(job: ConvertJob, folder: Path) -> FloatFiles:
    from asdic.quantization.converters.check import check_conversion
    from asdic.quantization.converters.converter import convert

    files = convert(job.model, job.model_format, folder)
    check_conversion(
        job.model, job.model_format, files, folder, read_calibration(job.calibration)[0]
    )
    return files


def _quantized(job: QuantizeJob, folder: Path) -> QuantizedFiles:
    return _write_of(job, read_calibration(job.calibration))(folder, job.floats)


def _measured(job: SensitivityJob, folder: Path) -> Sensitivities:
    samples = read_calibration(job.calibration)[:SAMPLES]
    measurement = Measurement(
        model=job.model,
        source=job.source,
        model_format=job.model_format,
        samples=samples,
        write=_write_of(job, samples),
    )
    return measurement.sensitivities(folder)


def _write_of(job: QuantizeJob | SensitivityJob, calibration: Sequence[Tensors]) -> Write:
    backend: Backend = resolve_name(BACKENDS[job.model_format])
    recipe = parse_recipe(job.recipe, job.model_format)
    return backend(job.model, job.source, calibration, recipe)


def _be_private() -> None:
    """Keep OpenVINO's converter and NNCF from reporting to their makers that they are used.

    Without the telemetry package both fall back to doing nothing.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    os.environ["NNCF_CI"] = "1"


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
