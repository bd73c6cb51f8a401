"""Row 9: the power goes while a real agent installs, on a real ext4 file system.

The state folder lies on an ext4 of its own, in a file behind a loop device. An install of 1.1.0
over 1.0.0 is stopped before a chosen change of the folder (``traced``); there ``FS_IOC_SHUTDOWN``
ends the file system as a power cut would: what was not synced by then is lost. The agent is
killed, the file system is mounted again, which replays its journal, the same stick is installed
whole, the box is judged, and e2fsck must find nothing.

The file system is mounted to be as hard as it can be: an fsync commits its journal and not the
clock, and ext4's own guess that a rename wants its data first is off.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from tests.faults.real_box import NEW, Stage, count_changes, install, install_until, judge
from tests.faults.row import Forbidden, Outcome, Row
from tests.faults.traced import lacks_tracing
from tests.support.boxes import Box

CUTS: Final = 20
IMAGE_BYTES: Final = 64 << 20
OPTIONS: Final = "loop,data=ordered,commit=300,noauto_da_alloc"
PROGRAMS: Final = ("mkfs.ext4", "e2fsck", "mount", "umount")
PATIENCE_S: Final = 60.0

FS_IOC_SHUTDOWN: Final = 0x8004_587D
FLAGS: Final[Mapping[str, int]] = MappingProxyType({"nologflush": 2, "logflush": 1})
"""Whether what the file system has journaled in memory still reaches the disk: no, and yes."""


@dataclass(frozen=True)
class Disk:
    """A file system in a file, and where it is mounted."""

    image: Path
    folder: Path

    def make(self) -> None:
        """Make it anew, empty."""
        with self.image.open("wb") as file:
            file.truncate(IMAGE_BYTES)
        _call("mkfs.ext4", "-q", "-F", str(self.image))

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        """Mount it; whatever happens, it is unmounted and detached.

        Raises:
            RuntimeError: It cannot be mounted, or somebody still uses it at the end.
        """
        self.folder.mkdir(exist_ok=True)
        _call("mount", "-o", OPTIONS, str(self.image), str(self.folder))
        try:
            yield self.folder
        finally:
            self._unmount()

    def cut_power(self, flag: int) -> None:
        """End the mounted file system where it stands."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("I", flag))
        finally:
            os.close(descriptor)

    def damage(self) -> str:
        """Return what e2fsck finds wrong with it, or nothing."""
        try:
            _call("e2fsck", "-fn", str(self.image))
        except RuntimeError as error:
            return str(error)
        return ""

    def _unmount(self) -> None:
        try:
            _call("umount", str(self.folder))
        except RuntimeError:  # Somebody is in there still; it goes when they do.
            _call("umount", "--lazy", str(self.folder))
            raise


def points() -> tuple[str, ...]:
    """Return the cuts: how far into the install, in percent of its changes, and which kind."""
    kinds = tuple(FLAGS)
    return tuple(
        f"{100 * (2 * cut + 1) // (2 * CUTS):02}% {kinds[cut % len(kinds)]}" for cut in range(CUTS)
    )


@contextmanager
def opened(folder: Path) -> Iterator[Callable[[str], Outcome]]:
    """Build the releases and the file system that all points start from, and count its changes."""
    stage = Stage.build(folder)
    template = Disk(folder / "template.img", folder / "disk")
    template.make()
    with template.mounted() as place:
        stage.copy_to(place)
    disk = Disk(folder / "point.img", folder / "disk")
    shutil.copyfile(template.image, disk.image)
    with disk.mounted():
        changes = count_changes(_box(disk), stage.sticks[NEW])

    def try_one(point: str) -> Outcome:
        shutil.copyfile(template.image, disk.image)
        share, kind = point.split("% ")
        return _try(stage, disk, point, number=int(share) * changes // 100, flag=FLAGS[kind])

    yield try_one


@cache
def lacks() -> str:
    """Return what is missing for a file system of our own, or nothing."""
    if missing := lacks_tracing():
        return missing
    if programs := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"needs the programs {', '.join(programs)}"
    if os.geteuid() != 0:
        return "needs root to mount a file system"
    with tempfile.TemporaryDirectory() as folder:
        disk = Disk(Path(folder) / "image", Path(folder) / "disk")
        try:
            disk.make()
            with disk.mounted():
                disk.cut_power(FLAGS["nologflush"])
        except (RuntimeError, OSError) as error:
            return f"no ext4 in a loop device here: {error}"
    return ""


def _try(stage: Stage, disk: Disk, point: str, *, number: int, flag: int) -> Outcome:
    """Cut the power before a change, let the next agent go on, and judge."""
    stick = stage.sticks[NEW]
    with disk.mounted():
        stopped = install_until(_box(disk), stick, number, fault=lambda: disk.cut_power(flag))
    with disk.mounted():
        box = _box(disk)
        outcome = judge(stage, box, point, stopped=stopped, again=install(box, stick))
    if damage := disk.damage():
        return msgspec.structs.replace(
            outcome,
            forbidden=(*outcome.forbidden, Forbidden.MIXED),
            detail=f"{outcome.detail}\n{damage}",
        )
    return outcome


def _box(disk: Disk) -> Box:
    """Return the box on a disk; its log lies elsewhere, and starts anew."""
    box = Box(disk.folder / "box1")
    box.log = disk.image.with_suffix(".log")
    box.log.unlink(missing_ok=True)
    return box


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise RuntimeError(f"{command[0]} ended with code {done.returncode}: {said}")


ROW: Final = Row(
    name="powercut",
    number=9,
    fault="power cut on a real ext4 (loop device, FS_IOC_SHUTDOWN) while a real agent installs",
    points=points,
    open=opened,
    jobs=1,
    sample=2,
    lacks=lacks,
)
