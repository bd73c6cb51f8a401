"""One box in this process: the real update on a real disk, moved on by hand.

What the inferring program says is chosen by the test. The trial is real, or passes at once where
the test is about something else; a microcontroller beside the box is asked in threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.messages import (
    GateFacts,
    Loaded,
    Missing,
    Progress,
    RuntimeFacts,
    UpdateState,
)
from asdic.contract.release import Descriptor
from asdic.device.application import HealthCall, Program
from asdic.device.config import FirmwareConfig, FramesConfig
from asdic.device.link import Arrival, ChunkArrived, FolderLink, OfferArrived
from asdic.device.peripherals import frames_for
from asdic.device.update.gate import Verdict
from asdic.device.update.machine import Machine
from asdic.device.update.microcontroller import AskedInThread, OpenLink
from asdic.device.update.storage import Storage
from asdic.device.update.store import Pointer
from asdic.device.update.update import Update
from asdic.device.update.work import OpenTrial, Work, open_trial
from tests.support.boxes import Box
from tests.support.yard import Yard

PATIENCE_S: Final = 30.0
TICK_S: Final = 0.005


@dataclass
class Plug:
    """In the program's place: it says what the test wants, or runs what ``current`` names."""

    state: Path
    follows: bool
    said: Program = field(default_factory=Program)
    errors: int = 0
    busy: bool = False

    def program(self) -> Program:
        """Return what it says; where it follows, one inference more at each look."""
        link = self.state / "current"
        if self.follows and link.is_symlink():
            self._follow(f"sha256:{link.readlink().name}")
        return self.said

    def _follow(self, manifest: str) -> None:
        loaded = self.said.loaded
        done = loaded.inferences if loaded is not None and loaded.manifest == manifest else 0
        self.infer(manifest, inferences=done + 1, errors=self.errors)

    def infer(
        self,
        manifest: str,
        *,
        inferences: int = 5,
        errors: int = 0,
        runtime: RuntimeFacts | None = None,
    ) -> None:
        """Say from now on that this is what it runs."""
        loaded = Loaded(manifest=manifest, version="", pid=1, inferences=inferences)
        health = HealthCall(manifest=manifest, inferences=inferences, errors=errors, reason="why")
        self.said = Program(loaded=loaded, health=health, runtime=runtime)

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
    """Folders that are plugged in one after the other, and a note of the blobs asked for."""

    link: FolderLink | None = None
    followed: list[str] = field(default_factory=list)

    def plug_in(self, folder: Path) -> None:
        """Read from this folder, and from no other."""
        self.link = FolderLink(folder, "box1")
        self.link.start()

    def receive(self) -> Arrival | None:
        """Return what arrived, if anything did."""
        return self.link.receive(0.0) if self.link is not None else None

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
        """Ask for it again."""
        if self.link is not None:
            self.link.send_missing(missing)


class Dock:
    """The box.

    Args:
        yard: Where its releases come from.
        folder: Where its ``box1`` is, or is made.
        open_link: Opens the link to the microcontroller; None: there is none.
        firmware: That part of its configuration.
        ring: The path of its frame ring, if it has one.
        storage: Its door to the disk.
        open_trial: Starts the trial of a candidate.
        follows: Whether its program runs what ``current`` names; else it says what it is told.
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
        storage: Storage | None = None,
        open_trial: OpenTrial = PassingTrial,
        follows: bool = True,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.patience_s = patience_s
        self.yard = yard
        place = folder / "box1"
        self.box = Box(place) if place.exists() else Box.make(place, roots=yard.roots)
        self.config = msgspec.structs.replace(
            self.box.config, firmware=firmware, frames=FramesConfig(ring=str(ring or ""))
        )
        self.open_link = open_link
        self.storage = storage or Storage()
        self.open_trial = open_trial
        self.program = Plug(self.box.state.path, follows=follows)
        self.crashes = 0
        self.later_s = 0.0
        self.states: list[UpdateState] = []
        self.start()

    @classmethod
    def with_trial(cls, yard: Yard, folder: Path, *, storage: Storage | None = None) -> Dock:
        """Return one with the real trial, whose program says only what the test wants."""
        return cls(yard, folder, storage=storage, open_trial=open_trial, follows=False)

    def start(self, stick: Stick | None = None) -> None:
        """Start the agent's update, again after a restart."""
        self.stick = stick or Stick()
        asked = AskedInThread(self.open_link, pause_s=0.0) if self.open_link else None
        self.update = Update(
            self.box.state,
            self.config,
            storage=self.storage,
            source=self.stick,
            program=self.program,
            crashes=lambda: self.crashes,
            changed=lambda journal: self.states.append(journal.state),
            open_trial=self.open_trial,
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
        self.stick.plug_in(self.yard.stick(version, rollout=rollout))
        self.turn()

    def turn(self) -> None:
        """Take what arrived, and do what is due."""
        while (arrival := self.stick.receive()) is not None:
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
        self.until_over()

    def defer(self, version: str) -> None:
        """Offer a release in the middle of an exam, for which it then waits."""
        self.program.busy = True
        self.offer(version)
        self.until_state(UpdateState.DEFERRED)

    def commit(self, version: str) -> None:
        """Offer a release, and let the program run it."""
        self.offer(version)
        self.until_state(UpdateState.PROBATION)
        self.program.infer(self.yard.manifest(version))
        self.until_state(UpdateState.COMMITTED)
        self.until_over()

    def go_on(self, seconds: float) -> None:
        """Let time pass for the deadlines, and a few turns."""
        self.later_s += seconds
        for _ in range(3):
            self.turn()

    def change_machine(self, *versions: str) -> None:
        """Restart on another machine than the one that these releases were gated on."""
        self.update.stop()
        for version in versions:
            self.update.store.write_machine(self.yard.manifest(version), Machine(system="other"))
        self.states.clear()
        self.start()

    def damage(self, version: str) -> None:
        """Let the release no longer pass its gate."""
        folder = self.update.store.release_folder(self.yard.manifest(version))
        model = folder / "model.onnx"
        model.unlink()
        model.write_bytes(b"rubbish")


@contextmanager
def docked(dock: Dock) -> Iterator[Dock]:
    """Yield a dock whose update is stopped in the end."""
    try:
        yield dock
    finally:
        dock.update.stop()
