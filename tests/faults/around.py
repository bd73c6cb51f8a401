"""What is around a device in the simulated world: releases, bytes, a trial and a program."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from asdic.contract.errors import AsdicError
from asdic.contract.messages import (
    CHUNK_BYTES,
    GateFacts,
    Loaded,
    Missing,
    Progress,
    Refusal,
    UpdateState,
)
from asdic.contract.release import Descriptor, hex_of
from asdic.contract.variant import read_variant
from asdic.device.application import HealthCall, Program
from asdic.device.config import StateFolder
from asdic.device.update.gate import Verdict
from asdic.device.update.storage import Storage
from asdic.device.update.store import Store
from asdic.device.update.update import Update
from asdic.device.update.work import Work
from tests.support.boards import Board


@dataclass(frozen=True, kw_only=True)
class Release:
    """What the yard signed: the offer of it as it came, and how its model behaves here.

    ``firmware`` is the digest of the image that has to run beside it, where that matters.
    """

    version: str
    manifest: str
    offer: bytes
    passes_gate: bool = True
    works_in_use: bool = True
    firmware: str = ""


@dataclass(kw_only=True)
class Memory:
    """What outlives a boot beside the disk: what the broker retains, and what the oracle knows.

    ``retained`` is the offer at the broker, None where there never was one; ``done`` the states
    whose part of the scenario has been played; ``committed`` the last version of which the device
    has said so, and ``has_lost_it`` whether it was found with an older one or none after that;
    ``most_bytes`` is how much its store has held at most. ``board`` is the microcontroller beside
    it, if it has one, and ``booted`` the digests of all images that ran there.
    """

    retained: bytes | None = None
    done: set[UpdateState] = field(default_factory=set)
    reports: list[dict[str, Any]] = field(default_factory=list)
    ran: list[str] = field(default_factory=list)
    gated: set[str] = field(default_factory=set)
    committed: str = ""
    has_lost_it: bool = False
    most_bytes: int = 0
    boots: int = 0
    board: Board | None = None
    booted: set[str] = field(default_factory=set)

    def copy(self) -> Memory:
        """Return one that goes its own way."""
        return Memory(
            retained=self.retained,
            done=set(self.done),
            reports=list(self.reports),
            ran=list(self.ran),
            gated=set(self.gated),
            committed=self.committed,
            has_lost_it=self.has_lost_it,
            most_bytes=self.most_bytes,
            boots=self.boots,
            board=copy.deepcopy(self.board),
            booted=set(self.booted),
        )


@dataclass(frozen=True, kw_only=True)
class Shore:
    """What lies on shore: releases by manifest, offers by name, blobs, and the time there.

    ``key`` is the device's own, which no fault of this table is about.
    """

    key: Ed25519PrivateKey
    releases: Mapping[str, Release]
    offers: Mapping[str, bytes]
    blobs: Mapping[str, bytes]
    now: datetime

    def release(self, version: str) -> Release:
        """Return a release by its version."""
        return next(one for one in self.releases.values() if one.version == version)


class Inferring:
    """The program: it loads what ``current`` names as ``asdic-runner`` does, and infers."""

    def __init__(self, state: StateFolder, releases: Mapping[str, Release], memory: Memory) -> None:
        self._state = state
        self._releases = releases
        self._memory = memory
        self._loaded: Loaded | None = None
        self._failed: HealthCall | None = None
        self._handled: str | None = None
        self._errors = 0
        self._store = Store(state.path, Storage())
        self.busy = False
        self.is_deaf = False

    def program(self) -> Program:
        """Return what it has said."""
        health = self._failed
        if self._loaded is not None:
            health = HealthCall(
                manifest=self._loaded.manifest,
                inferences=self._loaded.inferences,
                errors=self._errors,
            )
        return Program(loaded=self._loaded, health=health)

    def is_busy(self) -> bool:
        """Return whether an exam is in progress."""
        return self.busy

    @property
    def running(self) -> str | None:
        """The manifest (hex) that is loaded."""
        return hex_of(self._loaded.manifest) if self._loaded else None

    def tick(self) -> None:
        """Follow the pointer, then infer once."""
        if self.is_deaf:
            return
        link = self._state.path / "current"
        wanted = link.readlink().name if link.is_symlink() else None
        if wanted != self._handled:
            self._handled = wanted
            self._load(wanted)
        elif self._loaded is not None:
            self._infer(self._loaded)

    def _load(self, wanted: str | None) -> None:
        self._loaded, self._failed, self._errors = None, None, 0
        if wanted is None:
            return
        digest = f"sha256:{wanted}"
        try:
            # What the agent answers to ``current``, and what opening it checks.
            release = self._store.release(digest)
            read_variant(release.folder)
        except AsdicError as error:
            self._failed = HealthCall(manifest=digest, errors=1, reason=str(error))
            return
        self._loaded = Loaded(manifest=digest, version=release.version, pid=1, inferences=0)
        self._infer(self._loaded)

    def _infer(self, loaded: Loaded) -> None:
        self._memory.ran.append(hex_of(loaded.manifest))
        release = self._releases.get(loaded.manifest)
        if release is None or not release.works_in_use:
            self._errors += 1
        self._loaded = msgspec.structs.replace(loaded, inferences=loaded.inferences + 1)


class Around(Protocol):
    """What a trial needs to know of the world."""

    shore: Shore
    memory: Memory
    trials_pass: bool
    trials_hang: bool


class SimulatedTrial:
    """A trial that knows its verdict; it opens the files as the real one does."""

    def __init__(self, work: Work, around: Around) -> None:
        self._digest = work.digest
        self._around = around
        self._passes = around.shore.releases[work.digest].passes_gate and around.trials_pass
        self._polls = 0
        self._refusal = ""
        try:
            read_variant(work.store.release(work.digest).folder)
        except AsdicError as error:
            self._refusal = str(error)

    def poll(self) -> Verdict | None:
        """Return the verdict at the second look."""
        self._polls += 1
        if self._polls < 2 or self._around.trials_hang:
            return None
        if self._refusal:
            return Refusal(code="damaged", message=self._refusal)
        if not self._passes:
            return Refusal(code="golden", message="other outputs than those of the golden set")
        self._around.memory.gated.add(hex_of(self._digest))
        return GateFacts(
            outputs_checked=8,
            worst_difference=0.0,
            metric="dice",
            measured=90.0,
            limit=85.0,
            latency_ms_p50=1.0,
            load_s=0.1,
            memory_bytes=1 << 20,
        )

    def stop(self) -> None:
        """Nothing runs."""


class Bytes:
    """The way of the bytes: whatever is asked for arrives at the next tick."""

    def __init__(self, blobs: Callable[[str], bytes]) -> None:
        self._blobs = blobs
        self._followed: dict[str, Descriptor] = {}
        self.is_cut = False
        self.spoils = 0

    def follow(self, blob: Descriptor) -> None:
        """Send it from now on."""
        self._followed[blob.digest] = blob

    def leave(self, blob: Descriptor) -> None:
        """Send no more."""
        self._followed.pop(blob.digest, None)

    def send_progress(self, progress: Progress) -> None:
        """Nobody counts."""

    def send_missing(self, missing: Missing) -> None:
        """All of it comes anyway."""

    def tick(self, update: Update) -> None:
        """Deliver."""
        for digest, blob in () if self.is_cut else tuple(self._followed.items()):
            data = self._blobs(digest)
            if self.spoils:
                self.spoils -= 1
                data = bytes(len(data))
            for number in range(-(-blob.size // CHUNK_BYTES)):
                chunk = data[number * CHUNK_BYTES : (number + 1) * CHUNK_BYTES]
                update.take_chunk(hex_of(digest), number, chunk)
