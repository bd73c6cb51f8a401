"""Which wheels a box needs: from what asdic requires, along what each wheel says that it requires.

Versions are those of a list of pins as far as it goes. Pip's own resolver is not asked: it takes
the markers of the machine it runs on for the box's. Nothing is fetched here; ``Fetch`` does that.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Final

from packaging.markers import UndefinedEnvironmentName
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from asdic.contract.errors import ConfigError
from asdic.fleet.flash.box_python import BoxPython

Fetch = Callable[[Sequence[str]], Iterable[Path]]
"""Brings a wheel for each requirement, as ``numpy==2.2.6``, and returns where they are."""

STAND_INS: Final = {"crcmod": "crcmod-plus"}
"""What has wheels of the same module, for a package of which there are sources alone."""

METADATA_LIMIT_BYTES: Final = 4 << 20
ROUNDS_LIMIT: Final = 32


class Pins:
    """The versions to take, one a line as ``numpy==2.2.6; python_version < "3.11"``.

    Of several lines of one package the first that fits counts.

    Args:
        text: The lines; ``#`` starts a comment.
        box: For whose markers.
    """

    def __init__(self, text: str, box: BoxPython) -> None:
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        self._pins = [pin for line in lines if line and _holds(pin := Requirement(line), box)]

    def choose(self, name: str, specifier: SpecifierSet) -> str:
        """Return what to ask for: the pinned version, or what is required where none fits."""
        for pin in self._pins:
            version = str(pin.specifier).removeprefix("==")
            if canonicalize_name(pin.name) == name and specifier.contains(version, True):
                return f"{name}=={version}"
        return f"{name}{specifier}"


class Gathering:
    """The wheels of one box, as they come together.

    Args:
        box: Whose interpreter decides.
        pins: The versions to take.
        provided: Names of packages that the box has itself.
    """

    def __init__(self, box: BoxPython, pins: Pins, *, provided: Iterable[str] = ()) -> None:
        self._box = box
        self._pins = pins
        self._provided = {canonicalize_name(name) for name in provided}
        self._wanted: dict[str, SpecifierSet] = {}
        self._extras: dict[str, set[str]] = {}
        self._found: dict[str, tuple[Version, tuple[Requirement, ...]]] = {}

    def gather(self, requirements: Iterable[str], fetch: Fetch, *, extras: Iterable[str]) -> None:
        """Fetch all that ``requirements`` lead to.

        Args:
            requirements: As in a wheel's metadata, markers included.
            fetch: Brings the wheels.
            extras: With which extras they are meant.

        Raises:
            ConfigError: Two packages do not go together, or a wheel is damaged.
        """
        for requirement in map(parse_requirement, requirements):
            self._want(requirement, extras, by="asdic")
        for _ in range(ROUNDS_LIMIT):
            absent = sorted(self._wanted.keys() - self._found.keys())
            if not absent:
                return
            for path in fetch([self._pins.choose(name, self._wanted[name]) for name in absent]):
                self._take(path)
            self._check_came(absent)
            for name in absent:
                self._follow(name)
        raise ConfigError(f"{', '.join(absent)}: required too many times over")

    def _want(self, requirement: Requirement, extras: Iterable[str], *, by: str) -> None:
        if not _holds(requirement, self._box, extras):
            return
        name = canonicalize_name(requirement.name)
        if requirement.url is not None:
            raise ConfigError(f"{by} requires {requirement}, which no package index has")
        if name in self._provided:
            return
        # A stand-in counts its versions for itself.
        specifier = SpecifierSet() if name in STAND_INS else requirement.specifier
        name = canonicalize_name(STAND_INS.get(name, name))
        self._wanted[name] = self._wanted.get(name, SpecifierSet()) & specifier
        if name in self._found:
            self._check_fits(name, by=by)
        fresh = set(requirement.extras) - self._extras.setdefault(name, set())
        self._extras[name] |= fresh
        if fresh and name in self._found:
            self._follow(name)

    def _take(self, path: Path) -> None:
        try:
            name, version, _, _ = parse_wheel_filename(path.name)
        except InvalidWheelFilename as error:
            raise ConfigError(f"{path.name} is no wheel's name") from error
        self._found[name] = (version, tuple(requirements_of(path)))

    def _check_came(self, absent: Iterable[str]) -> None:
        for name in absent:
            if name not in self._found:
                raise ConfigError(f"no wheel of {name} came, though pip found nothing wrong")
            self._check_fits(name, by="asdic")

    def _check_fits(self, name: str, *, by: str) -> None:
        version, _ = self._found[name]
        if not self._wanted[name].contains(version, prereleases=True):
            raise ConfigError(
                f"{name} {version} does not go together with what {by} requires "
                f"({name}{self._wanted[name]}); another version has to be pinned"
            )

    def _follow(self, name: str) -> None:
        for requirement in self._found[name][1]:
            self._want(requirement, self._extras[name], by=name)


def required(
    requirements: Iterable[str], box: BoxPython, *, extras: Iterable[str]
) -> tuple[str, ...]:
    """Return those of ``requirements`` that a box has, with ``extras``."""
    found = map(parse_requirement, requirements)
    return tuple(str(one) for one in found if _holds(one, box, extras))


def parse_requirement(line: str) -> Requirement:
    """Return one requirement.

    Raises:
        ConfigError: It is none.
    """
    try:
        return Requirement(line)
    except InvalidRequirement as error:
        raise ConfigError(f"{line!r} is no requirement: {error}") from error


def requirements_of(wheel: Path) -> Iterator[Requirement]:
    """Yield what a wheel requires.

    Raises:
        ConfigError: It is damaged.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            name = next(one for one in archive.namelist() if one.endswith(".dist-info/METADATA"))
            if archive.getinfo(name).file_size > METADATA_LIMIT_BYTES:
                raise ConfigError(f"{wheel.name}: its METADATA is too large")
            headers = BytesHeaderParser().parsebytes(archive.read(name))
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise ConfigError(f"{wheel.name} is no wheel, or is damaged") from error
    yield from map(parse_requirement, headers.get_all("Requires-Dist") or ())


def _holds(requirement: Requirement, box: BoxPython, extras: Iterable[str] = ()) -> bool:
    """Return whether a requirement's marker holds on the box, with one of ``extras`` or none."""
    marker = requirement.marker
    if marker is None:
        return True
    try:
        return any(marker.evaluate({**box.markers, "extra": one}) for one in ("", *extras))
    except UndefinedEnvironmentName as error:
        raise ConfigError(f"{requirement}: {error}") from error
