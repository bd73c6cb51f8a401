"""``asdic inspect``: what is in a release or a variant."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from asdic.cli.console import print_json, print_table

if TYPE_CHECKING:
    from asdic.fleet.releases import ReleaseView, VariantView


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("version", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def inspect(folder: Path, version: str | None, as_json: bool) -> None:
    """Show what the release folder (or the variant) FOLDER holds, with every digest checked.

    \b
    Examples:
      asdic inspect releases/
      asdic inspect releases/ 1.0.0 --json
      asdic inspect variants/x86-litert-int8
    """
    from asdic.contract.release import Layout
    from asdic.contract.variant import VARIANT_FILE, read_variant
    from asdic.fleet.releases import describe_release, describe_variant

    if (folder / VARIANT_FILE).is_file():
        variant = describe_variant(read_variant(folder))
        print_json(variant) if as_json else _print_variants(str(folder), (variant,))
        return
    layout = Layout.open(folder)
    versions = (version,) if version else layout.versions()
    views = [describe_release(layout, one) for one in versions]
    if as_json:
        print_json(views[0] if version else views)
        return
    for view in views:
        _print_release(view)
    if not views:
        click.echo(f"{folder} holds no release")


def _print_release(view: ReleaseView) -> None:
    signed = "signed" if view.signed else "not signed"
    title = f"Release {view.version} · {signed} · security counter {view.security_counter}"
    _print_variants(title, view.variants)
    for damage in view.damaged:
        click.echo(f"damaged: {damage}")


def _print_variants(title: str, variants: tuple[VariantView, ...]) -> None:
    print_table(
        title,
        ("target", "model", "runtime", "recipe", "size", "golden set", "manifest"),
        (
            (
                one.target,
                one.model,
                one.runtime,
                one.recipe,
                f"{one.size_bytes / 1024:.0f} KiB",
                one.golden,
                (one.manifest or "")[7:19],
            )
            for one in variants
        ),
    )
    for one in variants:
        if one.needs:
            click.echo(f"{one.target} needs {one.needs}")
        if one.firmware:
            click.echo(f"{one.target} brings firmware {one.firmware}")
