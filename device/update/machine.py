"""What a release was gated on. Where that changes, the current release is gated again.

The agent imports no runtime, so it knows the system by itself, and what runs the model from the
trial and from the program's own word.
"""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.messages import RuntimeFacts

SYSTEM_FILES: Final = ("etc/os-release", "etc/nv_tegra_release", "var/lib/nvpmodel/status")
FILE_LIMIT_BYTES: Final = 1 << 16


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """The fingerprint of a machine at the gate.

    ``trial`` is what ran the model in the trial, ``program`` what the inferring program said of
    itself then; a program of the user's own may run it with something else. A current release that
    has not passed runs on where there is no other.
    """

    system: str
    trial: RuntimeFacts | None = None
    program: RuntimeFacts | None = None
    has_passed: bool = True

    def differs(self, system: str, program: RuntimeFacts | None) -> bool:
        """Return whether ``system``, or what ``program`` says (None: nothing yet), is new."""
        return system != self.system or program not in {None, self.trial, self.program}


def system_fingerprint(root: Path = Path("/")) -> str:
    """Return kernel and operating system image, with a Jetson's power mode, as one short word."""
    digest = hashlib.sha256(platform.release().encode())
    for name in SYSTEM_FILES:
        digest.update(b"\0" + _content(root / name))
    return digest.hexdigest()[:32]


def _content(path: Path) -> bytes:
    """Return the beginning of a system's file, or nothing where there is none."""
    try:
        with path.open("rb") as file:
            return file.read(FILE_LIMIT_BYTES)
    except OSError:
        return b""
