"""``asdic train``: from a folder of images and masks to a network that can be quantized."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from asdic.contract.errors import MissingPackageError

if TYPE_CHECKING:
    from rich.progress import Progress

    from asdic.training.data import Dataset
    from asdic.training.export import TrainingMetrics
    from asdic.training.fit import Epoch

PACKAGES: Final = ("torch", "scipy", "tomli_w", "rich")
PHANTOM_SEED: Final = 0


@click.command()
@click.option(
    "--data",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder with labels.csv, or with images and masks/ of the same names.",
)
@click.option(
    "--task", type=click.Choice(["segmentation"]), default="segmentation", show_default=True
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the trained model.",
)
@click.option(
    "--phantoms",
    type=click.IntRange(min=10),
    metavar="N",
    help="Make N synthetic ultrasound images in the --data folder first, always the same ones; "
    "those already there are used again.",
)
@click.option(
    "--epochs", type=click.IntRange(min=1), help="[default: from 10 to 60, fewer for more images]"
)
@click.option("--seconds", type=float, help="Begin no epoch after this time.")
@click.option(
    "--size",
    type=click.IntRange(32, 1024),
    default=128,
    show_default=True,
    help="Height and width of the network's input, a multiple of 16.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="Where torch computes.")
@click.option(
    "--resume",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="RUN",
    help="Begin with the weights of an earlier run.",
)
@click.option("--replace", is_flag=True, help="Give up the trained model that --out holds.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train(
    *,
    data: Path,
    task: str,
    out: Path,
    phantoms: int | None,
    epochs: int | None,
    seconds: float | None,
    size: int,
    seed: int,
    device: str,
    resume: Path | None,
    replace: bool,
    as_json: bool,
) -> None:
    """Train a small network, and judge it on images that it has not seen.

    The images of the split `train` are learnt from; those of `calib` judge, beside the best that
    a plain threshold of grey can do. The result is a folder for `asdic quantize`.

    \b
    Examples:
      asdic train --data breast/ --task segmentation --out runs/breast
      asdic train --data phantoms/ --phantoms 400 --out runs/first --epochs 12
      asdic train --data breast/ --out runs/longer --resume runs/breast --epochs 10
    """
    del task  # there is one so far; the option keeps commands valid when there are more
    _check_packages()
    from rich.console import Console
    from rich.progress import Progress

    from asdic.training.export import check_free
    from asdic.training.run import train_segmentation

    check_free(out, replace=replace)
    with Progress(console=Console(stderr=True)) as progress:
        bar = _Bar(progress)
        metrics = train_segmentation(
            _dataset(data, phantoms, bar),
            out,
            size=(size, size),
            epochs=epochs,
            seed=seed,
            device=device,
            initial=resume,
            seconds=seconds,
            replace=replace,
            progress=bar.show_epoch,
        )
    _show_result(metrics, out, as_json=as_json)


def _check_packages() -> None:
    """Miss a package now rather than after an hour of training."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingPackageError(package, "train")


def _dataset(folder: Path, phantoms: int | None, bar: _Bar) -> Dataset:
    from asdic.training.data import read_dataset
    from asdic.training.phantom import make_phantoms

    if phantoms is None:
        return read_dataset(folder)
    return make_phantoms(folder, count=phantoms, seed=PHANTOM_SEED, progress=bar.show_image)


class _Bar:
    """One line of progress on stderr for each phase of the work."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._images = progress.add_task("synthetic images", total=None, visible=False)
        self._epochs = progress.add_task("training", total=None)

    def show_image(self, done: int, total: int) -> None:
        self._progress.update(self._images, completed=done, total=total, visible=True)

    def show_epoch(self, epoch: Epoch, total: int) -> None:
        text = f"training: loss {epoch.loss:.3f}, Dice {epoch.dice:.1f}"
        self._progress.update(self._epochs, completed=epoch.number, total=total, description=text)


def _show_result(metrics: TrainingMetrics, out: Path, *, as_json: bool) -> None:
    from asdic.cli.console import print_json

    if as_json:
        print_json({"out": str(out), **msgspec.to_builtins(metrics)})
        return
    rows = (
        ("Dice", f"{metrics.dice:.1f} points on {metrics.lesion_images} images with a lesion"),
        ("baseline", f"{metrics.baseline:.1f} points by the best threshold of grey"),
        ("false alarms", _false_alarms(metrics)),
        (
            "network",
            f"{metrics.parameters:,} parameters, input {metrics.size[0]}x{metrics.size[1]}",
        ),
        ("fitted", f"{metrics.epochs} epochs of {metrics.images} images, {metrics.seconds:.0f} s"),
        ("written", str(out)),
    )
    for name, value in rows:
        click.echo(f"{name:<14}{value}")


def _false_alarms(metrics: TrainingMetrics) -> str:
    if metrics.false_alarm_percent is None:
        return "no images without a lesion to tell from"
    return f"{metrics.false_alarm_percent:.0f} % of {metrics.empty_images} images without a lesion"
