"""The process that runs one backend: ``python -m asdic.quantization.worker FOLDER``.

It is started by ``job.py``, which explains why. An expected error is part of the answer; anything
else keeps its traceback, in the log.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Final

from asdic.contract.errors import AsdicError
from asdic.contract.files import canonical_json, parse_json, read_bounded, write_file
from asdic.quantization.backends.backend import BACKENDS, Backend
from asdic.quantization.job import (
    ANSWER_FILE,
    JOB_FILE,
    PROGRAM_FILE,
    Answer,
    Job,
    failure_of,
    read_calibration,
)
from asdic.quantization.recipe import parse_recipe
from asdic.quantization.source import FloatModel, read_program

_JOB_LIMIT_BYTES: Final = 8 << 20


def main(folder: Path) -> None:
    """Do the job in ``folder`` and write the answer beside it."""
    _be_private()
    write_file(folder / ANSWER_FILE, canonical_json(_answer(folder)))


def _answer(folder: Path) -> Answer:
    job = parse_json(read_bounded(folder / JOB_FILE, _JOB_LIMIT_BYTES), Job, what=JOB_FILE)
    material = Path(job.material)
    module, function = BACKENDS[job.model_format].split(":")
    try:
        backend: Backend = getattr(importlib.import_module(module), function)
        model = FloatModel(
            program=read_program(material / PROGRAM_FILE),
            description=job.description,
            data=None,
            digest="",
        )
        recipe = parse_recipe(job.recipe, job.model_format)
        return Answer(files=backend(model, read_calibration(material), recipe, folder))
    except AsdicError as error:
        return Answer(failure=failure_of(error))


def _be_private() -> None:
    """Keep OpenVINO's converter and NNCF from reporting to their makers that they are used.

    Without the telemetry package both fall back to doing nothing.
    """
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    os.environ["NNCF_CI"] = "1"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
