"""How large what people bring may be: unpacking and parsing are bounded before they begin."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Final

from asdic.contract.errors import ConfigError

MODEL_LIMIT_BYTES: Final = 2 << 30
"""Protobuf and flatbuffers take no more."""

FILES_LIMIT: Final = 100_000


def check_size(path: Path) -> None:
    """Check that a file, an archive once it is unpacked, or a folder is of a size that asdic reads.

    Raises:
        ConfigError: It is larger, or an archive is damaged.
    """
    sizes = [path.stat().st_size] if path.is_file() else _sizes_in(path)
    if path.is_file() and zipfile.is_zipfile(path):
        sizes = _unpacked(path)
    if len(sizes) > FILES_LIMIT or sum(sizes) > MODEL_LIMIT_BYTES:
        raise ConfigError(
            f"{path} holds {sum(sizes)} bytes in {len(sizes)} files; asdic reads "
            f"{MODEL_LIMIT_BYTES} in {FILES_LIMIT}"
        )


def _sizes_in(folder: Path) -> list[int]:
    return [file.stat().st_size for file in folder.rglob("*") if file.is_file()]


def _unpacked(path: Path) -> list[int]:
    try:
        with zipfile.ZipFile(path) as archive:
            return [member.file_size for member in archive.infolist()]
    except zipfile.BadZipFile as error:
        raise ConfigError(f"{path} is a damaged archive") from error
