"""``asdic pack``: variants become one release."""

from __future__ import annotations

from pathlib import Path

import click

from asdic.cli.console import print_json


@click.command()
@click.argument("variants", type=click.Path(path_type=Path))
@click.option("--version", required=True, help="The release's version, like 1.2.0.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("releases"),
    show_default=True,
    help="Release folder; made if there is none.",
)
@click.option(
    "--security-counter",
    type=click.IntRange(min=0),
    default=1,
    show_default=True,
    help="Raise it to forbid every release with a lower one for good.",
)
@click.option("--target", "targets", multiple=True, help="Only this target; may be repeated.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def pack(
    *,
    variants: Path,
    version: str,
    out: Path,
    security_counter: int,
    targets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Pack the variants below VARIANTS as one release (an OCI image layout).

    The same variants under the same version are no change; other ones are refused.

    \b
    Examples:
      asdic pack variants/ --version 1.0.0 --out releases/
      asdic pack variants/ --version 1.0.1 --target x86-litert-int8 --target x86-openvino-int8
    """
    from asdic.contract.release import Layout, check_version
    from asdic.fleet.releases import describe_release, variant_folders

    check_version(version)
    folders = variant_folders(variants, targets)
    layout = Layout.create(out)
    layout.add_release(version, folders, security_counter=security_counter)
    view = describe_release(layout, version)
    if as_json:
        print_json(view)
        return
    names = ", ".join(variant.target for variant in view.variants)
    click.echo(f"packed release {version} with {len(view.variants)} variants: {names}")
    if not view.signed:
        click.echo(f"sign it with: asdic sign {out}")
