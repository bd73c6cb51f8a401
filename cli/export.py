"""``asdic export``: a release and its offers for devices without a network."""

from __future__ import annotations

from pathlib import Path

import click

from asdic.cli.console import print_json
from asdic.cli.fleet import fleet_option, json_option


@click.command()
@click.argument("version")
@click.option(
    "--to",
    "selection",
    default="all",
    show_default=True,
    help="all, device ids, or tag:key=value; comma-separated.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder to write.")
@fleet_option
@json_option
def export(version: str, selection: str, out: Path, fleet: Path, as_json: bool) -> None:
    """Write the signed release VERSION and an offer a device to a folder, as for a USB stick.

    The box makes the same checks as over the network: asdic-agent install FOLDER.

    \b
    Examples:
      asdic export 1.0.0 --to box-7 --out /media/usb/releases
    """
    from asdic.contract.release import Layout
    from asdic.fleet.client import FleetClient
    from asdic.fleet.releases import Exported, export_release

    wish = {"version": version, "selection": selection}
    exported = FleetClient(fleet).post("exports", wish, Exported)
    source = Layout.open(Path(exported.releases))
    size_bytes = export_release(source, version, exported.offers, out)
    if as_json:
        print_json({"folder": str(out), "bytes": size_bytes, "devices": sorted(exported.offers)})
        return
    click.echo(
        f"wrote release {version} ({size_bytes / 1024:.0f} KiB) and offers for "
        f"{', '.join(sorted(exported.offers))} to {out}"
    )
