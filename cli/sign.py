"""``asdic sign``: the author's word on what a release is."""

from __future__ import annotations

from pathlib import Path

import click

from asdic.cli.console import print_json


@click.command()
@click.argument("releases", type=click.Path(path_type=Path))
@click.option("--version", help="Only this release.  [default: all that are not signed yet]")
@click.option(
    "--keys",
    type=click.Path(path_type=Path),
    default=Path("keys"),
    show_default=True,
    help="Folder of the signing keys; made on first use.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def sign(releases: Path, version: str | None, keys: Path, as_json: bool) -> None:
    """Sign the releases in RELEASES with the author's keys (a TUF repository).

    Every blob is read and checked first. Signing again changes nothing, beside renewing what
    would expire soon: run it at least once a month.

    \b
    Examples:
      asdic sign releases/
      asdic sign releases/ --version 1.1.0 --keys /media/vault/keys
    """
    from asdic.contract.release import Layout
    from asdic.fleet.signing import ImageRepository

    layout = Layout.open(releases)
    versions = (version,) if version else layout.versions()
    for one in versions:
        layout.release(one)
    repository = ImageRepository(releases, keys)
    signed = {one: repository.sign(layout, one) for one in versions}
    if as_json:
        print_json({"keys_made": [str(path) for path in repository.made_keys], "signed": signed})
        return
    if repository.made_keys:
        click.echo(f"made new keys in {keys}: keep root.pem and targets.pem offline")
    for one, names in signed.items():
        click.echo(f"release {one}: " + (f"signed {', '.join(names)}" if names else "was signed"))
    if not signed:
        click.echo(f"{releases} holds no release; pack one with `asdic pack`")
