"""``asdic-agent doctor``: what is wrong with this box."""

from __future__ import annotations

from pathlib import Path

import click

from asdic.cli.console import print_json
from asdic.cli.device import state_folder, state_option


@click.command()
@state_option
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@click.option(
    "--bundle",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.tar.gz",
    help="Also write what a support line needs; no image, no model and no key is in it.",
)
def doctor(*, state: Path, as_json: bool, bundle: Path | None) -> None:
    """Say what runs on this box, why it is not the newest, and what to do about it.

    It changes nothing, and works beside a running agent and on damaged files. The exit code is 1
    where something has to be done.

    \b
    Examples:
      asdic-agent doctor --state box1
      asdic-agent doctor --state box1 --json
      asdic-agent doctor --state box1 --bundle box1.tar.gz
    """
    from asdic.contract.errors import InstallError
    from asdic.device.bundle import write_bundle
    from asdic.device.doctor import diagnose

    here = state_folder(state)
    diagnosis = diagnose(here)
    if as_json:
        print_json(diagnosis)
    else:
        click.echo("\n".join(diagnosis.lines()))
    if bundle is not None:
        parts = write_bundle(bundle, here, diagnosis)
        click.echo(f"wrote {bundle}: {', '.join(parts)}", err=True)
    if diagnosis.errors:
        checks = ", ".join(sorted({one.check for one in diagnosis.errors}))
        raise InstallError(f"something has to be done: {checks}")
