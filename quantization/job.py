"""Conversions and quantizations, each in a process of its own.

The converters are large, loud and in parts native code: a crash or too little memory must be one
clear line, two of them run at the same time, and nothing of them stays in this process.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import IO, Final, TypeAlias, TypeVar

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
from asdic.contract.files import parse_json, read_bounded, sha256_of, write_file
from asdic.contract.target import ModelFormat
from asdic.quantization.backends.backend import FloatFiles, QuantizedFiles, Tensors
from asdic.quantization.frontends.found import Found
from asdic.quantization.kinds import FloatModel
from asdic.quantization.sensitivity import Sensitivities

_Result = TypeVar("_Result", Found, FloatFiles, QuantizedFiles, Sensitivities)

JOB_FILE: Final = "job.json"
ANSWER_FILE: Final = "answer.json"
CALIBRATION_FILE: Final = "calibration.npz"
LOG_FILE: Final = "log.txt"
TIMEOUT_S: Final = 3600.0
_ANSWER_LIMIT_BYTES: Final = 8 << 20
_LOG_TAIL_BYTES: Final = 64 << 10
OUT_OF_MEMORY: Final = ("MemoryError", "std::bad_alloc", "can't allocate memory")
"""What Python, C++ and torch say last."""

_ERRORS: Final = MappingProxyType(
    {kind.__name__: kind for kind in (ConfigError, QuantizationError, UnsupportedModelError)}
)


class FrontEnd(str, Enum):
    """Who reads a model."""

    PROGRAM = "exported-program"
    TORCHSCRIPT = "torchscript"
    FACTORY = "factory"
    ONNX = "onnx"
    KERAS = "keras"
    SAVED_MODEL = "saved-model"
    TFLITE = "tflite"


class ReadJob(msgspec.Struct, frozen=True, kw_only=True, tag="read"):
    """Read a model and write it as a file of one of the kinds. ``digest`` is that of ``path``."""

    front_end: FrontEnd
    path: Path
    factory: str
    weights: Path | None
    digest: str
    shapes: dict[str, tuple[int, ...]]
    size: tuple[int, int] | None


class ConvertJob(msgspec.Struct, frozen=True, kw_only=True, tag="convert"):
    """Write a float model in one format, and check it with the first of the calibration inputs.

    ``calibration`` is the file that ``write_calibration`` wrote.
    """

    model: FloatModel
    model_format: ModelFormat
    calibration: Path


class QuantizeJob(msgspec.Struct, frozen=True, kw_only=True, tag="quantize"):
    """Quantize the float files in ``source`` by one recipe.

    ``floats`` are the layers that stay float, as many as the recipe says.
    """

    model: FloatFiles
    source: Path
    model_format: ModelFormat
    recipe: str
    calibration: Path
    floats: tuple[str, ...] = ()


class SensitivityJob(msgspec.Struct, frozen=True, kw_only=True, tag="sensitivity"):
    """Measure which layers cost most if ``recipe`` makes them INT8."""

    model: FloatFiles
    source: Path
    model_format: ModelFormat
    recipe: str
    calibration: Path


Job: TypeAlias = ReadJob | ConvertJob | QuantizeJob | SensitivityJob


def encode_job(job: Job) -> bytes:
    """Return ``job`` as JSON: equal jobs, equal bytes."""
    return msgspec.json.encode(job, enc_hook=str, order="deterministic")


def decode_job(data: bytes) -> Job:
    """Return the job that ``encode_job`` wrote."""
    found: Job = msgspec.json.decode(data, type=Job, dec_hook=lambda kind, value: kind(value))
    return found


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An expected error of the worker: the class's name and its arguments."""

    kind: str
    arguments: tuple[str, ...]


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker leaves: the description of its files as JSON, or why there are none."""

    result: msgspec.Raw = msgspec.Raw(b"null")
    failure: Failure | None = None
    digests: dict[str, str] = {}


def write_calibration(calibration: Sequence[Tensors], path: Path) -> None:
    """Write the calibration tensors for every worker to read."""
    arrays = {
        f"{number}:{name}": a for number, one in enumerate(calibration) for name, a in one.items()
    }
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_calibration(path: Path) -> tuple[Tensors, ...]:
    """Return the calibration tensors that ``write_calibration`` wrote."""
    samples: dict[int, dict[str, NDArray[np.float32]]] = {}
    with np.load(path, allow_pickle=False) as archive:
        for member in archive.files:
            number, _, name = member.partition(":")
            samples.setdefault(int(number), {})[name] = archive[member]
    return tuple(samples[number] for number in sorted(samples))


class Workers:
    """The processes that do jobs. ``stop`` ends those that run, and no other begins.

    A job whose answer lies in its folder already, files and all, is not done again.

    Args:
        memory_bytes: What one of them may allocate; None leaves it to the system.
    """

    def __init__(self, *, memory_bytes: int | None = None) -> None:
        self._memory_bytes = memory_bytes
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = False

    def read(self, job: ReadJob, folder: Path) -> Found:
        """Return what the front end found and wrote into ``folder``, which is made.

        Raises:
            ConfigError: The model is damaged, or is not what it seems.
            MissingPackageError: A package is not installed.
            UnsupportedModelError: The model cannot be read without more being said.
            QuantizationError: The front end died.
        """
        return self._done(job, folder, Found, f"the reader of {job.path.name}")

    def convert(self, job: ConvertJob, folder: Path) -> FloatFiles:
        """Return what the converter wrote into ``folder``, which is made.

        Raises:
            MissingPackageError: A package is not installed.
            UnsupportedModelError: The model holds an operator that the format cannot express.
            QuantizationError: The tools failed or died, or changed the model.
        """
        return self._done(job, folder, FloatFiles, f"the converter for {job.model_format.value}")

    def quantize(self, job: QuantizeJob, folder: Path) -> QuantizedFiles:
        """Return what the backend wrote into ``folder``, which is made.

        Raises:
            MissingPackageError: A package is not installed.
            QuantizationError: The tools failed, or died.
        """
        what = f"the quantizer for {job.model_format.value}"
        return self._done(job, folder, QuantizedFiles, what)

    def measure(self, job: SensitivityJob, folder: Path) -> Sensitivities:
        """Return how sensitive the model's layers are; ``folder`` is made.

        Raises:
            MissingPackageError: A package is not installed.
            QuantizationError: The tools failed, or died.
        """
        what = f"the measurement of layers for {job.model_format.value}"
        return self._done(job, folder, Sensitivities, what)

    def stop(self) -> None:
        """End what runs. Whoever waits for it gets a ``QuantizationError``."""
        with self._lock:
            self._stopped = True
            for process in self._running:
                process.kill()

    def _done(self, job: Job, folder: Path, kind: type[_Result], what: str) -> _Result:
        description = encode_job(job)
        path = folder / ANSWER_FILE
        if not _is_done(folder, description, kind):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            write_file(folder / JOB_FILE, description)
            code = self._run(folder, what)
            if not path.is_file():
                raise QuantizationError(_obituary(what, code, folder / LOG_FILE))
        answer = parse_json(read_bounded(path, _ANSWER_LIMIT_BYTES), Answer, what=str(path))
        if answer.failure is not None:
            raise _error_of(answer.failure)
        return msgspec.json.decode(answer.result, type=kind)

    def _run(self, folder: Path, what: str) -> int:
        with (folder / LOG_FILE).open("wb") as log:
            process = self._started(folder, log)
            try:
                return process.wait(TIMEOUT_S)
            except subprocess.TimeoutExpired as error:
                raise QuantizationError(
                    f"{what} did not finish within {TIMEOUT_S:.0f} s"
                ) from error
            finally:
                process.kill()
                process.wait()
                with self._lock:
                    self._running.discard(process)

    def _started(self, folder: Path, log: IO[bytes]) -> subprocess.Popen[bytes]:
        # C++ parts log to stderr whatever they like; PYTHONHASHSEED makes sets iterate alike.
        environment = os.environ | {"PYTHONHASHSEED": "0", "TF_CPP_MIN_LOG_LEVEL": "3"}
        with self._lock:
            if self._stopped:
                raise QuantizationError("stopped")
            process = subprocess.Popen(
                [sys.executable, "-m", "asdic.quantization.worker", str(folder), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
            )
            self._running.add(process)
            if self._memory_bytes is not None:
                limit = (self._memory_bytes, self._memory_bytes)
                resource.prlimit(process.pid, resource.RLIMIT_AS, limit)
            return process


def failure_of(error: AsdicError) -> Failure:
    """Return an error as data, so that ``Workers`` raises it again in the other process."""
    if isinstance(error, MissingPackageError):
        return Failure(kind="MissingPackageError", arguments=(error.package, error.extra))
    kind = type(error).__name__ if type(error).__name__ in _ERRORS else "QuantizationError"
    return Failure(kind=kind, arguments=(str(error),))


def _error_of(failure: Failure) -> AsdicError:
    if failure.kind == "MissingPackageError":
        package, extra = failure.arguments
        return MissingPackageError(package, extra)
    return _ERRORS.get(failure.kind, QuantizationError)(*failure.arguments)


def _is_done(folder: Path, description: bytes, kind: type[_Result]) -> bool:
    """Return whether the very same job was done in ``folder`` before, and its files are whole.

    An answer that another asdic wrote, of another form, does not count.
    """
    try:
        if read_bounded(folder / JOB_FILE, _ANSWER_LIMIT_BYTES) != description:
            return False
        content = read_bounded(folder / ANSWER_FILE, _ANSWER_LIMIT_BYTES)
        answer = parse_json(content, Answer, what=ANSWER_FILE)
        parse_json(bytes(answer.result), kind, what=ANSWER_FILE)
    except AsdicError:
        return False
    files = {name: folder / name for name in answer.digests}
    return answer.failure is None and all(
        path.is_file() and sha256_of(path) == answer.digests[name] for name, path in files.items()
    )


def _obituary(what: str, code: int, log: Path) -> str:
    tail = log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")
    lines = [line.strip() for line in tail.splitlines() if line.strip()]
    if code == -signal.SIGKILL or any(word in tail for word in OUT_OF_MEMORY):
        return (
            f"{what} ran out of memory; close other programs, use a machine with more, or a "
            "smaller input"
        )
    if code < 0:
        return f"{what} was killed by {signal.Signals(-code).name}"
    return f"{what} ended with code {code}: {lines[-1][:300] if lines else 'it said nothing'}"
