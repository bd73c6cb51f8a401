"""The verb ``asdic quantize``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asdic.cli.console import print_json, print_table
from asdic.contract.errors import ConfigError, MissingPackageError

if TYPE_CHECKING:
    from rich.progress import TaskID

    from asdic.quantization.progress import Stage
    from asdic.quantization.report import QuantizationReport


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--target", "targets", multiple=True, required=True, help="May be given again.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="One folder a target.")
@click.option("--data", type=click.Path(path_type=Path), help="Images; default: the run's own.")
@click.option("--max-drop", default=0.5, show_default=True, help="Points that INT8 may lose.")
@click.option(
    "--min-agreement",
    default=80.0,
    show_default=True,
    help="Points of agreement with FP32, for images without labels.",
)
@click.option("--recipe", help="Pin one recipe, such as static-wi8-ai8-minmax.")
@click.option("--samples", default=64, show_default=True, help="Calibration images.")
@click.option("--size", help="HEIGHTxWIDTH of a TorchScript file's input.  [default: 256x256]")
@click.option("--seed", default=0, show_default=True, help="Of the choice of images.")
@click.option("--force", is_flag=True, help="Replace variants that exist.")
@click.option("--allow-fail", is_flag=True, help="Write variants that lost too much as well.")
@click.option("--json", "as_json", is_flag=True, help="Print the reports as JSON.")
def quantize(
    *,
    model: Path,
    targets: tuple[str, ...],
    out: Path,
    data: Path | None,
    max_drop: float,
    min_agreement: float,
    recipe: str | None,
    samples: int,
    size: str | None,
    seed: int,
    force: bool,
    allow_fail: bool,
    as_json: bool,
) -> None:
    """Quantize MODEL to INT8, one variant a target, each with a verdict.

    MODEL is the folder of a training run, or a TorchScript file. Images of the split `train`
    calibrate, those of `calib` judge; without labels INT8 is compared with FP32's own answers.

    \b
    Examples:
      asdic quantize runs/first --target x86-litert-int8 --out variants/
      asdic quantize runs/first --target x86-openvino-int8 --target jetson-orin-int8 \\
          --max-drop 1 --out variants/
      asdic quantize model.pt --data images/ --target arm64-litert-int8 --size 256x320 \\
          --out variants/
    """
    from asdic.quantization.quantize import Options, quantize_model
    from asdic.quantization.source import Reading

    options = Options(
        max_drop=max_drop,
        min_agreement=min_agreement,
        recipe=recipe,
        samples=samples,
        seed=seed,
        force=force,
        allow_fail=allow_fail,
    )
    with _progress() as stage:
        reports = quantize_model(
            model,
            targets,
            out,
            data=data,
            reading=Reading(size=_parse_size(size)),
            options=options,
            stage=stage,
        )
    if as_json:
        print_json(reports)
    else:
        _show(reports)


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
        from rich.text import Text
    except ImportError as error:
        raise MissingPackageError("rich", "quantize") from error

    class Time(ProgressColumn):
        """What is left where that can be known, and elsewhere what it took so far."""

        left, taken = TimeRemainingColumn(), TimeElapsedColumn()

        def render(self, task: Task) -> Text:
            known = task.total is not None and task.time_remaining is not None
            shown = (self.left if known else self.taken).render(task)
            return shown + Text(" left" if known else "", "dim")

    lines: dict[str, TaskID] = {}
    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[what]}"),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        Time(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
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


def _show(reports: list[QuantizationReport]) -> None:
    first = reports[0]
    print_table(
        f"{first.model}: {first.metric} in points, {first.samples} images",
        ("target", "FP32", "INT8", "drop (95 %)", "verdict"),
        [_accuracy_row(report) for report in reports],
    )
    print_table(
        "size and speed",
        ("target", "SQNR", "INT8", "FP32", "latency"),
        [_size_row(report) for report in reports],
    )
    for line in dict.fromkeys(line for report in reports for line in _lines(report)):
        click.echo(line)
    for report in reports:
        if report.verdict.value != "pass":
            click.secho(f"{report.target} is {report.summary}", fg="yellow", bold=True)


def _accuracy_row(report: QuantizationReport) -> tuple[str, ...]:
    low, high = report.ci95
    return (
        report.target,
        f"{report.fp32:.2f}",
        f"{report.int8:.2f}",
        f"{report.drop:+.2f} ({low:+.2f} to {high:+.2f})",
        report.verdict.value,
    )


def _size_row(report: QuantizationReport) -> tuple[str, ...]:
    sqnr = "equal" if report.sqnr_db is None else f"{report.sqnr_db:.1f} dB"
    ratio = report.latency_ratio
    return (
        report.target,
        sqnr,
        f"{report.bytes_int8 / 1000:.0f} kB",
        f"{report.bytes_fp32 / 1000:.0f} kB",
        "measure on the device" if ratio is None else f"{ratio:.2f} of FP32",
    )


def _lines(report: QuantizationReport) -> Iterator[str]:
    """Yield what the table has no room for."""
    if report.verdict.value == "pass":
        yield f"{report.target}: {report.summary}"
    yield f"{report.target}: judged by {report.judged_by}; recipe {report.recipe}"
    for one in report.tried:
        if one.recipe != report.recipe:
            came_to = one.reason if one.drop is None else f"a drop of {one.drop:.2f}"
            yield f"{report.target}: {one.recipe} was tried and came to {came_to}"
    if report.empty.images and report.empty.fp32_false_alarms is not None:
        yield (
            f"{report.target}: {report.empty.images} images with nothing to find, apart: "
            f"something found in {100 * report.empty.fp32_false_alarms:.0f} % by FP32, in "
            f"{100 * (report.empty.int8_false_alarms or 0.0):.0f} % by INT8"
        )
    for remark in report.remarks:
        yield f"{report.target}: {remark}"
    for assumption in report.assumptions:
        yield f"assumed: {assumption}"
