"""The verb ``asdic quantize``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from asdic.cli.console import print_json
from asdic.contract.errors import ConfigError, MissingPackageError

if TYPE_CHECKING:
    from rich.progress import TaskID

    from asdic.quantization.progress import Stage


def _targets(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from asdic.contract.target import TARGETS

    return [name for name in sorted(TARGETS) if name.startswith(incomplete)]


def _metrics(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
    from asdic.device.metrics import FITS

    return [name for name in FITS if name.startswith(incomplete)]


@click.command()
@click.argument("model")
@click.option(
    "--target",
    "targets",
    multiple=True,
    required=True,
    shell_complete=_targets,
    help="May be given again.",
)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="One folder a target.")
@click.option(
    "--data",
    metavar="FOLDER|NPZ|MODULE:LOADER",
    help="Samples that calibrate and judge.  [default: the run's own]",
)
@click.option("--max-drop", default=0.5, show_default=True, help="Points that INT8 may lose.")
@click.option(
    "--min-agreement",
    default=80.0,
    show_default=True,
    help="Points of agreement with FP32, for samples without labels.",
)
@click.option(
    "--metric",
    shell_complete=_metrics,
    help="dice, iou, top1, auc, map or agreement.  [default: the model's own]",
)
@click.option("--recipe", help="Pin one recipe, such as static-wi8-ai8-minmax.")
@click.option("--max-rung", type=click.IntRange(min=1), help="Recipes to try at most.")
@click.option("--samples", default=64, show_default=True, help="Samples that calibrate.")
@click.option(
    "--group",
    "columns",
    multiple=True,
    metavar="COLUMN",
    help="Show the drop by the values of this column of labels.csv; may be given again.",
)
@click.option(
    "--drop-overlap",
    is_flag=True,
    help="Leave out samples that calibrate and resemble one that judges, instead of refusing.",
)
@click.option("--skip-unreadable", is_flag=True, help="Leave out files that cannot be read.")
@click.option("--size", help="HEIGHTxWIDTH of a TorchScript file's image.  [default: 256x256]")
@click.option(
    "--input-shape",
    "shapes",
    multiple=True,
    metavar="[NAME=]1x1x256x256",
    help="Fix an input that the model leaves open; may be given again.",
)
@click.option(
    "--weights", type=click.Path(path_type=Path), help="State dict for package.module:factory."
)
@click.option("--seed", default=0, show_default=True, help="Of the choice of samples.")
@click.option(
    "--report",
    "html_path",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.html",
    help="Write a page about all targets that opens without a network.",
)
@click.option("--force", is_flag=True, help="Replace variants that exist.")
@click.option("--allow-fail", is_flag=True, help="Write variants that lost too much as well.")
@click.option("--json", "as_json", is_flag=True, help="Print the reports as JSON.")
def quantize(
    *,
    model: str,
    targets: tuple[str, ...],
    out: Path,
    data: str | None,
    columns: tuple[str, ...],
    drop_overlap: bool,
    skip_unreadable: bool,
    size: str | None,
    shapes: tuple[str, ...],
    weights: Path | None,
    html_path: Path | None,
    as_json: bool,
    **choices: Any,
) -> None:
    """Quantize MODEL to INT8, one variant a target, each with a verdict.

    MODEL is the folder of a training run, a file (.pt2, .pt, .onnx, .keras, .tflite), the folder
    of a SavedModel, or package.module:factory with --weights. Samples of the split `train`
    calibrate, those of `calib` judge; without labels INT8 is compared with FP32's own answers.
    What the verdicts mean is in docs/quantize.md.

    \b
    Examples:
      asdic quantize runs/first --target x86-litert-int8 --out variants/ --report out.html
      asdic quantize runs/first --target x86-openvino-int8 --target jetson-orin-int8 \\
          --max-drop 1 --metric iou --out variants/
      asdic quantize scripted.pt --data images/ --target arm64-litert-int8 --size 256x320 \\
          --out variants/
      asdic quantize model.onnx --data samples.npz --input-shape image=1x3x224x224 \\
          --target jetson-orin-int8 --out variants/
      asdic quantize model.keras --data images/ --target x86-openvino-int8 --out variants/
      asdic quantize keywords.tflite --data samples.npz --target arm64-litert-int8 --out variants/
      asdic quantize nets.unet:build --weights unet.pt --input-shape 1x1x256x256 \\
          --data nets.samples:load --target x86-litert-int8 --out variants/
    """
    from asdic.contract.errors import AccuracyDropError
    from asdic.quantization.calibration import DataRules
    from asdic.quantization.frontends.shapes import parse_shapes
    from asdic.quantization.quantize import Options, quantize_model
    from asdic.quantization.source import Reading

    reading = Reading(shapes=parse_shapes(shapes), size=_parse_size(size), weights=weights)
    rules = DataRules(
        group_columns=columns, drop_overlap=drop_overlap, skip_unreadable=skip_unreadable
    )
    options = Options(rules=rules, **choices)
    try:
        with _progress() as stage:
            reports = quantize_model(
                model, targets, out, data=data, reading=reading, options=options, stage=stage
            )
    except AccuracyDropError as refusal:
        _tell(refusal.reports, html_path, as_json=as_json)
        raise
    _tell([out / one.target for one in reports], html_path, as_json=as_json)


def _tell(folders: Sequence[Path], html_path: Path | None, *, as_json: bool) -> None:
    from asdic.cli.report import show, write_page
    from asdic.quantization.report import read_report

    if html_path is not None:
        write_page(html_path, folders)
    reports = [read_report(folder) for folder in folders]
    if as_json:
        print_json(reports)
    else:
        show(reports)


@contextmanager
def _progress() -> Iterator[Stage]:
    """Show one line for each format or target: what happens now, and how long it will or does."""
    try:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            ProgressColumn,
            SpinnerColumn,
            Task,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.table import Column
        from rich.text import Text
    except ImportError as error:
        raise MissingPackageError("rich", "quantize") from error

    class Time(ProgressColumn):
        """What is left where that can be known, and elsewhere what it took so far."""

        left, taken = TimeRemainingColumn(), TimeElapsedColumn()

        def render(self, task: Task) -> Text:
            if task.finished or task.total is None or task.time_remaining is None:
                return self.taken.render(task)
            return self.left.render(task) + Text(" left", "dim")

    lines: dict[str, TaskID] = {}
    whole, rest = Column(no_wrap=True), Column(no_wrap=True, overflow="ellipsis", ratio=1)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[what]}", table_column=whole),
        TextColumn("{task.description}", table_column=rest),
        BarColumn(bar_width=12),
        Time(table_column=whole.copy()),
    )
    with Progress(*columns, console=Console(stderr=True), expand=True) as progress:
        texts: dict[str, str] = {}

        def stage(what: str, text: str, *, done: int = 0, total: int | None = None) -> None:
            if what not in lines:
                lines[what] = progress.add_task(text, what=what, total=total)
            elif texts[what] != text:
                progress.reset(lines[what], description=text, total=total)
            texts[what] = text
            progress.update(lines[what], completed=done, total=total)

        yield stage


def _parse_size(size: str | None) -> tuple[int, int] | None:
    if size is None:
        return None
    height, _, width = size.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ConfigError(f"--size is HEIGHTxWIDTH in pixels, such as 256x320, not {size!r}")
    return int(height), int(width)
