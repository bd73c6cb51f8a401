"""``asdic bench fleet`` and ``asdic bench results``: what devices measure at the fleet's word."""

from __future__ import annotations

from pathlib import Path

import click

from asdic.cli.fleet import fleet_option, json_option


@click.command()
@click.option(
    "--to",
    "selection",
    default="all",
    show_default=True,
    help="all, device ids, or tag:key=value; comma-separated.",
)
@click.option("--seconds", default=10.0, show_default=True, help="The most to take for the burst.")
@click.option("--minutes", default=0.0, help="Also measure for so long.  [default: no]")
@click.option("--fps", type=float, help="Also measure at this frame rate.")
@fleet_option
@json_option
def fleet(
    *,
    selection: str,
    seconds: float,
    minutes: float,
    fps: float | None,
    fleet: Path,
    as_json: bool,
) -> None:
    """Ask devices to measure the release that they run.

    Each does so when no exam and no update is in progress, now or when it is back; see
    `asdic bench results`.

    \b
    Examples:
      asdic bench fleet --to lab-1,lab-2 --minutes 10
      asdic bench fleet --to tag:site=north --fps 30
    """
    from asdic.cli.console import print_json
    from asdic.contract.bench import BenchOrder
    from asdic.fleet.client import FleetClient

    wish = {"selection": selection, "seconds": seconds, "minutes": minutes, "fps": fps}
    orders = FleetClient(fleet).post("benchmarks", wish, list[BenchOrder])
    if as_json:
        print_json(orders)
    for order in () if as_json else orders:
        click.echo(f"{order.device}: ordered, {order.id}")


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write each result there as its device signed it, for `asdic qualify`.",
)
@fleet_option
@json_option
def results(*, out: Path | None, fleet: Path, as_json: bool) -> None:
    """Show what devices measured, by release and target.

    \b
    Examples:
      asdic bench results
      asdic bench results --out results/
    """
    from asdic.cli.console import print_json, print_table
    from asdic.contract.files import write_file
    from asdic.fleet.client import FleetClient
    from asdic.fleet.measurements import BenchView

    client = FleetClient(fleet)
    views = client.get("benchmarks", list[BenchView])
    measured = [one for one in views if one.refusal is None]
    for one in measured if out is not None else ():
        found = client.get(f"benchmarks/{one.digest}", dict[str, str])
        name = f"{one.device}-{one.version}-{one.digest[7:15]}.json".replace("/", "-")
        path = Path(str(out)) / name
        write_file(path, found["envelope"].encode())
        click.echo(f"{path}, signed by {one.public_key}", err=True)
    if as_json:
        print_json(views)
        return
    print_table(
        "Benchmarks",
        ("release", "target", "device", "p50", "p99", "golden", "throttling", "quiet"),
        (
            (
                one.version,
                one.target,
                one.device,
                "-" if one.p50_ms is None else f"{one.p50_ms:.3g} ms",
                "too few" if one.p99_ms is None else f"{one.p99_ms:.3g} ms",
                "-" if one.points is None else f"{one.points:.2f}",
                one.throttling,
                "yes" if one.quiet else "no",
            )
            for one in measured
        ),
    )
    for one in views:
        if one.refusal is not None:
            click.echo(f"{one.device}: refused, {one.refusal.code}: {one.refusal.message}")
