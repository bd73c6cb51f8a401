"""``asdic qualify``: from results of the maker's own boxes to the limits of a release."""

from __future__ import annotations

from pathlib import Path

import click

# The names of asdic.device.bench.qualify.WAIVABLE, so that --help stays light.
WAIVABLE = ("unsigned", "noisy", "throttled", "stand-in", "no-golden")


@click.command()
@click.argument(
    "results", nargs=-1, required=True, metavar="RESULT...", type=click.Path(path_type=Path)
)
@click.option(
    "--variant",
    "folder",
    required=True,
    type=click.Path(path_type=Path),
    help="Its variant.json gets the limits.",
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="HEX",
    help="Public key of a box whose signature counts (64 hex digits); repeat for more.",
)
@click.option(
    "--headroom",
    default=25.0,
    show_default=True,
    help="Percent that a device in the field may take more.",
)
@click.option(
    "--allow",
    multiple=True,
    type=click.Choice(WAIVABLE),
    help="Let a result count in spite of this; repeat for more.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the limits as JSON.")
def qualify(
    *,
    results: tuple[Path, ...],
    folder: Path,
    keys: tuple[str, ...],
    headroom: float,
    allow: tuple[str, ...],
    as_json: bool,
) -> None:
    """Turn signed results of lab boxes into the limits that devices enforce.

    Do this before `asdic pack`. The rule is in docs/bench.md.

    \b
    Examples:
      asdic qualify lab1.json lab2.json --variant variants/arm64-litert-int8 --key 5d1c...
      asdic qualify out.json --variant variants/x86-litert-int8 --allow unsigned --headroom 50
    """
    from asdic.cli.console import print_json
    from asdic.device.bench.qualify import qualify as qualify_variant
    from asdic.device.bench.signing import check_public_key, read_result

    trusted = [check_public_key(key) for key in keys]
    read = [(str(path), read_result(path, trusted=trusted)) for path in results]
    limits = qualify_variant(folder, read, headroom=headroom / 100, allow=allow)
    if as_json:
        print_json(limits)
        return
    click.echo(f"latency       {limits.latency_ms:g} ms at p50")
    click.echo(f"load          {limits.load_s:g} s")
    click.echo(f"memory        {limits.memory_bytes >> 20} MiB")
