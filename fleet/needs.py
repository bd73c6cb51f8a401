"""What a release's author adds to finished variants: what they need of the box, and firmware.

The variants' own folders stay as they are; a folder of links with another description takes the
place of each while the release is packed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from asdic.contract.errors import ConfigError
from asdic.contract.files import sha256_of, write_file
from asdic.contract.variant import (
    VARIANT_FILE,
    FileRef,
    FirmwarePart,
    Requirements,
    Variant,
    check_requirements,
    encode_variant,
    read_variant,
)

FIRMWARE_FILE: Final = "firmware.bin"


@dataclass(frozen=True, kw_only=True)
class FirmwareFile:
    """A firmware image that a release brings: its file, and what the bootloader knows of it."""

    path: Path
    board: str
    version: str
    digest: str


@contextmanager
def with_needs(
    folders: Mapping[str, Path], needs: Requirements, firmware: FirmwareFile | None
) -> Iterator[dict[str, Path]]:
    """Yield the variants in ``folders`` (target name to folder) as they are to be packed.

    Args:
        folders: The variants.
        needs: What they need beside what they say themselves; None keeps their own.
        firmware: The image that goes live with each of them, if any.

    Raises:
        ConfigError: A variant would contradict itself.
        DigestError: A variant's file differs from its description.
    """
    if needs == Requirements() and firmware is None:
        yield dict(folders)
        return
    with TemporaryDirectory(prefix="asdic-pack-") as place:
        yield {
            target: _changed(folder, Path(place) / target, needs, firmware)
            for target, folder in folders.items()
        }


def _changed(folder: Path, into: Path, needs: Requirements, firmware: FirmwareFile | None) -> Path:
    into.mkdir()
    variant = read_variant(folder)
    for file in variant.all_files:
        (into / file.name).symlink_to((folder / file.name).resolve())
    changed = msgspec.structs.replace(variant, requires=_both(variant.requires, needs))
    if firmware is not None:
        changed = _with_firmware(changed, into, firmware)
    check_requirements(changed, what=str(folder))
    write_file(into / VARIANT_FILE, encode_variant(changed))
    return into


def _both(own: Requirements, more: Requirements) -> Requirements:
    said = {
        name: value for name in own.__struct_fields__ if (value := getattr(more, name)) is not None
    }
    return msgspec.structs.replace(own, **said)


def _with_firmware(variant: Variant, into: Path, firmware: FirmwareFile) -> Variant:
    """Let a variant bring the image, in the place of one that it brought before."""
    path = into / FIRMWARE_FILE
    own = {file.name for file in msgspec.structs.replace(variant, firmware=None).all_files}
    if path.name in own:
        raise ConfigError(f"{variant.target}: {path.name} is a file of the model already")
    path.unlink(missing_ok=True)
    path.symlink_to(firmware.path.resolve())
    part = FirmwarePart(
        file=FileRef(name=path.name, digest=sha256_of(path), size_bytes=path.stat().st_size),
        board=firmware.board,
        version=firmware.version,
        digest=firmware.digest,
    )
    return msgspec.structs.replace(variant, firmware=part)
