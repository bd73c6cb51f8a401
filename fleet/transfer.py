"""Sends blobs: each chunk broadcast once to all who lack it, repairs to who asks.

A blob is read from the release folder and its digest checked before its first chunk leaves, so
that a damaged disk costs nobody a download. Proof of delivery is the device's own progress.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from asdic.contract.errors import DigestError
from asdic.contract.files import check_digest
from asdic.contract.messages import (
    CHUNK_BYTES,
    Missing,
    Progress,
    chunk_count,
    chunk_topic,
    repair_topic,
)
from asdic.contract.release import hex_of
from asdic.fleet.window import Window

log: Final = logging.getLogger(__name__)
_MAX_RANGES: Final = 64
_MAX_REPAIR: Final = 32


class Publisher(Protocol):
    """Where chunks go: the MQTT link, or a list in a test."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send ``payload`` with QoS 1."""

    def backlog(self) -> int:
        """Return how many messages the broker has not acknowledged."""


@dataclass(frozen=True, kw_only=True)
class TransferLimits:
    """How much is under way at most, and how long a silent device is waited for."""

    window: int = 8
    backlog: int = 16
    laggard_s: float = 30.0
    gather_s: float = 1.0


class Blob:
    """An open blob whose digest was right when it was opened."""

    def __init__(self, path: Path, digest: str) -> None:
        """Open and check the file.

        Raises:
            DigestError: It is missing, or its bytes are not those of the digest.
        """
        if not path.is_file():
            raise DigestError(f"blob {digest} is missing")
        self.size_bytes = path.stat().st_size
        check_digest(path, digest=digest, size_bytes=self.size_bytes)
        self.hex = hex_of(digest)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def chunks(self) -> int:
        """How many chunks it has."""
        return chunk_count(self.size_bytes)

    def chunk(self, number: int) -> bytes:
        """Return one chunk's bytes."""
        return os.pread(self._descriptor, CHUNK_BYTES, number * CHUNK_BYTES)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


@dataclass
class _Sending:
    blob: Blob
    window: Window
    repairs: dict[str, list[int]] = field(default_factory=dict)


class Transfer:
    """All blobs that devices are fetching now."""

    def __init__(
        self,
        path_of: Callable[[str], Path],
        publisher: Publisher,
        limits: TransferLimits | None = None,
    ) -> None:
        self._path_of = path_of
        self._publisher = publisher
        self._limits = limits or TransferLimits()
        self._sending: dict[str, _Sending] = {}
        self.sent_chunks = 0
        self.repaired_chunks = 0

    def on_progress(self, device: str, progress: Progress, now: float) -> None:
        """Note how far a device is with a blob.

        Raises:
            DigestError: There is no such blob, it is damaged, or the device counts other chunks.
        """
        sending = self._sending_of(progress.blob)
        if sending.blob.chunks != progress.chunks:
            raise DigestError(
                f"{progress.blob} has {sending.blob.chunks} chunks, not {progress.chunks}"
            )
        sending.window.progress(
            device,
            have=progress.have,
            first_missing=min(max(progress.first_missing, 0), progress.chunks),
            now=now,
        )

    def on_missing(self, device: str, missing: Missing, now: float) -> None:
        """Note what a device asks for again; it gets it on its own topic.

        Raises:
            DigestError: There is no such blob, or it is damaged.
        """
        sending = self._sending_of(missing.blob)
        wanted = list(_numbers(missing, sending.blob.chunks))
        lost = sending.window.missing(device, wanted, now)
        sending.repairs[device] = lost[:_MAX_REPAIR]

    def leave(self, device: str) -> None:
        """Stop waiting for a device, whose offer was withdrawn."""
        for sending in self._sending.values():
            sending.window.leave(device)
            sending.repairs.pop(device, None)

    def pump(self, now: float) -> int:
        """Send what is due until the broker has enough to do; return how many chunks left."""
        count = 0
        for sending in self._sending.values():
            for device in sending.window.eject(now):
                log.warning("%s makes no progress with %s", device, sending.blob.hex[:12])
            count += self._repair(sending)
            count += self._broadcast(sending, now)
        return count

    def close(self) -> None:
        """Close all blobs."""
        for sending in self._sending.values():
            sending.blob.close()
        self._sending.clear()

    def _broadcast(self, sending: _Sending, now: float) -> int:
        count = 0
        while self._publisher.backlog() < self._limits.backlog:
            number = sending.window.take(now)
            if number is None:
                break
            topic = chunk_topic(sending.blob.hex, number)
            self._publisher.publish(topic, sending.blob.chunk(number))
            count += 1
        self.sent_chunks += count
        return count

    def _repair(self, sending: _Sending) -> int:
        count = 0
        for device, numbers in sending.repairs.items():
            while numbers and self._publisher.backlog() < self._limits.backlog:
                number = numbers.pop(0)
                topic = repair_topic(device, sending.blob.hex, number)
                self._publisher.publish(topic, sending.blob.chunk(number))
                count += 1
        self.repaired_chunks += count
        return count

    def _sending_of(self, sha256: str) -> _Sending:
        if sha256 not in self._sending:
            digest = f"sha256:{sha256}"
            blob = Blob(self._path_of(digest), digest)
            window = Window(
                blob.chunks,
                size=self._limits.window,
                laggard_s=self._limits.laggard_s,
                gather_s=self._limits.gather_s,
            )
            self._sending[sha256] = _Sending(blob, window)
        return self._sending[sha256]


def _numbers(missing: Missing, chunks: int) -> Iterator[int]:
    for first, last in missing.ranges[:_MAX_RANGES]:
        yield from range(max(first, 0), min(last + 1, chunks))
