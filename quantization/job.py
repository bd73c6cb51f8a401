"""One conversion in a process of its own.

The converters are large, loud and in parts native code: a crash or too little memory must be one
clear line, two of them run at the same time, and nothing of them stays in this process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from asdic.contract.errors import (
    AsdicError,
    ConfigError,
    MissingPackageError,
    QuantizationError,
    UnsupportedModelError,
)
from asdic.contract.files import canonical_json, parse_json, read_bounded, write_file
from asdic.contract.target import ModelFormat
from asdic.quantization.backends.backend import QuantizedFiles, Tensors
from asdic.quantization.recipe import Recipe
from asdic.quantization.source import FloatModel, write_program
from asdic.training.description import ModelDescription

JOB_FILE: Final = "job.json"
ANSWER_FILE: Final = "answer.json"
PROGRAM_FILE: Final = "program.pt2"
CALIBRATION_FILE: Final = "calibration.npz"
LOG_FILE: Final = "log.txt"
TIMEOUT_S: Final = 3600.0
_ANSWER_LIMIT_BYTES: Final = 8 << 20
_LOG_TAIL_BYTES: Final = 64 << 10

_ERRORS: Final = MappingProxyType(
    {kind.__name__: kind for kind in (ConfigError, QuantizationError, UnsupportedModelError)}
)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is to do, in the folder where its answer goes.

    ``material`` is the folder with the program and the calibration tensors.
    """

    model_format: ModelFormat
    recipe: str
    description: ModelDescription
    material: str


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An expected error of the worker: the class's name and its arguments."""

    kind: str
    arguments: tuple[str, ...]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker leaves: the description of its files, or why there are none."""

    files: QuantizedFiles | None = None
    failure: Failure | None = None


def write_material(model: FloatModel, calibration: Sequence[Tensors], folder: Path) -> None:
    """Write what every worker reads: the exported program and the calibration tensors."""
    write_program(model.program, folder / PROGRAM_FILE)
    arrays = {
        f"{number}:{name}": a for number, one in enumerate(calibration) for name, a in one.items()
    }
    np.savez(folder / CALIBRATION_FILE, allow_pickle=False, **arrays)


def read_calibration(folder: Path) -> tuple[Tensors, ...]:
    """Return the calibration tensors that ``write_material`` wrote."""
    samples: dict[int, dict[str, NDArray[np.float32]]] = {}
    with np.load(folder / CALIBRATION_FILE, allow_pickle=False) as archive:
        for member in archive.files:
            number, _, name = member.partition(":")
            samples.setdefault(int(number), {})[name] = archive[member]
    return tuple(samples[number] for number in sorted(samples))


def run_job(
    model: FloatModel, model_format: ModelFormat, recipe: Recipe, *, material: Path, folder: Path
) -> QuantizedFiles:
    """Return what the backend of ``model_format`` wrote into ``folder``, in another process.

    Raises:
        MissingPackageError: A package is not installed.
        UnsupportedModelError: The model holds an operator that the format cannot express.
        QuantizationError: The tools failed, or died.
    """
    job = Job(
        model_format=model_format,
        recipe=recipe.name,
        description=model.description,
        material=str(material),
    )
    write_file(folder / JOB_FILE, canonical_json(job))
    code = _run_worker(folder)
    path = folder / ANSWER_FILE
    if not path.is_file():
        raise QuantizationError(_obituary(model_format, code, folder / LOG_FILE))
    answer = parse_json(read_bounded(path, _ANSWER_LIMIT_BYTES), Answer, what=str(path))
    if answer.files is None:
        raise _error_of(answer.failure or Failure(kind="QuantizationError", arguments=()))
    return answer.files


def failure_of(error: AsdicError) -> Failure:
    """Return an error as data, so that ``run_job`` raises it again in the other process."""
    if isinstance(error, MissingPackageError):
        return Failure(kind="MissingPackageError", arguments=(error.package, error.extra))
    kind = type(error).__name__ if type(error).__name__ in _ERRORS else "QuantizationError"
    return Failure(kind=kind, arguments=(str(error),))


def _error_of(failure: Failure) -> AsdicError:
    if failure.kind == "MissingPackageError":
        package, extra = failure.arguments
        return MissingPackageError(package, extra)
    return _ERRORS.get(failure.kind, QuantizationError)(*failure.arguments)


def _run_worker(folder: Path) -> int:
    command = [sys.executable, "-m", "asdic.quantization.worker", str(folder)]
    # C++ parts log to stderr whatever they like; PYTHONHASHSEED makes sets iterate alike.
    environment = os.environ | {"PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with (folder / LOG_FILE).open("wb") as log:
        try:
            return subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                timeout=TIMEOUT_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise QuantizationError(
                f"the converter did not finish within {TIMEOUT_S:.0f} s"
            ) from error


def _obituary(model_format: ModelFormat, code: int, log: Path) -> str:
    if code < 0:
        reason = f"was killed by {signal.Signals(-code).name}"
        if -code == signal.SIGKILL:
            reason += " (too little memory?)"
    else:
        tail = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
        lines = [line.strip() for line in tail.splitlines() if line.strip()]
        reason = f"ended with code {code}: {lines[-1][:300] if lines else 'it said nothing'}"
    return f"the converter for {model_format.value} {reason}"
