"""Cold starts: what a box does after power-on, seen from outside, in fresh processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from asdic.contract.bench import ColdStart
from asdic.contract.variant import Variant
from asdic.device.bench.child import ColdAnswer, Request, ask
from asdic.device.bench.clock import Clock


@dataclass
class ColdPhase:
    """Starts the variant in ``folder`` in ``processes`` fresh processes, one after the other."""

    folder: Path
    variant: Variant
    clock: Clock
    processes: int
    threads: int
    simulate: bool
    look: Callable[[], None]
    _answers: list[tuple[ColdAnswer, float]] = field(default_factory=list)
    _from_disk: bool = True

    def run(self) -> None:
        """Measure."""
        request = Request(
            folders=(str(self.folder.resolve()),), threads=self.threads, simulate=self.simulate
        )
        for _ in range(self.processes):
            self._from_disk &= drop_from_cache(
                [self.folder / file.name for file in self.variant.files]
            )
            started_ns = self.clock.now_ns()
            answer = ask(request)
            process_s = (self.clock.now_ns() - started_ns) / 1e9
            if isinstance(answer, ColdAnswer):
                self._answers.append((answer, process_s))
            self.look()

    def result(self) -> ColdStart | None:
        """Return what was measured, or None where no process came to its end."""
        if not self._answers:
            return None
        builds = tuple(answer.build for answer, _ in self._answers if answer.build is not None)
        return ColdStart(
            load_s=tuple(answer.load_s for answer, _ in self._answers),
            first_ms=tuple(answer.first_ms for answer, _ in self._answers),
            process_s=tuple(process_s for _, process_s in self._answers),
            memory_bytes=tuple(answer.memory_bytes for answer, _ in self._answers),
            from_disk=self._from_disk,
            builds=builds or None,
        )


def drop_from_cache(paths: list[Path]) -> bool:
    """Ask the operating system to forget the content of ``paths``; say whether it took the hint.

    No privilege is needed. It is a hint: other programs that map the file keep it in memory.
    """
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            os.fdatasync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            return False
        finally:
            os.close(descriptor)
    return True
