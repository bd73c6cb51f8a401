"""``asdic bench``: how fast a variant is on this machine, and whether it answers as recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from asdic.cli.console import LazyGroup
from asdic.contract.errors import ConfigError, ReleaseError

if TYPE_CHECKING:
    from asdic.contract.bench import BenchReport
    from asdic.device.bench.frames import FrameSource
    from asdic.device.bench.settings import Settings

_F = TypeVar("_F", bound=Callable[..., Any])
FLEET_VERBS: Final = MappingProxyType(
    {"fleet": "asdic.cli.bench_fleet:fleet", "results": "asdic.cli.bench_fleet:results"}
)


class ThreadCounts(click.ParamType):  # type: ignore[type-arg]  # generic since click 8.4
    """Numbers of threads, ``1,2,4``."""

    name = "N[,N...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the numbers."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers such as 1,2", param, ctx)
        if not all(number >= 1 for number in numbers):
            self.fail("a number of threads is at least 1", param, ctx)
        return numbers


class DefaultRun(LazyGroup):
    """A group where the verb ``run`` may be left out: ``asdic bench VARIANT``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``run`` first, unless a verb or a question for help is there."""
        if args and args[0] not in {*self.list_commands(ctx), "-h", "--help"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


def measuring_options(command: _F) -> _F:
    """Add what ``asdic bench`` and ``asdic-agent bench`` have in common to a verb."""
    file = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
    for option in (
        click.option(
            "--html", "html_path", type=file, metavar="FILE", help="Write a page with plots."
        ),
        click.option(
            "--json",
            "json_path",
            is_flag=False,
            flag_value="-",
            type=file,
            metavar="[FILE]",
            help="Write the result (asdic-bench/1, docs/bench.schema.json); last in the line it "
            "prints.",
        ),
        click.option(
            "--frames",
            type=click.Path(path_type=Path, file_okay=False, exists=True),
            help="Folder of images to infer in turn.  [default: the golden set's inputs]",
        ),
        click.option(
            "--cold-starts",
            type=click.IntRange(0, 100),
            default=5,
            show_default=True,
            help="Fresh processes to start.",
        ),
        click.option(
            "--threads",
            type=ThreadCounts(),
            default=(),
            help="One run for each number, such as 1,2.  [default: all usable]",
        ),
        click.option(
            "--deadline-ms", type=float, help="When a paced frame is late.  [default: 1/fps]"
        ),
        click.option("--fps", type=float, help="Also measure at this frame rate."),
        click.option(
            "--minutes",
            default=0.0,
            help="Also measure for so long: does it get slower?  [default: no]",
        ),
        click.option(
            "--seconds",
            default=10.0,
            show_default=True,
            help="The most to take for the burst; it ends when the figures are certain enough.",
        ),
    ):
        command = option(command)
    return command


@click.group(cls=DefaultRun, verbs=FLEET_VERBS)
def bench() -> None:
    """Measure a variant on this machine: asdic bench VARIANT [OPTIONS].

    The verb `run` may be left out; its options are in `asdic bench run --help`.

    \b
    Examples:
      asdic bench variants/x86-openvino-int8
      asdic bench variants/x86-litert-int8 --fps 30 --minutes 10 --html out.html
      asdic bench variants-new/x86-litert-int8 --against variants-old/x86-litert-int8
      asdic bench diff before.json after.json --budget p99=+5%
      asdic bench fleet --to lab-1,lab-2 --minutes 10
    """


@bench.command()
@click.argument("folder", metavar="VARIANT", type=click.Path(path_type=Path))
@click.option(
    "--against",
    metavar="VARIANT2",
    type=click.Path(path_type=Path),
    help="Say whether VARIANT is faster or slower than this one.",
)
@click.option(
    "--restarts",
    type=click.IntRange(5, 20),
    default=5,
    show_default=True,
    help="Fresh processes of --against.",
)
@click.option(
    "--margin",
    default=3.0,
    show_default=True,
    help="Percent; --against calls a smaller difference none.",
)
@measuring_options
@click.option("--simulate", is_flag=True, help="Use the runtime that stands in for the target's.")
@click.option("--any-machine", is_flag=True, help="Measure a variant of another architecture too.")
def run(
    *,
    folder: Path,
    against: Path | None,
    restarts: int,
    margin: float,
    simulate: bool,
    any_machine: bool,
    frames: Path | None,
    json_path: Path | None,
    html_path: Path | None,
    **measuring: Any,
) -> None:
    """Measure the variant in the folder VARIANT, and run its golden check.

    Ctrl-C ends it with what was measured so far.

    \b
    Examples:
      asdic bench variants/x86-openvino-int8
      asdic bench variants/x86-litert-int8 --threads 1,2 --json out.json
      asdic bench variants/jetson-orin-int8 --simulate --json
      asdic bench variants/x86-litert-int8 --against variants/x86-openvino-int8 --seconds 60
    """
    from asdic.contract.files import canonical_json
    from asdic.device.bench.benchmark import run_benchmark
    from asdic.device.bench.settings import Settings

    settings = Settings(
        against=against,
        restarts=restarts,
        margin=margin / 100,
        simulate=simulate,
        any_machine=any_machine,
        **measuring,
    )
    report = run_benchmark(folder, settings, frames=frames_in(frames), on_phase=say_phase(settings))
    hand_over(report, canonical_json, json_path=json_path, html_path=html_path)


@bench.command()
@click.argument("before", type=click.Path(path_type=Path))
@click.argument("after", type=click.Path(path_type=Path))
@click.option(
    "--budget",
    "budgets",
    multiple=True,
    metavar="FIGURE=+N%",
    help="What a figure may lose at most; repeat for more.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the differences as JSON.")
def diff(before: Path, after: Path, budgets: tuple[str, ...], as_json: bool) -> None:
    """Compare two results; a figure that lost more than its budget gives exit code 1.

    \b
    Examples:
      asdic bench diff before.json after.json
      asdic bench diff before.json after.json --budget p99=+5% --budget accuracy=-0.5
    """
    from asdic.cli.console import print_json
    from asdic.device.bench.diff import diff as compare_results
    from asdic.device.bench.diff import differing_conditions, parse_budget
    from asdic.device.bench.signing import read_result

    parsed = [parse_budget(text) for text in budgets]
    a, b = (read_result(path).report for path in (before, after))
    changes = compare_results(a, b, parsed)
    if as_json:
        print_json({"changes": changes, "conditions": differing_conditions(a, b)})
    else:
        for line in (*(change.line for change in changes), *differing_conditions(a, b)):
            click.echo(line)
    worse = [change.figure for change in changes if change.regressed]
    if worse:
        raise ReleaseError(f"over budget: {', '.join(dict.fromkeys(worse))}")


def frames_in(folder: Path | None) -> FrameSource | None:
    """Return the images in ``folder``, or None where there is no folder."""
    if folder is None:
        return None
    from asdic.device.bench.frames import read_frames
    from asdic.device.runner.frames import image_paths

    return read_frames(image_paths(folder))


def say_phase(settings: Settings) -> Callable[[str], None]:
    """Return what tells a person on stderr which phase begins and how long it may take."""
    longest = {
        "burst": f"up to {settings.seconds:g} s",
        "paced": f"{settings.minutes * 60 or settings.seconds:g} s",
        "sustained": f"{settings.minutes:g} minutes",
        "comparison": f"{settings.restarts} restarts, about {settings.seconds * 1.5:.0f} s",
        "cold-start": f"{settings.cold_starts} processes",
    }

    def say(phase: str) -> None:
        length = f" ({longest[phase]})" if phase in longest else ""
        click.echo(f"{phase}{length} ...", err=True)

    return say


def hand_over(
    report: BenchReport,
    encode: Callable[[BenchReport], bytes],
    *,
    json_path: Path | None,
    html_path: Path | None,
) -> None:
    """Write and print ``report``.

    Raises:
        ReleaseError: The golden check failed; the result is printed first.
        ConfigError: The measurement ended before its time; the result is printed first.
        click.Abort: A person interrupted it; the result is printed first.
    """
    from asdic.contract.files import write_file

    if html_path is not None:
        from asdic.device.bench.plot import page

        write_file(html_path, page(report).encode())
    if json_path is not None and str(json_path) == "-":
        click.echo(encode(report))
    else:
        if json_path is not None:
            write_file(json_path, encode(report))
        _print_lines(report)
    if report.interrupted is not None:
        raise click.Abort
    if report.ended is not None:
        raise ConfigError(f"the benchmark ended early {report.ended}")
    for checked in report.runs:
        if checked.accuracy is not None and not checked.accuracy.passed:
            raise ReleaseError(f"the golden check failed: {checked.accuracy.reason}")


def _print_lines(report: BenchReport) -> None:
    from asdic.device.bench.text import lines_of

    for name, value in lines_of(report):
        click.echo(f"{name:<14}{value}")
