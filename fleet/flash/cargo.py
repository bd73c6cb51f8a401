"""What is carried to a box: the wheels of its version, and the release with its offer."""

from __future__ import annotations

import hashlib
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import msgspec

from asdic.contract.errors import ConfigError
from asdic.contract.files import canonical_json, sha256_of
from asdic.contract.release import Layout, hex_of
from asdic.contract.target import Runtime, Target
from asdic.contract.variant import FileRef
from asdic.fleet.flash.facts import Facts, Marker
from asdic.fleet.releases import export_release

PIECE_BYTES: Final = 256 << 10
_MANYLINUX: Final = re.compile(r"manylinux_(\d+)_(\d+)_")
_OLD_TAGS: Final = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}


class Wheels(Protocol):
    """A folder of wheels: those of one version, and pip's own."""

    @property
    def folder(self) -> Path:
        """Where they lie."""

    @property
    def files(self) -> tuple[FileRef, ...]:
        """Their names, digests and sizes."""


class Wheelhouse(Protocol):
    """Brings the wheels for an architecture, a Python, a runtime, and a microcontroller or none."""

    def __call__(
        self, *, architecture: str, python: str, runtime: str | None, firmware: bool
    ) -> Wheels:
        """Return the wheels, out of the cache where they have been brought before."""


class File(msgspec.Struct, frozen=True, kw_only=True):
    """A file to carry: where it is here, and its name below ``incoming`` there."""

    path: Path
    name: str
    sha256: str
    size_bytes: int

    def pieces(self) -> Iterator[bytes]:
        """Yield its bytes."""
        with self.path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version of asdic with its runtime, for one Python: the wheels, and pip to install them.

    ``system_packages`` lets it see what the system's Python has, where JetPack brings the runtime.
    """

    asdic: str
    python: str
    wheels: tuple[File, ...]
    pip: File
    system_packages: bool

    @property
    def name(self) -> str:
        """The name of its folder: equal wheels for an equal Python, equal name."""
        parts = (self.python, self.system_packages, sorted(one.sha256 for one in self.wheels))
        return f"{self.asdic}-{hashlib.sha256(canonical_json(parts)).hexdigest()[:12]}"

    @property
    def marker(self) -> Marker:
        """What is written into its folder when it is complete."""
        return Marker(
            asdic=self.asdic,
            python=self.python,
            wheels={one.path.name: one.sha256 for one in self.files},
        )

    @property
    def files(self) -> tuple[File, ...]:
        """Everything to carry."""
        return (*self.wheels, self.pip)

    @property
    def size_bytes(self) -> int:
        """How much is carried."""
        return sum(one.size_bytes for one in self.files)

    @property
    def glibc(self) -> tuple[int, int]:
        """The oldest C library that all wheels run on."""
        return max(_glibc_of(one.path.name) for one in self.wheels)

    @property
    def unpacked_bytes(self) -> int:
        """How much the wheels hold."""
        return sum(_unpacked_bytes(one.path) for one in self.wheels)


def runtime_of(target: Target, *, simulate: bool) -> Runtime | None:
    """Return the runtime to bring; None where the box's system has it."""
    runtime = target.simulator if simulate else target.runtime
    return None if runtime is Runtime.TENSORRT else runtime


def version_for(
    facts: Facts, target: Target, *, simulate: bool, firmware: bool, wheelhouse: Wheelhouse
) -> Version:
    """Return the version of asdic for a box.

    Args:
        facts: What was found there.
        target: What it is.
        simulate: Whether it stands in for the target.
        firmware: Whether a microcontroller is beside it.
        wheelhouse: Brings the wheels.

    Raises:
        ConfigError: The wheels cannot be brought, or are not complete.
    """
    runtime = runtime_of(target, simulate=simulate)
    wheels = wheelhouse(
        architecture=facts.architecture,
        python=facts.python_minor,
        runtime=None if runtime is None else runtime.value,
        firmware=firmware,
    )
    files = {file.name: _carried(wheels.folder, file) for file in wheels.files}
    pip = [name for name in files if name.startswith("pip-")]
    asdic = [name for name in files if name.startswith("asdic-")]
    if len(pip) != 1 or len(asdic) != 1:
        raise ConfigError(f"{wheels.folder} needs one wheel of pip and one of asdic")
    return Version(
        asdic=asdic[0].split("-")[1],
        python=facts.python_minor,
        wheels=tuple(files[name] for name in sorted(files) if name != pip[0]),
        pip=files[pip[0]],
        system_packages=runtime is None,
    )


def _carried(folder: Path, file: FileRef) -> File:
    sha256 = hex_of(file.digest)
    return File(
        path=folder / file.name,
        name=f"{sha256}/{file.name}",
        sha256=sha256,
        size_bytes=file.size_bytes,
    )


def _glibc_of(wheel: str) -> tuple[int, int]:
    """Return the oldest glibc that one of a wheel's tags promises; (0, 0) for pure Python."""
    found = [(int(major), int(minor)) for major, minor in _MANYLINUX.findall(wheel)]
    found += [version for name, version in _OLD_TAGS.items() if f"{name}_" in wheel]
    return min(found, default=(0, 0))


def _unpacked_bytes(wheel: Path) -> int:
    with zipfile.ZipFile(wheel) as archive:
        return sum(member.file_size for member in archive.infolist())


class ReleaseCargo(msgspec.Struct, frozen=True, kw_only=True):
    """A release for one target: its name, its manifest's digest, and the bytes of its blobs."""

    version: str
    manifest: str
    size_bytes: int


def release_for(releases: Path, version: str, target: str) -> ReleaseCargo:
    """Return what a release is for a target.

    Raises:
        ConfigError: There is no such release, or it has no variant for the target.
    """
    layout = Layout.open(releases)
    release = layout.release(version)
    manifest = layout.manifest(release, target)
    return ReleaseCargo(
        version=version,
        manifest=release.variants[target].digest,
        size_bytes=sum(blob.size for blob in manifest.blobs),
    )


@contextmanager
def exported(
    releases: Path, cargo: ReleaseCargo, *, target: str, offers: Mapping[str, str]
) -> Iterator[tuple[str, tuple[File, ...]]]:
    """Yield the release as ``asdic export`` writes it: its folder's name, and the files.

    The blobs of other targets stay here.
    """
    layout = Layout.open(releases)
    release = layout.release(cargo.version)
    own = {blob.digest for blob in layout.manifest(release, target).blobs}
    others = {
        hex_of(blob.digest)
        for other in release.variants
        for blob in layout.manifest(release, other).blobs
        if blob.digest not in own
    }
    folder = f"release-{hex_of(cargo.manifest)}"
    with tempfile.TemporaryDirectory(prefix="asdic-flash-") as temporary:
        out = Path(temporary, "release")
        export_release(layout, cargo.version, offers, out)
        paths = [path for path in sorted(out.rglob("*")) if path.is_file()]
        yield (
            folder,
            tuple(
                File(
                    path=path,
                    name=f"{folder}/{path.relative_to(out)}",
                    sha256=hex_of(sha256_of(path)),
                    size_bytes=path.stat().st_size,
                )
                for path in paths
                if path.name not in others
            ),
        )
