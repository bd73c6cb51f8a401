"""Reading and writing files so that a reader never sees half of one.

The device's store does not use this module: its durable operations go through its own seam,
``asdic.device.update.storage``, where a test can stop them one by one.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from asdic.contract.errors import ConfigError, DigestError

_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}")
_T = TypeVar("_T")


def write_file(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data`` in one step that survives a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder that becomes ``path`` when the block ends well, and vanishes if not.

    Raises:
        ConfigError: ``path`` exists and ``replace`` is not set.
    """
    if path.exists() and not replace:
        raise ConfigError(f"{path} exists already; choose another folder or remove it")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        temporary.chmod(0o755)
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """Return the content of ``path``.

    Raises:
        ConfigError: The file cannot be read, or is larger than ``limit_bytes``.
    """
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > limit_bytes:
        raise ConfigError(f"{path} is larger than the {limit_bytes} bytes allowed for it")
    return data


def sha256_of(path: Path) -> str:
    """Return the digest of a file as ``sha256:<64 hex digits>``."""
    state = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return f"sha256:{state.hexdigest()}"


def check_digest(path: Path, *, digest: str, size_bytes: int) -> None:
    """Check a file against its signed description.

    Raises:
        DigestError: The file is missing, or its length or digest differs.
    """
    if not path.is_file():
        raise DigestError(f"{path.name} is missing")
    actual = path.stat().st_size
    if actual != size_bytes:
        raise DigestError(f"{path.name} has {actual} bytes, {size_bytes} were signed")
    found = sha256_of(path)
    if found != digest:
        raise DigestError(f"{path.name} has digest {found}, {digest} was signed")


def safe_name(name: str) -> str:
    """Return ``name`` if it is a plain file name that cannot leave its folder.

    Raises:
        DigestError: It holds a separator, starts with a dot, or has odd characters.
    """
    if not _SAFE_NAME.fullmatch(name):
        raise DigestError(f"{name!r} is not a plain file name; a member may not leave its folder")
    return name


def parse_json(data: bytes, kind: type[_T], *, what: str) -> _T:
    """Return ``data`` as a ``kind``.

    Raises:
        ConfigError: The bytes are not JSON or do not fit; the message says where.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} is damaged: {error}") from error


def canonical_json(value: object) -> bytes:
    """Return ``value`` as JSON with sorted keys and no spaces: equal values, equal bytes."""
    return msgspec.json.encode(value, order="deterministic")
