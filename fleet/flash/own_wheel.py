"""asdic's own wheel, packed from the very files that the operator runs.

Building it anew would need the sources and a build backend, which an installed asdic does not
have, and could give something else than what runs here. So the packages are packed as they lie,
in a checkout or in site-packages, with the metadata that pip noted when it installed them. Equal
files give equal bytes.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Iterator
from importlib.metadata import Distribution, distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec
import tomllib
from packaging.requirements import Requirement

from asdic.contract.errors import ConfigError

PARTS: Final = (
    "cli",
    "contract",
    "device",
    "firmware_bridge",
    "fleet",
    "quantization",
    "training",
)
WHEEL: Final = (
    "Wheel-Version: 1.0\nGenerator: asdic flash\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
)
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_MODE: Final = 0o100644 << 16
_AGAIN: Final = "install it again: pip install -e ."


class OwnWheel(msgspec.Struct, frozen=True, kw_only=True):
    """The wheel's file name and content, and what it requires, as in its metadata."""

    name: str
    data: bytes
    requires: tuple[str, ...]


def own_wheel() -> OwnWheel:
    """Return the wheel of the asdic that runs here.

    Raises:
        ConfigError: asdic is not installed, only in part, or its checkout has changed what it
            requires since.
    """
    asdic = _installed()
    members = dict(_packages())
    info = f"asdic-{asdic.version}.dist-info"
    members |= {f"{info}/{name}": data for name, data in _metadata(asdic)}
    record = f"{info}/RECORD"
    return OwnWheel(
        name=f"asdic-{asdic.version}-py3-none-any.whl",
        data=_zip({**dict(sorted(members.items())), record: _record(members, record)}),
        requires=tuple(asdic.requires or ()),
    )


def _installed() -> Distribution:
    # A checkout's egg-info, where Python starts in it, is found too, and says less.
    found = (one for one in distributions(name="asdic") if one.read_text("METADATA") is not None)
    asdic = next(found, None)
    if asdic is None:
        raise ConfigError(
            "asdic runs here without being installed, so its version and what it requires are "
            "not known; install it: pip install -e '.[fleet]' in its checkout"
        )
    checkout = _checkout(asdic)
    if checkout is not None:
        _check_is_current(asdic, checkout)
    return asdic


def _checkout(asdic: Distribution) -> Path | None:
    """Return the checkout of an editable install, or None for another kind."""
    origin: Any = json.loads(asdic.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return Path(unquote(urlsplit(origin["url"]).path))


def _check_is_current(asdic: Distribution, checkout: Path) -> None:
    """Check that pip's note of an editable install says what ``pyproject.toml`` says now.

    Raises:
        ConfigError: It does not, or the file is gone.
    """
    path = checkout / "pyproject.toml"
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{path} cannot be read, from where asdic was installed; {_AGAIN}") from (
            error
        )
    expected = {
        "version": project["version"],
        "requirements": _normal(project["dependencies"]),
        "commands": project["scripts"],
    }
    base = [line for line in asdic.requires or () if "extra ==" not in line]
    scripts = asdic.entry_points.select(group="console_scripts")
    noted = {
        "version": asdic.version,
        "requirements": _normal(base),
        "commands": {script.name: script.value for script in scripts},
    }
    changed = [what for what, value in expected.items() if value != noted[what]]
    if changed:
        raise ConfigError(
            f"{path} has changed since asdic was installed ({', '.join(changed)}); {_AGAIN}"
        )


def _normal(requirements: Iterable[str]) -> set[str]:
    return {str(Requirement(line)) for line in requirements}


def _packages() -> Iterator[tuple[str, bytes]]:
    """Yield name in the wheel and content of each file of asdic's packages."""
    for part in PARTS:
        spec = find_spec(f"asdic.{part}")
        folder = Path(spec.origin).parent if spec is not None and spec.origin else None
        if folder is None or not folder.is_dir():
            raise ConfigError(f"asdic.{part} is not installed here as files; {_AGAIN}")
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_file() and not any(map(_is_left_out, inside.parts)):
                yield f"asdic/{part}/{inside.as_posix()}", path.read_bytes()


def _is_left_out(name: str) -> bool:
    """Return whether a file or folder is Python's cache, hidden, or an editor's."""
    return name.startswith(".") or name == "__pycache__" or name.endswith((".pyc", "~"))


def _metadata(asdic: Distribution) -> Iterator[tuple[str, bytes]]:
    yield "WHEEL", WHEEL.encode()
    licenses = (f"licenses/{name}" for name in asdic.metadata.get_all("License-File") or ())
    for name in ("METADATA", "entry_points.txt", "top_level.txt", *licenses):
        text = asdic.read_text(name)
        if text is None and name == "entry_points.txt":
            raise ConfigError(f"the installed asdic has no {name}; {_AGAIN}")
        if text is not None:
            yield name, text.encode()


def _record(members: dict[str, bytes], own_name: str) -> bytes:
    """Return the list of files with their digests, as the wheel format has it."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    for name, data in sorted(members.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        writer.writerow((name, f"sha256={digest}", len(data)))
    writer.writerow((own_name, "", ""))
    return text.getvalue().encode()


def _zip(members: dict[str, bytes]) -> bytes:
    """Return a zip without times, users or other traces of this machine."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = _MODE
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, data)
    return packed.getvalue()
