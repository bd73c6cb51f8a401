"""One box with a microcontroller beside it: the real update on a real disk, asked in threads.

The trial passes at once, and the program says what the test wants; both have tests of their own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.messages import GateFacts, Loaded, Missing, Progress, UpdateState
from asdic.contract.release import Descriptor
from asdic.device.application import HealthCall, Program
from asdic.device.config import FirmwareConfig, FramesConfig
from asdic.device.link import ChunkArrived, FolderLink, OfferArrived
from asdic.device.peripherals import frames_for
from asdic.device.update.gate import Verdict
from asdic.device.update.microcontroller import AskedInThread, OpenLink
from asdic.device.update.storage import Storage
from asdic.device.update.store import Pointer
from asdic.device.update.update import Update
from asdic.device.update.work import Work
from tests.support.boxes import Box
from tests.support.yard import Yard

PATIENCE_S: Final = 20.0
TICK_S: Final = 0.005


@dataclass
class Following:
    """A program that runs what ``current`` names, as soon as it is there."""

    state: Path
    loaded: Loaded | None = None
    errors: int = 0
    busy: bool = False
    follows: bool = True

    def program(self) -> Program:
        """Return what it says: one inference more at each look."""
        link = self.state / "current"
        named = f"sha256:{link.readlink().name}" if link.is_symlink() else None
        if self.follows and named is not None:
            is_new = self.loaded is None or self.loaded.manifest != named
            done = 0 if is_new or self.loaded is None else self.loaded.inferences
            self.loaded = Loaded(manifest=named, version="", pid=1, inferences=done + 1)
        if self.loaded is None:
            return Program()
        health = HealthCall(manifest=self.loaded.manifest, errors=self.errors, reason="why")
        return Program(loaded=self.loaded, health=health)

    def is_busy(self) -> bool:
        """Return whether an exam is in progress."""
        return self.busy


class PassingTrial:
    """A trial that ends well at once."""

    def __init__(self, work: Work) -> None:
        del work

    def poll(self) -> Verdict | None:
        """Return what a small model measures."""
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


@dataclass
class Stick:
    """A folder that gives the blobs, and a note of those that were asked for."""

    link: FolderLink | None = None
    followed: list[str] = field(default_factory=list)

    def follow(self, blob: Descriptor) -> None:
        """Read it."""
        self.followed.append(blob.digest)
        if self.link is not None:
            self.link.follow(blob)

    def leave(self, blob: Descriptor) -> None:
        """Read it no more."""
        if self.link is not None:
            self.link.leave(blob)

    def send_progress(self, progress: Progress) -> None:
        """Nobody counts."""

    def send_missing(self, missing: Missing) -> None:
        """All of it comes anyway."""


class Dock:
    """The box.

    Args:
        yard: Where its releases come from.
        folder: An empty folder.
        open_link: Opens the link to the microcontroller; None: there is none.
        firmware: That part of its configuration.
        ring: The path of its frame ring, if it has one.
        patience_s: How long a test waits for something.
    """

    def __init__(
        self,
        yard: Yard,
        folder: Path,
        *,
        open_link: OpenLink | None = None,
        firmware: FirmwareConfig = FirmwareConfig(patience_s=60.0),  # noqa: B008 (frozen)
        ring: Path | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.patience_s = patience_s
        self.yard = yard
        self.box = Box.make(folder / "box1", roots=yard.roots)
        self.config = msgspec.structs.replace(
            self.box.config, firmware=firmware, frames=FramesConfig(ring=str(ring or ""))
        )
        self.open_link = open_link
        self.program = Following(self.box.state.path)
        self.later_s = 0.0
        self.states: list[UpdateState] = []
        self.start()

    def start(self) -> None:
        """Start the agent's update, again after a restart."""
        self.stick = Stick()
        asked = AskedInThread(self.open_link, pause_s=0.0) if self.open_link else None
        self.update = Update(
            self.box.state,
            self.config,
            storage=Storage(),
            source=self.stick,
            program=self.program,
            crashes=lambda: 0,
            changed=lambda journal: self.states.append(journal.state),
            open_trial=PassingTrial,
            microcontroller=asked,
            frames=frames_for(self.config),
            clock=lambda: time.monotonic() + self.later_s,
        )
        self.update.resume()

    @property
    def state(self) -> UpdateState:
        """Where the update stands."""
        return self.update.journal.state

    @property
    def code(self) -> str:
        """Why it was refused, in one word."""
        return self.update.journal.refusal.code if self.update.journal.refusal else ""

    @property
    def reason(self) -> str:
        """Why it was refused, in a sentence."""
        return self.update.journal.refusal.message if self.update.journal.refusal else ""

    @property
    def current(self) -> str | None:
        """The version of the current release."""
        digest = self.update.store.pointer(Pointer.CURRENT)
        return self.update.store.release(digest).version if digest else None

    def offer(self, version: str, *, rollout: str = "") -> None:
        """Plug in a stick with a release."""
        self.stick.link = FolderLink(self.yard.stick(version, rollout=rollout), "box1")
        self.stick.link.start()

    def turn(self) -> None:
        """Take what arrived, and do what is due."""
        while self.stick.link is not None and (arrival := self.stick.link.receive(0.0)) is not None:
            match arrival:
                case OfferArrived():
                    self.update.take_offer(arrival.data)
                case ChunkArrived():
                    self.update.take_chunk(arrival.blob, arrival.number, arrival.data)
                case _:
                    pass
        self.update.tick()

    def until(self, condition: Callable[[], bool]) -> None:
        """Go on until something is so."""
        deadline_s = time.monotonic() + self.patience_s
        while not condition():
            assert time.monotonic() < deadline_s, f"still {self.state}: {self.update.journal}"
            self.turn()
            time.sleep(TICK_S)

    def until_state(self, state: UpdateState) -> None:
        """Go on until the update is in a state."""
        self.until(lambda: self.state is state)

    def until_over(self) -> None:
        """Go on until no update is in hand."""
        self.until(lambda: self.update.is_settled and not self.update.has_pending)

    def install(self, version: str) -> None:
        """Offer a release and go on until that is over."""
        self.offer(version)
        self.turn()
        self.until_over()

    def go_on(self, seconds: float) -> None:
        """Let time pass for the deadlines, and a few turns."""
        self.later_s += seconds
        for _ in range(3):
            self.turn()


@contextmanager
def docked(dock: Dock) -> Iterator[Dock]:
    """Yield a dock whose update is stopped in the end."""
    try:
        yield dock
    finally:
        dock.update.stop()
