"""A program as the agent sees it: what it said last, and what its process shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import msgspec

from asdic.contract.messages import Loaded
from asdic.device.application import Call, HealthCall, LoadedCall, Program
from asdic.device.witness import Witness

SILENT_S: Final = 5.0
"""Health is due twice a second; who says nothing for so long is not known to infer any more."""


@dataclass(eq=False)
class Speaker:
    """One program, known by its process."""

    witness: Witness
    heard_s: float
    said: Program = field(default_factory=Program)

    def hear(self, call: Call, now_s: float) -> None:
        """Note what the program says."""
        self.heard_s = now_s
        match call:
            case LoadedCall():
                self.said = _acknowledged(self.said, call, self.witness.pid)
                self.witness.look_again()
            case HealthCall():
                self.said = _with_health(self.said, call)

    def program(self, now_s: float) -> Program:
        """Return what the program said, beside what its process shows."""
        said = self.said
        if said.loaded is None:
            return said
        loaded = msgspec.structs.replace(
            said.loaded,
            silent=now_s - self.heard_s >= SILENT_S or self.witness.is_stopped,
            holds=self.witness.held_beside(said.loaded.manifest),
        )
        return Program(loaded=loaded, runtime=said.runtime, health=said.health)


def _acknowledged(said: Program, call: LoadedCall, pid: int) -> Program:
    loaded = Loaded(
        manifest=call.manifest, version=call.version, pid=pid, inferences=call.inferences
    )
    is_same = said.health is not None and said.health.manifest == call.manifest
    return Program(loaded=loaded, runtime=call.runtime, health=said.health if is_same else None)


def _with_health(said: Program, call: HealthCall) -> Program:
    """Return ``said`` with new counts; a program that lets a model go has none loaded."""
    loaded = said.loaded
    if loaded is None or loaded.manifest not in {call.manifest, call.still}:
        return Program(health=call)
    if loaded.manifest == call.manifest:
        loaded = msgspec.structs.replace(loaded, inferences=call.inferences)
    return Program(loaded=loaded, runtime=said.runtime, health=call)
