"""TensorRT's engines (plans) on disk: built here, for this chip, driver and power mode only.

A plan is machine code that TensorRT loads without checks; so none is ever shipped, and the folder
belongs to one user (``cache.py``).
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from asdic.contract.errors import AsdicError
from asdic.contract.files import canonical_json, read_bounded, write_file
from asdic.device.runner.cache import COMPILED_LIMIT_BYTES
from asdic.device.runner.cuda import Cuda

PLANS_KEPT: Final = 4
FACT_LIMIT_CHARACTERS: Final = 200
# What the plan was built with; a change of these settings is a change of this word.
SETTINGS: Final = "strongly-typed/1"
_SYSTEM_FACTS: Final = ("etc/nv_tegra_release", "proc/device-tree/model")
_POWER_MODE: Final = "var/lib/nvpmodel/status"


class Fingerprint(msgspec.Struct, frozen=True, kw_only=True):
    """All that a plan depends on. Where one of these changes, it is built, and gated, again."""

    model: str
    chip: str
    runtime: str
    driver: str
    system: str
    power_mode: str
    settings: str = SETTINGS

    @property
    def name(self) -> str:
        """A file name for it."""
        return hashlib.sha256(canonical_json(self)).hexdigest()[:32]


def fingerprint_of(
    model: bytes, *, runtime: str, cuda: Cuda, root: Path = Path("/")
) -> Fingerprint:
    """Return the fingerprint of a plan for ``model`` on this machine.

    Args:
        model: The ONNX file's bytes.
        runtime: TensorRT's version.
        cuda: The device.
        root: Where the system's files are: JetPack's release, the board's name, its power mode.
    """
    return Fingerprint(
        model="sha256:" + hashlib.sha256(model).hexdigest(),
        chip=cuda.chip,
        runtime=runtime,
        driver=cuda.driver,
        system=" ".join(_first_line(root / name) for name in _SYSTEM_FACTS).strip(),
        power_mode=_first_line(root / _POWER_MODE),
    )


class PlanCache:
    """Plans by fingerprint; the ``PLANS_KEPT`` newest ones stay.

    Args:
        folder: Where they are; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def read(self, fingerprint: Fingerprint) -> bytes | None:
        """Return the plan, or None where there is none or it is damaged."""
        if self._folder is None:
            return None
        try:
            stored = read_bounded(self._folder / f"{fingerprint.name}.plan", COMPILED_LIMIT_BYTES)
        except AsdicError:
            return None
        digest, plan = stored[:32], stored[32:]
        return plan if hashlib.sha256(plan).digest() == digest else None

    def write(self, fingerprint: Fingerprint, plan: bytes) -> None:
        """Keep the plan. A full disk or a limit only means that it is built again next time."""
        if self._folder is None:
            return
        with suppress(OSError, AsdicError):
            digest = hashlib.sha256(plan).digest()
            write_file(self._folder / f"{fingerprint.name}.plan", digest + plan)
            self._drop_old()

    def _drop_old(self) -> None:
        if self._folder is not None:
            plans = sorted(self._folder.glob("*.plan"), key=lambda path: path.stat().st_mtime_ns)
            for path in plans[:-PLANS_KEPT]:
                path.unlink()


def _first_line(path: Path) -> str:
    """Return a system file's first line, or nothing where there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(FACT_LIMIT_CHARACTERS)
    except OSError:
        return ""
    return text.strip("\0\n ").split("\n")[0]
