"""The wheelhouse of a box: all that it installs without an internet, brought here and kept.

asdic's own wheel is packed from what runs here (``own_wheel.py``). The rest comes by pip from the
operator's index, in the versions of ``device.txt``, and is kept in a cache under a hash of what
decides it, so the next box of its kind needs no index.

Measured on PyPI in November 2026, for glibc 2.31 and newer: x86_64 and aarch64 have every wheel
for CPython 3.10 to 3.13 with ``litert``, ``onnxruntime`` and, on x86_64, ``openvino``. On aarch64
``openvino`` needs glibc 2.35 and ``tflite-runtime`` 2.34; the latter ends at Python 3.11. For
armv7l there are wheels of ``tflite-runtime`` (3.9 to 3.11) and ``cryptography``, and none of
``numpy``, ``msgspec``, ``psutil``, ``cffi`` and OpenCV: these have to come from an index for 32-bit
ARM, from wheels that the operator built, or from the box's own system (``provided``).
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Final

import msgspec
from packaging.utils import parse_wheel_filename

from asdic.contract.errors import AsdicError, ConfigError
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
from asdic.fleet.flash.gather import Gathering, Pins, parse_requirement, required
from asdic.fleet.flash.own_wheel import OwnWheel, own_wheel
from asdic.fleet.flash.pip_download import PipDownload

RUNTIMES: Final = ("litert", "openvino", "onnxruntime", "tflite-runtime")
MANIFEST_FILE: Final = "wheelhouse.json"
MANIFEST_FORMAT: Final = "asdic-wheelhouse/1"
REQUIREMENTS_FILE: Final = "requirements.txt"
PIP: Final = "pip>=23"
FIRMWARE: Final = "firmware"
IMAGE_MAKING: Final = frozenset({"imgtool"})
"""Of that extra, what makes and signs images, which no box does."""
_MANIFEST_LIMIT_BYTES: Final = 1 << 20

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
    firmware: bool = False,
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
        firmware: Whether the box speaks with a microcontroller.
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
    asdic = own_wheel()
    extras = tuple(filter(None, (runtime, FIRMWARE if firmware else None)))
    recipe = _Recipe(
        box=box,
        runtime=runtime,
        extras=extras,
        requires=(*_on_a_box(required(asdic.requires, box, extras=extras)), PIP),
        pins=_pins(runtime),
        provided=tuple(sorted(provided)),
    )
    brought = _kept(cache / f"wheels-{_hash(recipe)}", recipe, _fetched(recipe, progress), progress)
    name = f"wheelhouse-{_hash(brought.files, asdic.data)}"
    return _kept(cache / name, recipe, _assembled(brought, asdic), progress)


class _Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """All that decides what is fetched, but for what the index holds today."""

    box: BoxPython
    runtime: str | None
    extras: tuple[str, ...]
    requires: tuple[str, ...]
    pins: str
    provided: tuple[str, ...]
    format: str = MANIFEST_FORMAT


def _on_a_box(requirements: Iterable[str]) -> Iterator[str]:
    """Yield the requirements that are not for the operator's side alone."""
    for line in requirements:
        if parse_requirement(line).name not in IMAGE_MAKING:
            yield line


Fill = Callable[[Path], None]
"""Puts wheels into an empty folder."""


def _pins(runtime: str | None) -> str:
    """Return the pins of a runtime that needs other versions than the rest, then all others."""
    here = files("asdic.fleet.flash")
    names = (f"device-{runtime}.txt", "device.txt")
    return "\n".join(
        here.joinpath(name).read_text() for name in names if here.joinpath(name).is_file()
    )


def _hash(*parts: object) -> str:
    return hashlib.sha256(canonical_json(parts)).hexdigest()[:16]


def _kept(folder: Path, recipe: _Recipe, fill: Fill, progress: Progress) -> Wheelhouse:
    """Return a folder of the cache, filled if it is not there as its manifest says."""
    with _locked(folder, progress):
        try:
            return _read(folder)
        except FileNotFoundError:
            pass
        except AsdicError as error:
            progress(f"makes {folder.name} anew: {error}")
        for rest in folder.parent.glob(f".{folder.name}.*"):
            shutil.rmtree(rest)
        with new_folder(folder, replace=True) as new:
            fill(new)
            _describe(new, recipe)
        return _read(folder)


@contextmanager
def _locked(folder: Path, progress: Progress) -> Iterator[None]:
    """Let one process make the folder; a killed one lets go."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("waits for another asdic that brings the same wheels")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read(folder: Path) -> Wheelhouse:
    """Return what lies in a folder of the cache, each file checked against its digest.

    Raises:
        FileNotFoundError: There is no such folder.
        AsdicError: It is damaged.
    """
    if not folder.exists():
        raise FileNotFoundError(folder)
    path = folder / MANIFEST_FILE
    manifest = parse_json(read_bounded(path, _MANIFEST_LIMIT_BYTES), _Manifest, what=str(path))
    for file in manifest.files:
        check_digest(folder / file.name, digest=file.digest, size_bytes=file.size_bytes)
    return Wheelhouse(folder=folder, files=manifest.files)


def _fetched(recipe: _Recipe, progress: Progress) -> Fill:
    """Return what fetches the wheels of the recipe, asdic's own apart."""

    def fill(folder: Path) -> None:
        box, extras = recipe.box, recipe.extras
        what = " and ".join(extras) or "the agent"
        progress(f"brings {what} for {box.architecture}, Python {box.python}")
        gathering = Gathering(box, Pins(recipe.pins, box), provided=recipe.provided)
        fetch = PipDownload(folder, box, progress)
        gathering.gather(recipe.requires, fetch, extras=extras)

    return fill


def _assembled(brought: Wheelhouse, asdic: OwnWheel) -> Fill:
    """Return what puts asdic's wheel beside those that were brought."""

    def fill(folder: Path) -> None:
        for file in brought.files:
            _link(brought.folder / file.name, folder / file.name)
        write_file(folder / asdic.name, asdic.data)

    return fill


def _link(source: Path, path: Path) -> None:
    """Give a file a second name, or copy it where the file system knows none."""
    try:
        path.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, path)


def _describe(folder: Path, recipe: _Recipe) -> None:
    """Write the manifest and the requirements of the wheels in a folder."""
    wheels = tuple(
        FileRef(name=path.name, digest=sha256_of(path), size_bytes=path.stat().st_size)
        for path in sorted(folder.glob("*.whl"))
    )
    manifest = _Manifest(
        format=recipe.format,
        architecture=recipe.box.architecture,
        python=recipe.box.python,
        runtime=recipe.runtime,
        files=wheels,
    )
    lines = "".join(_pinned(wheel) for wheel in wheels if not wheel.name.startswith("pip-"))
    write_file(folder / REQUIREMENTS_FILE, lines.encode())
    write_file(folder / MANIFEST_FILE, canonical_json(manifest))


def _pinned(wheel: FileRef) -> str:
    name, version, _, _ = parse_wheel_filename(wheel.name)
    return f"{name}=={version} --hash={wheel.digest}\n"
