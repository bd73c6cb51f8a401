"""Fetching the blobs of a release in chunks, so that a restart goes on where it stopped.

A blob lies at its full length beside a bitmap of its chunks. The data is made durable before the
bitmap says so; a lost bitmap entry only means that a chunk is fetched again. Whether the bytes
are right is for the store to say once a blob is complete.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final, Protocol

from asdic.contract.messages import (
    CHUNK_BYTES,
    PROGRESS_EVERY,
    PROGRESS_INTERVAL_S,
    REPAIR_AFTER_S,
    Missing,
    Progress,
    chunk_count,
)
from asdic.contract.release import Descriptor, hex_of
from asdic.device.update.refusal import RefusedInstallError
from asdic.device.update.storage import Storage
from asdic.device.update.store import Store

RANGES_LIMIT: Final = 64
MISSING_CHUNKS_LIMIT: Final = 64
SPARE_BYTES: Final = 16 << 20
SPARE_FILES: Final = 64


class BlobSource(Protocol):
    """Where chunks come from: a broker, or a folder. Chunks arrive as the link's messages."""

    def follow(self, blob: Descriptor) -> None:
        """Ask for the chunks of ``blob`` from now on.

        Raises:
            AsdicError: This source will never have it.
        """

    def leave(self, blob: Descriptor) -> None:
        """Ask for no more chunks of ``blob``."""

    def send_progress(self, progress: Progress) -> None:
        """Say how far this device is."""

    def send_missing(self, missing: Missing) -> None:
        """Ask for chunks again."""


def check_space(store: Store, storage: Storage, blobs: Iterable[Descriptor]) -> None:
    """Refuse a release that does not fit on the disk, before anything of it is fetched.

    Raises:
        InstallError: It does not fit.
    """
    wanted = tuple(blobs)
    needed = sum(blob.size - _held_bytes(store, blob) for blob in wanted) + SPARE_BYTES
    free = storage.space(store.folder)
    if needed > free.bytes:
        raise RefusedInstallError(
            "no-space",
            f"the release needs {needed >> 20} MiB on the disk, {free.bytes >> 20} MiB are free",
        )
    # Each blob is a file with a bitmap beside it, then a file in the release folder as well.
    files = 3 * len(wanted) + SPARE_FILES
    if files > free.files:
        raise RefusedInstallError(
            "no-space", f"the release needs {files} files on the disk, {free.files} are free"
        )


class PartialBlob:
    """One blob that is being fetched: its file, its bitmap, and what was not synced yet."""

    def __init__(self, blob: Descriptor, store: Store, storage: Storage) -> None:
        self.blob = blob
        self.name = hex_of(blob.digest)
        self.chunks = chunk_count(blob.size)
        self._path = store.partial_path(blob.digest)
        self._bitmap_path = store.bitmap_path(blob.digest)
        self._storage = storage
        self._bitmap = self._read_bitmap()
        self.unsynced = 0
        if self.chunks == 0:
            storage.write(self._path, b"")

    @property
    def have(self) -> int:
        """How many chunks are here."""
        return sum(byte.bit_count() for byte in self._bitmap)

    @property
    def is_complete(self) -> bool:
        """Whether all chunks are here."""
        return self.have == self.chunks

    def has(self, number: int) -> bool:
        """Return whether chunk ``number`` is here."""
        return bool(self._bitmap[number // 8] >> (number % 8) & 1)

    def take(self, number: int, data: bytes) -> bool:
        """Keep a chunk; return whether it was new. One of a wrong number or length is dropped."""
        if not 0 <= number < self.chunks or self.has(number):
            return False
        offset = number * CHUNK_BYTES
        if len(data) != min(CHUNK_BYTES, self.blob.size - offset):
            return False
        self._storage.write_at(self._path, offset, data)
        self._bitmap[number // 8] |= 1 << (number % 8)
        self.unsynced += 1
        return True

    def sync(self) -> None:
        """Make the taken chunks durable, then say so in the bitmap."""
        if self.unsynced:
            try:
                self._storage.sync(self._path)
            except OSError:
                self._start_over()
                raise
            self._storage.write(self._bitmap_path, bytes(self._bitmap))
            self.unsynced = 0

    def _start_over(self) -> None:
        """Forget all chunks: what the disk lost once, no later ``fsync`` admits to have lost."""
        self._bitmap = bytearray(len(self._bitmap))
        self.unsynced = 0
        with suppress(OSError):
            self._storage.remove(self._bitmap_path)
            self._storage.remove(self._path)

    def progress(self) -> Progress:
        """Return how far this blob is."""
        first = next(self._missing_ranges(), (self.chunks, self.chunks))[0]
        return Progress(blob=self.name, chunks=self.chunks, have=self.have, first_missing=first)

    def missing(self) -> Missing:
        """Return the first ranges that are not here: not more than a repair should carry."""
        ranges, left = [], MISSING_CHUNKS_LIMIT
        for first, last in self._missing_ranges():
            ranges.append((first, min(last, first + left - 1)))
            left -= ranges[-1][1] - first + 1
            if left <= 0 or len(ranges) == RANGES_LIMIT:
                break
        return Missing(blob=self.name, ranges=tuple(ranges))

    def _missing_ranges(self) -> Iterator[tuple[int, int]]:
        first = None
        for number in range(self.chunks):
            if self.has(number):
                if first is not None:
                    yield first, number - 1
                first = None
            elif first is None:
                first = number
        if first is not None:
            yield first, self.chunks - 1

    def _read_bitmap(self) -> bytearray:
        """Return the bitmap on disk; one that does not fit the blob counts for nothing."""
        size = -(-self.chunks // 8)
        if self._path.exists() and self._bitmap_path.exists():
            data = self._bitmap_path.read_bytes()
            spare = 8 * size - self.chunks
            if len(data) == size and (not data or data[-1] >> (8 - spare) == 0):
                return bytearray(data)
        return bytearray(size)


class Download:
    """All blobs that a release lacks, and the conversation about them."""

    def __init__(
        self,
        blobs: Iterable[Descriptor],
        store: Store,
        storage: Storage,
        source: BlobSource,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source = source
        self._clock = clock
        self._blobs = {
            partial.name: partial
            for partial in (PartialBlob(blob, store, storage) for blob in blobs)
        }
        self._spoke_s = dict.fromkeys(self._blobs, -PROGRESS_INTERVAL_S)
        self._heard_s = clock()

    @property
    def is_complete(self) -> bool:
        """Whether all chunks of all blobs are here and durable."""
        return all(blob.is_complete for blob in self._blobs.values())

    def start(self) -> None:
        """Ask for all that is not here, and say so: also after a new connection."""
        for blob in self._open():
            self._source.follow(blob.blob)
            self._speak(blob)

    def take(self, name: str, number: int, data: bytes) -> None:
        """Keep one chunk that arrived."""
        blob = self._blobs.get(name)
        if blob is None or not blob.take(number, data):
            return
        self._heard_s = self._clock()
        if blob.unsynced >= PROGRESS_EVERY or blob.is_complete:
            self._speak(blob)
        if blob.is_complete:
            self._source.leave(blob.blob)

    def tick(self) -> None:
        """Say how far we are where that is due, and ask for what does not come by itself."""
        now = self._clock()
        for blob in self._open():
            if now - self._spoke_s[blob.name] >= PROGRESS_INTERVAL_S:
                self._speak(blob)
        if now - self._heard_s >= REPAIR_AFTER_S:
            self._heard_s = now
            for blob in self._open():
                self._source.send_missing(blob.missing())

    def close(self) -> None:
        """Keep what came, and ask for no more.

        Where the disk does not take it, the bitmap just knows of fewer chunks.
        """
        for blob in self._blobs.values():
            with suppress(OSError):
                blob.sync()
            self._source.leave(blob.blob)

    def _open(self) -> Iterator[PartialBlob]:
        return (blob for blob in self._blobs.values() if not blob.is_complete)

    def _speak(self, blob: PartialBlob) -> None:
        blob.sync()
        self._spoke_s[blob.name] = self._clock()
        self._source.send_progress(blob.progress())


def _held_bytes(store: Store, blob: Descriptor) -> int:
    """Return how much of a blob is on the disk already; a sparse file counts what it takes."""
    path = store.partial_path(blob.digest)
    return min(path.stat().st_blocks * 512, blob.size) if path.exists() else 0
