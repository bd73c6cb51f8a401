"""What flashing a box takes: seconds, and bytes sent, for a first flash and for what comes after.

::

    .venv/bin/python -m benchmarks.flash --model MODEL > docs/benchmarks/flash.md

A real sshd on loopback, a real manager and agent, LiteRT and all wheels, no service manager (the
agent runs until it was heard). ``--model`` is a folder with keyword inputs and models, as the
tests' data. What a slow line would add is the bytes over its speed. The arm64 box is emulated, so
its bytes are a box's and its seconds are not; it is left out where it cannot run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from asdic.contract.release import Layout
from asdic.fleet.flash.flash import Outcome
from asdic.fleet.flash.wheelhouse import Wheelhouse, build_wheelhouse
from asdic.fleet.signing import ImageRepository
from tests.integration.test_serve import serving
from tests.support import arm64_system
from tests.support.flash_yard import TARGET, FlashYard, open_door, other_version
from tests.support.models import make_keyword_variant
from tests.support.ssh_box import arm_ssh_box

RELEASES: Final = ("1.0.0", "1.1.0")
ARM_TARGET: Final = "arm64-litert-int8"
PATIENCE_S: Final = 300.0
MIB: Final = 1 << 20


@dataclass(frozen=True)
class Row:
    """One flash: of which box, what it was, what it took, and what was done."""

    box: str
    flash: str
    seconds: float
    sent_bytes: int
    done: tuple[str, ...]


def main() -> None:
    """Measure, and print the page or the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flash")
    parser.add_argument("--model", type=Path, required=True, help="the tests' data")
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/asdic/wheelhouse"))
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="asdic-flash-") as folder:
        rows = list(measured(Path(folder), options.model, options.cache.expanduser()))
    print(json.dumps([asdict(row) for row in rows], indent=2) if options.json else page(rows))


def measured(folder: Path, data: Path, cache: Path) -> Iterator[Row]:
    """Yield the rows, in the order of each box's life."""
    sign_releases(folder, data)
    box = folder / "box"
    box.mkdir()
    with serving(folder):
        with open_door(folder / "ssh") as door:
            wheels = wheels_for(cache, platform.machine(), "{}.{}".format(*sys.version_info))
            yard = FlashYard(folder=folder, box=box, door=door, wheels=wheels)
            yield from life_of(platform.machine(), yard)
        if arm64_system.unavailable_reason() is None:
            with arm_ssh_box(folder / "arm64") as arm:
                wheels = wheels_for(cache, "aarch64", arm.python)
                yard = FlashYard(
                    folder=folder, box=arm.folder, door=arm.door, wheels=wheels, device="arm-1"
                )
                yield from life_of(
                    "aarch64, emulated",
                    yard,
                    target=ARM_TARGET,
                    python="/usr/bin/python3",
                    patience_s=PATIENCE_S,
                )


def wheels_for(cache: Path, architecture: str, python: str) -> Wheelhouse:
    """Return the wheels of a box, which are brought before anything is measured."""
    return build_wheelhouse(
        cache,
        architecture=architecture,
        python=python,
        runtime="litert",
        progress=lambda words: print(words, file=sys.stderr),
    )


def life_of(box: str, yard: FlashYard, **wish: Any) -> Iterator[Row]:
    """Yield what the flashes of one box took."""
    newer = {**wish, "release": RELEASES[1]}
    wheels = yard.wheels
    yield row(box, "first flash", lambda: yard.flash(**wish))
    yield row(box, "again", lambda: yard.flash(**wish))
    yield row(box, "another release", lambda: yard.flash(**newer))
    yard.wheels = other_version(wheels, yard.box / "other", "0.2.0")
    yield row(box, "another asdic, same runtime", lambda: yard.flash(**newer))
    yield row(box, "again", lambda: yard.flash(**newer))


def sign_releases(folder: Path, data: Path) -> None:
    """Sign two releases of one network."""
    layout = Layout.create(folder / "releases")
    repository = ImageRepository(folder / "releases", folder / "keys")
    variants = {
        target: make_keyword_variant(folder / f"variant-{target}", data, target=target)
        for target in (TARGET, ARM_TARGET)
    }
    for version in RELEASES:
        layout.add_release(version, variants)
        repository.sign(layout, version)


def row(box: str, name: str, flash: Callable[[], Outcome]) -> Row:
    """Return what one flash took."""
    outcome = flash()
    print(f"{box}, {name}: {outcome.seconds} s", file=sys.stderr)
    return Row(box, name, outcome.seconds, outcome.sent_bytes, outcome.done)


def page(rows: list[Row]) -> str:
    """Return the figures as a page."""
    today = datetime.datetime.now(datetime.UTC).date()
    lines = [
        "# Flashing a box",
        "",
        f"Printed by `python -m benchmarks.flash` on {today}: `asdic flash` over a real sshd on",
        "loopback, with the wheels of LiteRT, a small network and no service manager. Seconds are",
        "from the first look to the confirmed report; bytes are what was sent of files. The wheels",
        "had been brought to this side before. What an emulated box takes in seconds says nothing",
        "of a real one.",
        f"Machine: {os.cpu_count()} processors, Linux {platform.release()}, Python",
        f"{platform.python_version()}, load {os.getloadavg()[0]:.1f} at the end.",
        "",
        "| box | flash | seconds | sent, MiB | what was done |",
        "|---|---|---:|---:|---|",
    ]
    lines += [
        f"| {one.box} | {one.flash} | {one.seconds:.1f} | {one.sent_bytes / MIB:.1f} | "
        f"{'; '.join(one.done) or 'nothing'} |"
        for one in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
