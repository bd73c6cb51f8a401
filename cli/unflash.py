"""``asdic unflash``: take everything off a box that ``asdic flash`` has brought."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from asdic.cli.console import print_json
from asdic.cli.flash import site_options
from asdic.cli.fleet import fleet_option, json_option
from asdic.contract.errors import MissingPackageError


@click.command()
@click.argument("address", metavar="USER@HOST[:PORT]")
@site_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--keep-identity", is_flag=True, help="Leave the key: it comes back as itself.")
@fleet_option
@json_option
def unflash(
    *,
    address: str,
    yes: bool,
    keep_identity: bool,
    fleet: Path,
    as_json: bool,
    **options: str | None,
) -> None:
    """Stop the agent on a box, and remove it with its service, releases and state.

    The manager keeps what it knows of the device.

    \b
    Examples:
      asdic unflash admin@box7.example
      asdic unflash admin@box7.example --yes --keep-identity
    """
    try:
        from asdic.fleet.flash.host_keys import KnownHosts
        from asdic.fleet.flash.shelf import Done
        from asdic.fleet.flash.ssh import SshSession
        from asdic.fleet.flash.unflash import Unflash
        from asdic.fleet.flash.wish import Site, check_site
    except ImportError as error:
        raise MissingPackageError(error.name or "fabric", "fleet") from error

    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    site = Site(address=address, **given)
    check_site(site)
    session = SshSession.open(
        address,
        hosts=KnownHosts(fleet / "flash" / "known_hosts"),
        accepted=site.accept_host_key,
        identity=site.identity,
    )
    try:
        work = Unflash(session, site)
        doomed = work.examine()
        if doomed and not yes:
            click.echo("\n".join(doomed), err=True)
            click.confirm(f"Remove all this from {address}?", abort=True, err=True)
        gone = work.carry_out(
            keep_identity=keep_identity, say=lambda words: click.echo(words, err=True)
        )
    finally:
        session.close()
    Done(fleet / "flash" / "done.json").forget(address)
    if as_json:
        print_json({"address": address, "removed": gone})
    else:
        click.echo(f"{address}: {f'removed {len(gone)} entries' if gone else 'nothing to remove'}")
