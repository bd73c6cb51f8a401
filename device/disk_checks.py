"""What the doctor looks at on the disk: room, the two releases, and the agent's own files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Final

from asdic.contract.errors import AsdicError, ConfigError
from asdic.contract.files import check_digest, read_bounded
from asdic.contract.release import FILE_NAME, Descriptor, Manifest
from asdic.contract.variant import VARIANT_FILE
from asdic.device.case import Case, Found, as_error, as_ok, as_warning
from asdic.device.update.fetch import SPARE_BYTES, SPARE_FILES
from asdic.device.update.sealed import unseal_line
from asdic.device.update.state import FINAL
from asdic.device.update.store import Pointer, Store
from asdic.device.update.trust import MEMORY_LIMIT_BYTES

MIB: Final = 1 << 20


def check_disk(case: Case) -> Iterator[Found]:
    """Whether there is room for what comes next."""
    facts = os.statvfs(case.state.path)
    free = facts.f_bavail * facts.f_frsize
    what, needed = _next_need(case)
    found = f"{free // MIB} MiB free, the store takes {_size(case.state.path) // MIB} MiB; {what}"
    advice = f"free space on the file system of {case.state.path}"
    yield as_ok(found) if free >= needed + SPARE_BYTES else as_error(found, advice)
    if facts.f_files and facts.f_favail < SPARE_FILES:
        yield as_error(f"only {facts.f_favail} inodes are free", advice)


def _next_need(case: Case) -> tuple[str, int]:
    """Return what the release in hand, or the next one, needs on the disk; 0 where unknown."""
    store = case.store
    current = store.pointer(Pointer.CURRENT)
    try:
        in_hand = case.journal.manifest if case.journal.state not in FINAL else None
        if in_hand is not None and in_hand != current:
            needed = sum(blob.size for blob in store.missing(store.manifest(in_hand)))
            return f"the update in hand needs {needed // MIB + 1} MiB more", needed
        if current is not None:
            needed = sum(blob.size for blob in store.manifest(current).blobs)
            return f"another release like the current one needs {needed // MIB + 1} MiB", needed
    except (AsdicError, OSError):
        pass
    return "what the next release needs is not known", 0


def _size(folder: Path) -> int:
    """Return what the files below ``folder`` take on the disk, each once however often linked."""
    taken: dict[tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            facts = Path(place, name).lstat()
            taken[facts.st_dev, facts.st_ino] = facts.st_blocks * 512
    return sum(taken.values())


def check_store(case: Case) -> Iterator[Found]:
    """Every file of the current and the previous release against its signed digest."""
    for name, say in ((Pointer.CURRENT, as_error), (Pointer.PREVIOUS, as_warning)):
        digest = case.store.pointer(name)
        if digest is None:
            yield as_ok(f"there is no {name.value} release")
            continue
        try:
            count = _check_release(case.store, digest)
        except (AsdicError, OSError) as error:
            yield say(f"the {name.value} release is damaged: {error}", _REPAIR[name])
        else:
            yield as_ok(f"all {count} files of the {name.value} release have their signed digests")


_REPAIR: Final = MappingProxyType(
    {
        Pointer.CURRENT: "go back with `asdic-agent rollback`, or push a release; check the disk",
        Pointer.PREVIOUS: "there is no way back until the next update; check the disk",
    }
)


def _check_release(store: Store, digest: str) -> int:
    """Check a release's files and return how many there are.

    Raises:
        AsdicError: One is missing or damaged.
    """
    folder = store.release_folder(digest)
    files = tuple(release_files(store.manifest(digest)))
    for name, blob in files:
        check_digest(folder / name, digest=blob.digest, size_bytes=blob.size)
    return len(files)


def release_files(manifest: Manifest) -> Iterator[tuple[str, Descriptor]]:
    """Yield the name and the description of each file in a release's folder."""
    yield VARIANT_FILE, manifest.config
    yield from ((layer.annotations[FILE_NAME], layer) for layer in manifest.layers)


def check_files(case: Case) -> Iterator[Found]:
    """The agent's own small files, each with its seal, and the pointers."""
    state, trust = case.state, case.state.trust
    memory = tuple(
        trust / name
        for name in ("floor.json", "metadata.json", "image-root.json", "director-root.json")
    )
    files = (state.journal, state.report_number, state.path / "store" / "schema.json", *memory)
    damaged = [path for path in files if not _is_whole(path)]
    for path in damaged:
        yield as_error(
            f"{path.relative_to(state.path)} is damaged",
            "the agent goes on with what is left; check the disk, and enrol again if it does not",
        )
    for name in Pointer:
        digest = case.store.pointer(name)
        if digest is not None and not case.store.release_folder(digest).is_dir():
            yield as_error(f"{name.value} points to a release that is not there", "push a release")
    if case.report is None and state.last_report.exists():
        yield as_warning("the last report is damaged", "the next one replaces it")
    if not damaged:
        yield as_ok("journal, trust, numbers and pointers can be read")


def _is_whole(path: Path) -> bool:
    """Return whether a sealed file is what was written; one that is not there has no damage."""
    if not path.exists():
        return True
    try:
        data = read_bounded(path, MEMORY_LIMIT_BYTES)
        return data.isdigit() or bool(unseal_line(data, what=path.name))
    except ConfigError:
        return False
