"""Small files of the device's own with a digest at their end, so that a flipped bit is noticed.

    <one line of JSON>
    <its sha256 in hex>

A flipped digit of a version or a digest would still be JSON. The seal proves no author, only that
these are the bytes that were written.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from asdic.contract.errors import ConfigError
from asdic.contract.files import canonical_json, parse_json, read_bounded

SCHEMA: Final = 2
"""Of all files in a state folder. 1 had no seals; an agent reads its own schema and older ones."""

_T = TypeVar("_T")


class NewerSchemaError(ConfigError):
    """A newer agent wrote this; what it means is not known here, so it is left alone."""


class _Header(msgspec.Struct, frozen=True):
    """What every schema has, and always will."""

    schema: int = 1


def seal(value: msgspec.Struct) -> bytes:
    """Return ``value`` as a sealed file."""
    return seal_line(canonical_json(value))


def seal_line(content: bytes) -> bytes:
    """Return ``content`` with a last line that is its digest."""
    return content + b"\n" + hashlib.sha256(content).hexdigest().encode() + b"\n"


def read_sealed(path: Path, kind: type[_T], limit_bytes: int) -> _T:
    """Return what was sealed into ``path``.

    Raises:
        NewerSchemaError: A newer agent wrote it.
        ConfigError: It is missing, damaged, or no ``kind``.
    """
    content = unseal_line(read_bounded(path, limit_bytes), what=str(path))
    schema = parse_json(content, _Header, what=str(path)).schema
    if schema > SCHEMA:
        raise NewerSchemaError(
            f"{path} is of schema {schema}, this agent knows {SCHEMA}; install the newer agent "
            "again. The model that runs stays"
        )
    return parse_json(content, kind, what=str(path))


def unseal_line(data: bytes, *, what: str) -> bytes:
    """Return the content of a sealed file; ``what`` is its name in an error.

    Schema 1 had no seals: JSON that ends with its own brace.

    Raises:
        ConfigError: It is damaged.
    """
    content, _, digest = data.rstrip(b"\n").rpartition(b"\n")
    if hashlib.sha256(content).hexdigest().encode() == digest:
        return content
    if data.endswith(b"}") and b"\n" not in data.strip():
        return data
    raise ConfigError(f"{what} is damaged: its digest is not that of its content")
