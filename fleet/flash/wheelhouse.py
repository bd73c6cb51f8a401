"""The wheelhouse of a box: all that it installs without an internet, brought here and kept.

asdic's own wheel is packed from what runs here (``own_wheel.py``). The rest comes by pip from the
operator's index, in the versions of ``device.txt``, and is kept in a cache under a hash of what
decides it, so the next box of its kind needs no index.

Measured on PyPI in November 2026, for glibc 2.31 and newer: x86_64 and aarch64 have every wheel
for CPython 3.10 to 3.13 with ``litert``, ``onnxruntime`` and, on x86_64, ``openvino``. On aarch64
``openvino`` needs glibc 2.35. ``tflite-runtime`` ends at Python 3.11. For armv7l there are wheels
of ``tflite-runtime`` (3.9 to 3.11) and ``cryptography``, and none of ``numpy``, ``msgspec``,
``psutil``, ``cffi`` and OpenCV: these have to come from an index for 32-bit ARM, from wheels that
the operator built, or from the box's own system (``provided``).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Final

import msgspec
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

from asdic.contract.errors import AsdicError, ConfigError, DigestError
from asdic.contract.files import (
    canonical_json,
    check_digest,
    new_folder,
    parse_json,
    read_bounded,
    sha256_of,
    write_file,
)
from asdic.contract.variant import FileRef
from asdic.fleet.flash.box_python import BoxPython, box_python
from asdic.fleet.flash.gather import Gathering, Pins
from asdic.fleet.flash.own_wheel import OwnWheel, own_wheel
from asdic.fleet.flash.pip_download import PipDownload

RUNTIMES: Final = ("litert", "openvino", "onnxruntime", "tflite-runtime")
MANIFEST_FILE: Final = "wheelhouse.json"
MANIFEST_FORMAT: Final = "asdic-wheelhouse/1"
REQUIREMENTS_FILE: Final = "requirements.txt"
PIP: Final = "pip>=23"
_MANIFEST_LIMIT_BYTES: Final = 1 << 20
_WHEELHOUSE_LIMIT_BYTES: Final = 2 << 30

Progress = Callable[[str], None]


class Wheelhouse(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of wheels for one kind of box.

    Attributes:
        folder: Where they lie, ``requirements.txt`` (names, versions and digests, for an
            installation by hand) and ``wheelhouse.json`` beside them.
        files: All wheels, asdic's own and pip's included.
    """

    folder: Path
    files: tuple[FileRef, ...]

    @property
    def size_bytes(self) -> int:
        """How much they are together."""
        return sum(file.size_bytes for file in self.files)


class _Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is in a folder of the cache, and what it was made for."""

    format: str
    architecture: str
    python: str
    runtime: str | None
    files: tuple[FileRef, ...]


def build_wheelhouse(
    cache: Path,
    *,
    architecture: str,
    python: str,
    runtime: str | None,
    progress: Progress,
    provided: Iterable[str] = (),
) -> Wheelhouse:
    """Return the wheelhouse of a box, built if this one was not built before.

    A second process that wants the same one waits for the first. What was not finished, or has
    changed since, is made anew.

    Args:
        cache: Folder that keeps wheelhouses; safe to remove.
        architecture: What ``uname -m`` says: ``x86_64``, ``aarch64`` or ``armv7l``.
        python: The box's CPython, ``3.10`` to ``3.13``.
        runtime: ``litert``, ``openvino``, ``onnxruntime`` or ``tflite-runtime``; None where the
            box has its own, as TensorRT.
        progress: Is told what is being done.
        provided: Names of packages that the box's system has, which are not brought.

    Raises:
        ConfigError: asdic runs on no such box, a package has no wheel for it (its subclass
            ``WheelMissingError`` names them), or the installed asdic cannot be packed.
        LinkError: The package index does not answer.
    """
    box = box_python(architecture, python)
    if runtime is not None and runtime not in RUNTIMES:
        raise ConfigError(f"no runtime {runtime!r}; there are {', '.join(RUNTIMES)}")
    asdic, absent = own_wheel(), tuple(sorted(provided))
    blank = _Manifest(
        format=MANIFEST_FORMAT, architecture=architecture, python=python, runtime=runtime, files=()
    )
    requires = (*_relevant(asdic, runtime), PIP)
    pins = _pins(runtime)
    below = cache / f"wheels-{_hash(blank, requires, pins, absent)}"
    fetch = partial(_fetch, box, requires, pins, runtime=runtime, provided=absent)
    brought = _kept(below, blank, partial(fetch, progress=progress), progress)
    whole = cache / f"wheelhouse-{_hash(blank, _references(brought), asdic.data)}"
    return _kept(whole, blank, partial(_assemble, brought, asdic), progress)


def _relevant(asdic: OwnWheel, runtime: str | None) -> tuple[str, ...]:
    """Return what a box needs of what asdic requires, the server's extras left out."""
    known = {f'extra == "{runtime}"', "extra =="}
    return tuple(
        line for line in asdic.requires if "extra ==" not in line or any(k in line for k in known)
    )
