"""``asdic demo``: the main job, from a model to a fleet that proves it runs it."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Final

import click

from asdic.contract.errors import ConfigError

MARK: Final = ".asdic-demo"


@click.command()
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo"),
    show_default=True,
    help="Folder for everything that the demo makes; an earlier demo in it is replaced.",
)
def demo(out: Path) -> None:
    """Do the main job in front of your eyes, on this machine alone.

    Makes synthetic ultrasound images, trains a network, quantizes it for four targets, packs and
    signs releases, starts a fleet manager and six real agents, pushes three releases (the last
    one is broken on purpose) and rolls the fleet back. Leaves summary.json and report.html.

    \b
    Examples:
      asdic demo
      asdic demo --out /tmp/asdic-demo
    """
    from asdic.cli.demo.boxes import run_fleet
    from asdic.cli.demo.models import Place, make_models, make_releases
    from asdic.cli.demo.report import write_reports

    started = time.monotonic()
    place = Place(_cleared(out))
    make_models(place)
    make_releases(place)
    outcome = run_fleet(place)
    summary = write_reports(place, outcome, seconds=time.monotonic() - started)
    worst = {name: count for name, count in summary["forbidden"].items() if count}
    click.secho(f"\n{place.folder / 'summary.json'}", bold=True)
    click.secho(f"{place.folder / 'report.html'}: open it in a browser", bold=True)
    click.echo(f"{summary['seconds']:.0f} s in all")
    if worst:
        raise ConfigError(f"outcomes that must never happen were counted: {worst}")


def _cleared(out: Path) -> Path:
    """Return ``out`` with nothing of an earlier demo in it but the cached images."""
    if out.exists() and any(out.iterdir()) and not (out / MARK).is_file():
        raise ConfigError(f"{out} holds other files; choose another folder with --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARK).touch()
    for entry in out.iterdir():
        if entry.is_dir() and entry.name != "phantoms":
            shutil.rmtree(entry)
    return out.resolve()
