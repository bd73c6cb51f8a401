"""Whether what lies on a box is what lies here: every file of every wheel, by its digest.

A wheel's own list of digests is as good as the wheel, whose digest is known here. What pip makes
on the box (starters in ``bin``, its notes, Python's caches) has no digest here; only its names are
compared.
"""

from __future__ import annotations

import base64
import csv
import io
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.errors import ConfigError
from asdic.fleet.flash.cargo import Version
from asdic.fleet.flash.flash import Flash

RECORD_LIMIT_BYTES: Final = 16 << 20
_PIPS_OWN: Final = re.compile(r".*\.dist-info/(INSTALLER|REQUESTED|RECORD|direct_url\.json)")
_MADE_HERE: Final = re.compile(r"bin/(python[0-9.]*|[Aa]ctivate(\.[a-z0-9]+)?)")
_DATA: Final = re.compile(r"[^/]+\.data/(?P<scheme>[a-z]+)/(?P<name>.+)")


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between the box and this side; all empty where nothing does.

    Attributes:
        address: The box.
        files: How many files were compared.
        missing: Files that are not on the box.
        different: Files with another digest.
        unexpected: Files that no wheel brings.
        undone: What a flash would do.
    """

    address: str
    files: int
    missing: tuple[str, ...] = ()
    different: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    undone: tuple[str, ...] = ()

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.missing or self.different or self.unexpected or self.undone)

    def lines(self) -> Iterator[str]:
        """Yield one line a difference."""
        for word in ("missing", "different", "unexpected", "undone"):
            yield from (f"{word}: {one}" for one in getattr(self, word))


def verify(flash: Flash) -> Comparison:
    """Compare a box with this side; nothing is changed.

    Raises:
        ConfigError: The version is not on the box at all, or a wheel here is damaged.
        LinkError: The box, or the manager, does not answer.
    """
    plan = flash.examine()
    if plan.needs.build:
        raise ConfigError(
            f"{plan.address} has no {plan.layout.version}; flash it first (see --dry-run)"
        )
    found = flash.staging.digests()
    undone = tuple(step.todo for step in plan.steps if step.todo)
    return compare(plan.address, expected_files(flash.version), found, undone)


def compare(
    address: str,
    expected: Mapping[str, str | None],
    found: Mapping[str, str],
    undone: tuple[str, ...] = (),
) -> Comparison:
    """Return how the files found differ from the expected ones (None: any digest)."""
    return Comparison(
        address=address,
        files=len(expected),
        missing=tuple(sorted(set(expected) - set(found))),
        different=tuple(
            sorted(
                name
                for name, digest in expected.items()
                if digest is not None and found.get(name, digest) != digest
            )
        ),
        unexpected=tuple(
            sorted(name for name in found if name not in expected and _is_somebodys(name))
        ),
        undone=undone,
    )


def _is_somebodys(name: str) -> bool:
    """Return whether neither pip nor venv makes such a file."""
    if name.startswith("bin/"):
        return not _MADE_HERE.fullmatch(name)
    return "/site-packages/" in name and not _PIPS_OWN.fullmatch(name)


def expected_files(version: Version) -> dict[str, str | None]:
    """Return the files that a version's wheels bring, by their names in its folder.

    Raises:
        ConfigError: A wheel is damaged.
    """
    expected: dict[str, str | None] = {}
    for wheel in version.wheels:
        expected |= _files_of(wheel.path, f"lib/python{version.python}/site-packages")
    return expected


def _files_of(wheel: Path, site: str) -> dict[str, str | None]:
    try:
        with zipfile.ZipFile(wheel) as archive:
            record = _member(archive, ".dist-info/RECORD")
            starters = _member(archive, ".dist-info/entry_points.txt", optional=True)
    except (OSError, zipfile.BadZipFile, KeyError, UnicodeDecodeError) as error:
        raise ConfigError(f"{wheel} is damaged: {error}") from error
    files: dict[str, str | None] = {f"bin/{name}": None for name in _starters(starters)}
    for name, digest, _size in csv.reader(io.StringIO(record)):
        if digest and not name.endswith((".pyc", "/RECORD")):
            place, is_rewritten = _place(name, site)
            files[place] = None if is_rewritten else _hex(digest)
    return files


def _member(archive: zipfile.ZipFile, end: str, *, optional: bool = False) -> str:
    """Return the text of the one member with such a name in the wheel's uppermost folders."""
    for info in archive.infolist():
        if info.filename.endswith(end) and info.filename.count("/") == 1:
            if info.file_size > RECORD_LIMIT_BYTES:
                raise KeyError(f"{info.filename} is too large")
            return archive.read(info).decode()
    if optional:
        return ""
    raise KeyError(f"it has no {end}")


def _place(name: str, site: str) -> tuple[str, bool]:
    """Return where an installer puts a wheel's file, and whether it rewrites its first line."""
    match = _DATA.fullmatch(name)
    if match is None or match["scheme"] in {"purelib", "platlib"}:
        return f"{site}/{match['name'] if match else name}", False
    if match["scheme"] == "scripts":
        return f"bin/{match['name']}", True
    return match["name"], False


def _starters(entry_points: str) -> Iterator[str]:
    section = ""
    for line in entry_points.splitlines():
        if line.startswith("["):
            section = line.strip()
        elif "=" in line and section in {"[console_scripts]", "[gui_scripts]"}:
            yield line.partition("=")[0].strip()


def _hex(digest: str) -> str:
    """Return a RECORD's ``sha256=<base64>`` in hex."""
    kind, _, text = digest.partition("=")
    if kind != "sha256":
        raise ConfigError(f"a wheel lists digests by {kind}, expected sha256")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).hex()
