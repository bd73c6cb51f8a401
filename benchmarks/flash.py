"""What flashing a box takes: seconds, and bytes sent, for a first flash and for what comes after.

::

    .venv/bin/python -m benchmarks.flash --model MODEL > docs/benchmarks/flash.md

A real sshd on loopback, a real manager and agent, LiteRT and all wheels, no service manager (the
agent runs until it was heard). ``--model`` is a folder with keyword inputs and models, as the
tests' data. What a slow line would add is the bytes over its speed.
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
from typing import Final

from asdic.contract.release import Layout
from asdic.fleet.flash.flash import Outcome
from asdic.fleet.flash.wheelhouse import build_wheelhouse
from asdic.fleet.signing import ImageRepository
from tests.integration.test_serve import serving
from tests.support.flash_yard import TARGET, FlashYard, open_door, other_version
from tests.support.models import make_keyword_variant

RELEASES: Final = ("1.0.0", "1.1.0")
MIB: Final = 1 << 20


@dataclass(frozen=True)
class Row:
    """One flash: what it was, what it took, and what was done."""

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
    """Yield the rows, in the order of a box's life."""
    wheels = build_wheelhouse(
        cache,
        architecture=platform.machine(),
        python="{}.{}".format(*sys.version_info),
        runtime="litert",
        progress=lambda words: print(words, file=sys.stderr),
    )
    sign_releases(folder, data)
    box = folder / "box"
    box.mkdir()
    with open_door(folder / "ssh") as door, serving(folder):
        yard = FlashYard(folder=folder, box=box, door=door, wheels=wheels)
        yield row("first flash", yard.flash)
        yield row("again", yard.flash)
        yield row("another release", lambda: yard.flash(release=RELEASES[1]))
        yard.wheels = other_version(wheels, folder / "other", "0.2.0")
        yield row("another asdic, same runtime", lambda: yard.flash(release=RELEASES[1]))
        yield row("again", lambda: yard.flash(release=RELEASES[1]))


def sign_releases(folder: Path, data: Path) -> None:
    """Sign two releases of one network."""
    layout = Layout.create(folder / "releases")
    repository = ImageRepository(folder / "releases", folder / "keys")
    variant = make_keyword_variant(folder / "variant", data)
    for version in RELEASES:
        layout.add_release(version, {TARGET: variant})
        repository.sign(layout, version)


def row(name: str, flash: Callable[[], Outcome]) -> Row:
    """Return what one flash took."""
    outcome = flash()
    return Row(name, outcome.seconds, outcome.sent_bytes, outcome.done)


def page(rows: list[Row]) -> str:
    """Return the figures as a page."""
    today = datetime.datetime.now(datetime.UTC).date()
    lines = [
        "# Flashing a box",
        "",
        f"Printed by `python -m benchmarks.flash` on {today}: `asdic flash` over a real sshd on",
        "loopback, with the wheels of LiteRT, a small network and no service manager. Seconds are",
        "from the first look to the confirmed report; bytes are what was sent of files.",
        f"Machine: {os.cpu_count()} processors, Linux {platform.release()}, Python",
        f"{platform.python_version()}, load {os.getloadavg()[0]:.1f} at the end.",
        "",
        "| flash | seconds | sent, MiB | what was done |",
        "|---|---:|---:|---|",
    ]
    lines += [
        f"| {one.flash} | {one.seconds:.1f} | {one.sent_bytes / MIB:.1f} | "
        f"{'; '.join(one.done) or 'nothing'} |"
        for one in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
