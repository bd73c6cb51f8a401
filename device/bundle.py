"""The support bundle: what a person elsewhere needs to know about a box, and nothing else.

What is in it stands in one table. Each part is read as the type that it should be and written
anew, so that a damaged or a foreign file brings nothing along. No image, no golden set, no model
and no key is ever read for it: of the store it knows names, sizes and whether digests are right.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.metadata import distributions
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from asdic.contract.errors import AsdicError
from asdic.contract.files import canonical_json, check_digest, sha256_of, write_file
from asdic.contract.release import Descriptor
from asdic.device.checks import bare_address
from asdic.device.config import StateFolder, encode_config, read_config
from asdic.device.disk_checks import release_files
from asdic.device.doctor import Diagnosis
from asdic.device.log import read_log
from asdic.device.reports import read_last_report
from asdic.device.update.journal import JournalFile
from asdic.device.update.storage import Storage
from asdic.device.update.store import Store
from asdic.device.update.trust import RepositoryFloor, TrustFolder

FILES_LIMIT: Final = 10_000
"""More files than this are not listed."""


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the store; ``ok`` says whether its digest is right, None where none is known."""

    name: str
    size_bytes: int
    ok: bool | None


class FloorVersions(msgspec.Struct, frozen=True, kw_only=True):
    """The versions below which this box never goes, without keys."""

    image: dict[str, int]
    director: dict[str, int]
    security_counter: int
    issued_at: float


def write_bundle(path: Path, state: StateFolder, diagnosis: Diagnosis) -> tuple[str, ...]:
    """Write the bundle, readable by its owner alone, and return the names of its parts.

    A part that is missing or damaged is left out; the diagnosis says why.

    Raises:
        OSError: ``path`` cannot be written.
    """
    parts = {"doctor.json": canonical_json(diagnosis), **dict(_parts(state))}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in parts.items():
            member = tarfile.TarInfo(f"asdic-support/{name}")
            member.size, member.mode, member.mtime = len(data), 0o600, int(diagnosis.time_s)
            archive.addfile(member, io.BytesIO(data))
    write_file(path, gzip.compress(packed.getvalue(), mtime=0), mode=0o600)
    return tuple(parts)


def _parts(state: StateFolder) -> Iterator[tuple[str, bytes]]:
    for name, read in PARTS.items():
        with suppress(AsdicError, OSError, ValueError):
            yield name, read(state)


def _journal(state: StateFolder) -> bytes:
    return canonical_json(JournalFile(state.journal, Storage()).read())


def _floor(state: StateFolder) -> bytes:
    floor = TrustFolder(state.trust, Storage()).read().floor
    return canonical_json(
        FloorVersions(
            image=_versions(floor.image),
            director=_versions(floor.director),
            security_counter=floor.security_counter,
            issued_at=floor.issued_at,
        )
    )


def _versions(floor: RepositoryFloor) -> dict[str, int]:
    return {"root": floor.root, **{name: role.version for name, role in floor.roles.items()}}


def _settings(state: StateFolder) -> bytes:
    config = read_config(state)
    bare = bare_address(config.server)
    return encode_config(msgspec.structs.replace(config, server=bare))


def _report(state: StateFolder) -> bytes:
    return canonical_json(read_last_report(state))


def _log(state: StateFolder) -> bytes:
    return read_log(state).encode()


def _packages(_state: StateFolder) -> bytes:
    found = {f"{one.metadata['Name']}=={one.version}\n" for one in distributions()}
    return "".join(sorted(found, key=str.lower)).encode()


def _store(state: StateFolder) -> bytes:
    files = [*_blobs(state), *_releases(state)]
    return canonical_json(files[:FILES_LIMIT])


def _blobs(state: StateFolder) -> Iterator[StoredFile]:
    """Yield the blobs, which are named by their digests."""
    for path in sorted((state.path / "store" / "blobs").glob("*")):
        ok = path.is_file() and sha256_of(path) == f"sha256:{path.name}"
        yield _stored(path, state, ok)


def _releases(state: StateFolder) -> Iterator[StoredFile]:
    """Yield the files of the releases, which have their digests in a manifest."""
    store = Store(state.path, Storage())
    for folder in sorted((state.path / "releases").glob("*")):
        try:
            signed = dict(release_files(store.manifest(f"sha256:{folder.name}")))
        except AsdicError:
            signed = {}
        for path in sorted(folder.glob("*")):
            blob = signed.get(path.name)
            yield _stored(path, state, None if blob is None else _is_signed(path, blob))


def _is_signed(path: Path, blob: Descriptor) -> bool:
    try:
        check_digest(path, digest=blob.digest, size_bytes=blob.size)
    except (AsdicError, OSError):
        return False
    return True


def _stored(path: Path, state: StateFolder, ok: bool | None) -> StoredFile:
    return StoredFile(
        name=str(path.relative_to(state.path)), size_bytes=path.lstat().st_size, ok=ok
    )


PARTS: Final = MappingProxyType[str, Callable[[StateFolder], bytes]](
    {
        "agent.toml": _settings,
        "journal.json": _journal,
        "floor.json": _floor,
        "report.json": _report,
        "agent.log": _log,
        "store.json": _store,
        "packages.txt": _packages,
    }
)
"""All that goes into a bundle beside the diagnosis, in this order."""
